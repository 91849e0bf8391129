//! What is told of a turn of `Ready`. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use realm_plan::Reason;

use super::conditions::{NO_AGENTS, NO_KEYS};

/// Longest note of an event, in bytes, as the API server has it.
const NOTE_LEN_MAX: usize = 1024;

/// How young an object is whose references may yet be on their way: the files of one `kubectl apply`
/// come in any order within seconds, and a person who makes a tenant makes its first key next.
const ARRIVES_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// Reasons that end when something else comes: another object, a key, a node.
const ENDED_BY_OTHERS: [&str; 8] = [
    Reason::UnknownModel.as_str(),
    Reason::ModelNotShared.as_str(),
    Reason::ModelNotGranted.as_str(),
    Reason::UnknownTenant.as_str(),
    Reason::UnknownSecret.as_str(),
    Reason::NotEnoughNodes.as_str(),
    Reason::NoNodeAdmits.as_str(),
    NO_KEYS,
];

/// The event of what `now` says that `before` did not, of an object of that age, if there is one to
/// be told.
pub(super) fn of(
    before: &[Condition],
    now: &[Condition],
    age: Option<SignedDuration>,
) -> Option<Event> {
    let (before, ready) = (find(before, "Ready"), find(now, "Ready")?);
    if before.is_some_and(|old| (&old.status, &old.reason) == (&ready.status, &ready.reason)) {
        return None;
    }
    let is_stalled = find(now, "Stalled").is_some();
    // What has come to serve may be less than is wanted, which other conditions say.
    let is_warning = ready.status != "True" && is_stalled && !is_early(before, &ready.reason, age);
    let mut note = ready.message.clone();
    note.truncate(note.floor_char_boundary(NOTE_LEN_MAX));
    Some(Event {
        type_: if is_warning { EventType::Warning } else { EventType::Normal },
        reason: ready.reason.clone(),
        action: action(&note),
        note: Some(note),
        secondary: None,
    })
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether something is only missing as things come one after the other.
fn is_early(before: Option<&Condition>, reason: &str, age: Option<SignedDuration>) -> bool {
    let is_young = age.is_some_and(|age| age < ARRIVES_WITHIN);
    let has_first_agents = before.is_some_and(|before| before.reason == NO_AGENTS);
    ENDED_BY_OTHERS.contains(&reason) && (is_young || has_first_agents)
}

/// What was done, with a mark of the note: events that differ in nothing but their notes are counted
/// as one, which shows the first note for ever.
fn action(note: &str) -> String {
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    format!("Reconcile-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::status::conditions::{Finding, Truth, conditions, progress};

    /// Of one day, by which everything has come.
    const OLD: Option<SignedDuration> = Some(SignedDuration::from_hours(24));
    const YOUNG: Option<SignedDuration> = Some(SignedDuration::from_secs(5));

    fn said(status: Truth, reason: &str, message: &str) -> Vec<Condition> {
        let ready = Finding::new("Ready", status, reason, message);
        let progress = progress(&ready, status == Truth::False);
        let findings = [ready].into_iter().chain(progress).collect();
        conditions(findings, &[], 1, Timestamp::UNIX_EPOCH)
    }

    fn stuck(reason: &str, message: &str) -> Vec<Condition> {
        said(Truth::False, reason, message)
    }

    fn type_of(before: &[Condition], now: &[Condition], age: Option<SignedDuration>) -> EventType {
        of(before, now, age).unwrap().type_
    }

    #[test]
    fn two_causes_of_one_reason_are_two_events_and_one_that_comes_again_is_counted() {
        let served = said(Truth::True, "Serving", "calls are served");
        let event = |message: &str| of(&served, &stuck("UnknownModel", message), OLD).unwrap();
        let (first, other) = (event("there is no model `a`"), event("there is no model `b`"));
        assert_eq!((&first.reason, first.type_), (&other.reason, other.type_));
        assert_ne!(first.action, other.action);
        assert_ne!(first.note, other.note);
        assert_eq!(first.action, event("there is no model `a`").action);
        // As the API server has it.
        assert!(first.action.len() <= 128, "{}", first.action);
    }

    #[test]
    fn only_a_turn_is_told() {
        let stuck = |message: &str| stuck("UnknownModel", message);
        assert!(of(&stuck("a"), &stuck("b"), OLD).is_none());
        assert!(of(&[], &stuck("a"), OLD).is_some());
        let paused = said(Truth::True, "Suspended", "");
        assert!(of(&said(Truth::True, "Serving", ""), &paused, OLD).is_some());
    }

    #[test]
    fn what_may_yet_come_is_no_warning_and_what_has_not_come_is() {
        let missing = stuck("UnknownTenant", "");
        assert_eq!(type_of(&[], &missing, YOUNG), EventType::Normal);
        assert_eq!(type_of(&[], &missing, OLD), EventType::Warning);
        assert_eq!(type_of(&[], &missing, None), EventType::Warning);
        assert_eq!(type_of(&[], &stuck("OutOfRange", ""), YOUNG), EventType::Warning);
    }

    #[test]
    fn that_something_serves_is_no_warning_even_if_more_is_wanted() {
        let few = Finding::new("Stalled", Truth::True, "NotEnoughNodes", "");
        let few = conditions(vec![few], &[], 1, Timestamp::UNIX_EPOCH);
        let serves = [said(Truth::True, "Serving", ""), few].concat();
        assert_eq!(type_of(&stuck("NotEnoughNodes", ""), &serves, OLD), EventType::Normal);
    }

    #[test]
    fn the_first_agents_of_a_cluster_are_too_few_without_a_warning() {
        let nobody = said(Truth::False, NO_AGENTS, "");
        let few = stuck("NotEnoughNodes", "");
        assert_eq!(type_of(&nobody, &few, OLD), EventType::Normal);
        let served = said(Truth::True, "Serving", "");
        assert_eq!(type_of(&served, &few, OLD), EventType::Warning);
    }

    #[test]
    fn a_note_is_as_long_as_the_api_server_takes() {
        let long = "é".repeat(NOTE_LEN_MAX);
        let note = of(&[], &stuck("UnknownModel", &long), OLD).unwrap().note.unwrap();
        assert_eq!(note.len(), NOTE_LEN_MAX);
    }
}
