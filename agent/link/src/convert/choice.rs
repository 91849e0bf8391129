//! How a step of a pipeline chooses its tokens.

use realm_core::desired::Choice;
use realm_proto::link::v1 as proto;

use super::ConvertError;

/// `None` where it says nothing: a step of before has none.
pub(super) fn choice_to(choice: &Choice) -> Option<proto::pipeline::Choice> {
    let Choice {
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
    } = choice;
    let said = proto::pipeline::Choice {
        top_k: *top_k,
        top_p: *top_p,
        min_p: *min_p,
        typical_p: *typical_p,
        repetition_penalty: *repetition_penalty,
        frequency_penalty: *frequency_penalty,
        presence_penalty: *presence_penalty,
        seed: *seed,
        stop: stop.clone(),
    };
    (*choice != Choice::default()).then_some(said)
}

pub(super) fn choice_from(choice: proto::pipeline::Choice) -> Result<Choice, ConvertError> {
    let proto::pipeline::Choice {
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
    } = choice;
    let numbers =
        [top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty];
    if numbers.into_iter().flatten().any(|number| !number.is_finite()) {
        return Err(ConvertError::NotFinite { field: "pipeline.steps.choice" });
    }
    Ok(Choice {
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
    })
}
