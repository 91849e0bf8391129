//! What a program asks of a generation becomes one that the engine may be given.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::{
    books::Way,
    call::Deadline,
    constraint::Constraint,
    desired::DesiredTenant,
    engine::{EngineInfo, Generation, Sampling},
    refusal::Refusal,
    sampling::{check_bias, check_stop},
};

use crate::bindings::realm::tenant::model::{self, Bias, Params};

/// Checks ranges and cuts the answer to what the context and the tenant's limits leave of it, though
/// to no less than the `resumed` tokens that there are: where a limit has been lowered meanwhile the
/// answer has come to its end, and nothing is wrong with it.
pub(super) fn check(
    tenant: &DesiredTenant,
    deadline: Deadline,
    info: &EngineInfo,
    (prompt, resumed): (Vec<u32>, usize),
    params: Params,
) -> Result<Generation, Refusal> {
    let Params { sampling, bias, logprobs, tokens_max, stop, constraint, shared_tokens } = params;
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
    let resumed = u32::try_from(resumed).unwrap_or(u32::MAX);
    let allowed = rest.min(tenant.limits.output_tokens_max).max(resumed);
    let tokens_max = tokens_max.map_or(allowed, |asked| asked.min(allowed));
    let sampling = sampling_of(sampling, logprobs);
    sampling.check()?;
    let bias: Vec<_> = bias.into_iter().map(|Bias { id, by }| (id, by)).collect();
    check_bias(&bias, info.vocabulary)?;
    check_stop(&stop)?;
    let constraint = constraint.map(constraint_of);
    constraint.as_ref().map_or(Ok(()), Constraint::check)?;
    Ok(Generation {
        prompt,
        shared_tokens,
        sampling,
        bias,
        tokens_max: Some(tokens_max),
        stop,
        constraint,
        deadline: Some(deadline.at()),
        resume: None,
        way: Way::Direct,
        milestones: None,
    })
}

/// What leads to one token, the likeliest.
pub(super) const fn shortest(shared_tokens: u32) -> Params {
    let sampling = model::Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: None,
    };
    Params {
        sampling,
        bias: Vec::new(),
        logprobs: None,
        tokens_max: Some(1),
        stop: Vec::new(),
        constraint: None,
        shared_tokens,
    }
}

fn sampling_of(sampling: model::Sampling, logprobs: Option<u32>) -> Sampling {
    let model::Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
    } = sampling;
    Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        logprobs,
        seed,
    }
}

fn constraint_of(constraint: model::Constraint) -> Constraint {
    match constraint {
        model::Constraint::JsonObject => Constraint::JsonObject,
        model::Constraint::JsonSchema(schema) => Constraint::JsonSchema(schema),
        model::Constraint::Regex(regex) => Constraint::Regex(regex),
        model::Constraint::Grammar(rules) => Constraint::Lark(rules),
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::Invalid(message.to_owned())
}
