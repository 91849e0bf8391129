//! Probabilities of tokens on their way into a program and back out of it.

use realm_core::{
    engine::{LOGPROB_MIN, Logprobs, ScoredToken},
    refusal::Refusal,
};

use crate::{bindings::realm::tenant::types, refusal::Ended};

/// What a program is told.
pub(super) fn tell(Logprobs { chosen, top }: Logprobs) -> types::Logprobs {
    let scored = |ScoredToken { id, bytes, logprob }| types::ScoredToken { id, bytes, logprob };
    types::Logprobs { chosen: scored(chosen), top: top.into_iter().map(scored).collect() }
}

/// What a program says, which need not be what it was told.
pub(super) fn read(told: Vec<types::Logprobs>) -> Result<Vec<Logprobs>, Ended> {
    told.into_iter()
        .map(|types::Logprobs { chosen, top }| {
            let top = top.into_iter().map(scored).collect::<Result<_, _>>()?;
            Ok(Logprobs { chosen: scored(chosen)?, top })
        })
        .collect()
}

fn scored(token: types::ScoredToken) -> Result<ScoredToken, Ended> {
    let types::ScoredToken { id, bytes, logprob } = token;
    if (LOGPROB_MIN..=0.0).contains(&logprob) {
        return Ok(ScoredToken { id, bytes, logprob });
    }
    let message = format!("it wrote a logprob that is not from {LOGPROB_MIN} to 0");
    Err(Ended(Refusal::ProgramFailed(message)))
}
