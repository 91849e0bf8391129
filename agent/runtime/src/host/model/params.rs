//! What a program asks of a generation becomes one that the engine may be given.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::{
    call::Deadline,
    desired::DesiredTenant,
    engine::{EngineInfo, Generation, Sampling},
    refusal::Refusal,
};

use crate::bindings::realm::tenant::model::Params;

/// Beyond this every token is as likely as the next.
const TEMPERATURE_MAX: f32 = 5.0;

/// Stop strings of a generation, and bytes of each: every token is held against all of them.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;

/// Checks ranges and cuts the answer to what the context and the tenant's limit leave of it.
pub(super) fn check(
    tenant: &DesiredTenant,
    deadline: Deadline,
    info: &EngineInfo,
    prompt: Vec<u32>,
    params: Params,
) -> Result<Generation, Refusal> {
    let Params { sampling, tokens_max, stop } = params;
    if prompt.is_empty() {
        return Err(invalid("the prompt has no tokens"));
    }
    if let Some(id) = prompt.iter().find(|id| **id >= info.vocabulary) {
        let vocabulary = info.vocabulary;
        let message = format!("token {id} is not in the vocabulary of {vocabulary}");
        return Err(Refusal::Invalid(message));
    }
    let context = info.context.min(tenant.limits.context_max);
    let rest = u32::try_from(prompt.len()).ok().and_then(|used| context.checked_sub(used));
    let Some(rest) = rest.filter(|rest| *rest > 0) else {
        let tokens_max = usize::try_from(context).unwrap_or(usize::MAX);
        return Err(Refusal::TooLong { tokens: prompt.len(), tokens_max });
    };
    if tokens_max == Some(0) {
        return Err(invalid("`max_tokens` must be at least 1"));
    }
    check_stop(&stop)?;
    Ok(Generation {
        prompt,
        sampling: check_sampling(&sampling)?,
        bias: Vec::new(),
        tokens_max: Some(tokens_max.map_or(rest, |tokens_max| tokens_max.min(rest))),
        stop,
        constraint: None,
        deadline: Some(deadline.at()),
        resume: None,
        milestones: None,
    })
}

fn check_stop(stop: &[String]) -> Result<(), Refusal> {
    let proper = |stop: &String| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX;
    if stop.len() <= STOPS_MAX && stop.iter().all(proper) {
        return Ok(());
    }
    let message = format!("`stop` holds at most {STOPS_MAX} texts of 1 to {STOP_BYTES_MAX} bytes");
    Err(Refusal::Invalid(message))
}

/// The comparisons are written so that NaN fails each of them.
fn check_sampling(
    sampling: &crate::bindings::realm::tenant::model::Sampling,
) -> Result<Sampling, Refusal> {
    let crate::bindings::realm::tenant::model::Sampling { temperature, top_k, top_p, min_p, seed } =
        *sampling;
    if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
        return Err(Refusal::Invalid(format!("`temperature` must be from 0 to {TEMPERATURE_MAX}")));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(invalid("`top_p` must be above 0 and at most 1"));
    }
    if !(0.0..=1.0).contains(&min_p) {
        return Err(invalid("`min_p` must be from 0 to 1"));
    }
    Ok(Sampling { temperature, top_k, top_p, min_p, seed, ..Sampling::default() })
}

fn invalid(message: &str) -> Refusal {
    Refusal::Invalid(message.to_owned())
}
