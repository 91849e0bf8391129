//! What is told of a turn of `Ready`, and of what a tenant comes up against. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use realm_plan::{Reason, desired};
use sha2::{Digest as _, Sha256};

use super::conditions::{KEYS_EXPIRED, NO_AGENTS, NO_KEYS, OF_USE, REFUSED_AT};

/// Longest note of an event, in bytes, as the API server has it.
const NOTE_LEN_MAX: usize = 1024;

/// Reasons that end when something else comes: another object, a key, a node.
const ENDED_BY_OTHERS: [&str; 9] = [
    Reason::UnknownModel.as_str(),
    Reason::ModelNotShared.as_str(),
    Reason::ModelNotGranted.as_str(),
    Reason::UnknownTenant.as_str(),
    Reason::UnknownSecret.as_str(),
    Reason::NotEnoughNodes.as_str(),
    Reason::NoNodeAdmits.as_str(),
    NO_KEYS,
    KEYS_EXPIRED,
];

/// What is to be told.
pub(crate) struct Telling {
    pub event: Event,
    /// The reason of which a warning is put off, since it may yet end by itself.
    pub put_off: Option<String>,
}

/// The event of what `now` says that `before` did not, if there is one to be told: `Ready` has
/// turned, or what was on its way has become stuck.
pub(crate) fn of(before: &[Condition], now: &[Condition], is_young: bool) -> Option<Telling> {
    let (ready_before, ready) = (find(before, "Ready"), find(now, "Ready")?);
    let has_turned =
        ready_before.is_none_or(|old| (&old.status, &old.reason) != (&ready.status, &ready.reason));
    let is_stuck = stuck(now).is_some();
    let has_stuck = is_stuck && stuck(before).is_none();
    if !has_turned && !has_stuck {
        return None;
    }
    let is_early = is_stuck && is_early(before, &ready.reason, is_young);
    let type_ = if is_stuck && !is_early { EventType::Warning } else { EventType::Normal };
    let put_off = is_early.then(|| ready.reason.clone());
    Some(Telling { event: event(ready, type_, &ready.message), put_off })
}

/// The events of limits that begin to refuse calls, and of calls that wait behind others, or do no
/// longer. Nobody has to act: the tenant is served as it was agreed. At which doors is told by the
/// condition, of which more is known later.
pub(crate) fn of_use(before: &[Condition], now: &[Condition]) -> Vec<Event> {
    OF_USE.into_iter().filter_map(|type_| of_turn(type_, before, now)).collect()
}

fn of_turn(type_: &str, before: &[Condition], now: &[Condition]) -> Option<Event> {
    let was_false = find(before, type_).is_some_and(|it| it.status == "False");
    let now = find(now, type_)?;
    let turned_to = if was_false { "True" } else { "False" };
    let (note, _) = now.message.split_once(REFUSED_AT).unwrap_or((&now.message, ""));
    (now.status == turned_to).then(|| event(now, EventType::Normal, note))
}

/// The warning of what `now` says, which was put off.
pub(crate) fn warning(now: &[Condition]) -> Option<Event> {
    let ready = find(now, "Ready")?;
    Some(event(ready, EventType::Warning, &ready.message))
}

/// For what reason somebody has to do something before there are any calls. What serves may be less
/// than is wanted, which other conditions say.
pub(crate) fn stuck(conditions: &[Condition]) -> Option<&str> {
    find(conditions, "Stalled")?;
    let ready = find(conditions, "Ready").filter(|ready| ready.status != "True")?;
    Some(&ready.reason)
}

fn event(condition: &Condition, type_: EventType, note: &str) -> Event {
    let mut note = note.to_owned();
    note.truncate(note.floor_char_boundary(NOTE_LEN_MAX));
    Event {
        type_,
        reason: condition.reason.clone(),
        action: action(&note),
        note: Some(note),
        secondary: None,
    }
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether something is only missing as things come one after the other: to a young object, or the
/// first agents to one that waits for them and is not stuck yet.
fn is_early(before: &[Condition], reason: &str, is_young: bool) -> bool {
    let has_no_agents = find(before, "Ready").is_some_and(|before| before.reason == NO_AGENTS);
    let are_first_agents = has_no_agents && stuck(before).is_none();
    ENDED_BY_OTHERS.contains(&reason) && (is_young || are_first_agents)
}

/// What was done, with a mark of the note: events that differ in nothing but their notes are counted
/// as one, which shows the first note for ever. The mark is the same whichever leader tells.
fn action(note: &str) -> String {
    let digest = desired::Sha256(Sha256::digest(note).into()).to_string();
    format!("Reconcile-{digest:.16}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::status::conditions::{
        Finding, SERVED_PROMPTLY, Truth, WITHIN_LIMITS, conditions, progress,
    };

    const YOUNG: bool = true;
    const OLD: bool = false;

    fn said(status: Truth, reason: &str, message: &str, is_stalled: bool) -> Vec<Condition> {
        let ready = Finding::new("Ready", status, reason, message);
        let progress = progress(&ready, is_stalled);
        let findings = [ready].into_iter().chain(progress).collect();
        conditions(findings, &[], 1, Timestamp::UNIX_EPOCH)
    }

    fn served() -> Vec<Condition> {
        said(Truth::True, "Serving", "calls are served", false)
    }

    fn stuck_for(reason: &str, message: &str) -> Vec<Condition> {
        said(Truth::False, reason, message, true)
    }

    fn waits_for(reason: &str) -> Vec<Condition> {
        said(Truth::False, reason, "", false)
    }

    fn event_of(before: &[Condition], now: &[Condition]) -> Event {
        of(before, now, OLD).unwrap().event
    }

    /// The type of what is told, and of what a warning is put off.
    fn told(
        before: &[Condition],
        now: &[Condition],
        is_young: bool,
    ) -> (EventType, Option<String>) {
        let Telling { event, put_off } = of(before, now, is_young).unwrap();
        (event.type_, put_off)
    }

    const WARNED: (EventType, Option<String>) = (EventType::Warning, None);
    const SAID: (EventType, Option<String>) = (EventType::Normal, None);

    fn put_off(reason: &str) -> (EventType, Option<String>) {
        (EventType::Normal, Some(reason.to_owned()))
    }

    #[test]
    fn two_causes_of_one_reason_are_two_events_and_one_that_comes_again_is_counted() {
        let event = |message: &str| event_of(&served(), &stuck_for("UnknownModel", message));
        let (first, other) = (event("there is no model `a`"), event("there is no model `b`"));
        assert_eq!((&first.reason, first.type_), (&other.reason, other.type_));
        assert_ne!(first.action, other.action);
        assert_ne!(first.note, other.note);
        assert_eq!(first.action, event("there is no model `a`").action);
        // As the API server has it.
        assert!(first.action.len() <= 128, "{}", first.action);
    }

    #[test]
    fn the_mark_of_a_cause_is_the_same_in_every_build() {
        // The first half of the SHA-256 of "abc", after FIPS 180-2.
        assert_eq!(action("abc"), "Reconcile-ba7816bf8f01cfea");
    }

    fn of_use_alone(
        type_: &'static str,
        status: Truth,
        reason: &str,
        message: &str,
    ) -> Vec<Condition> {
        let finding = Finding::new(type_, status, reason, message);
        conditions(vec![finding], &[], 1, Timestamp::UNIX_EPOCH)
    }

    fn limits(status: Truth, reason: &str, message: &str) -> Vec<Condition> {
        of_use_alone(WITHIN_LIMITS, status, reason, message)
    }

    fn event_of_use(before: &[Condition], now: &[Condition]) -> Option<Event> {
        let mut events = of_use(before, now);
        assert!(events.len() < 2, "one condition has turned");
        events.pop()
    }

    #[test]
    fn limits_that_begin_to_refuse_calls_are_told_and_so_is_that_they_do_no_longer() {
        let within = limits(Truth::True, WITHIN_LIMITS, "none did");
        let refused = |doors: u32| {
            let message = format!("calls were refused: calls 8{REFUSED_AT}{doors} of 3 doors");
            limits(Truth::False, "Calls", &message)
        };
        for before in [&within[..], &[], &limits(Truth::Unknown, "NotTold", "")] {
            let event = event_of_use(before, &refused(1)).unwrap();
            assert_eq!((event.type_, event.reason.as_str()), (EventType::Normal, "Calls"));
            assert_eq!(event.note.as_deref(), Some("calls were refused: calls 8"));
            let again = event_of_use(before, &refused(2)).unwrap();
            assert_eq!(again.action, event.action, "it is counted, at whichever doors");
        }
        let event = event_of_use(&refused(1), &within).unwrap();
        assert_eq!((event.type_, event.reason.as_str()), (EventType::Normal, WITHIN_LIMITS));
        for (before, now) in [
            (refused(1), refused(2)),
            (refused(1), limits(Truth::False, "RequestsPerMinute", "")),
            (refused(1), limits(Truth::Unknown, "NotTold", "")),
            (limits(Truth::Unknown, "NotTold", ""), within.clone()),
            (Vec::new(), within.clone()),
            (within.clone(), within.clone()),
            (refused(1), Vec::new()),
        ] {
            assert!(event_of_use(&before, &now).is_none(), "{before:?} {now:?}");
        }
    }

    #[test]
    fn that_calls_wait_is_told_beside_limits() {
        let both = |status, promptly: &str| {
            let promptly = of_use_alone(SERVED_PROMPTLY, status, promptly, "calls waited");
            [limits(status, "Calls", "calls were refused"), promptly].concat()
        };
        let (before, now) =
            (both(Truth::True, SERVED_PROMPTLY), both(Truth::False, "BehindOthers"));
        let reasons = |before, now| -> Vec<String> {
            of_use(before, now).into_iter().map(|event| event.reason).collect()
        };
        assert_eq!(reasons(&before, &now), ["Calls", "BehindOthers"]);
        assert_eq!(reasons(&now, &now), [""; 0]);
    }

    #[test]
    fn only_a_turn_is_told() {
        let stuck = |message: &str| stuck_for("UnknownModel", message);
        assert!(of(&stuck("a"), &stuck("b"), OLD).is_none());
        assert!(of(&[], &stuck("a"), OLD).is_some());
        let paused = said(Truth::True, "Suspended", "", false);
        assert!(of(&served(), &paused, OLD).is_some());
    }

    #[test]
    fn what_may_yet_come_is_no_warning_and_one_is_put_off() {
        let missing = stuck_for("UnknownTenant", "");
        assert_eq!(told(&[], &missing, YOUNG), put_off("UnknownTenant"));
        assert_eq!(told(&[], &missing, OLD), WARNED);
        assert_eq!(told(&[], &stuck_for("OutOfRange", ""), YOUNG), WARNED);
        let event = warning(&missing).unwrap();
        assert_eq!((event.type_, event.reason.as_str()), (EventType::Warning, "UnknownTenant"));
    }

    #[test]
    fn a_warning_is_of_what_keeps_an_object_from_serving_and_of_nothing_else() {
        assert_eq!(stuck(&stuck_for("UnknownTenant", "")), Some("UnknownTenant"));
        assert_eq!(stuck(&waits_for("Loading")), None);
        assert_eq!(stuck(&served()), None);
    }

    #[test]
    fn that_something_serves_is_no_warning_even_if_more_is_wanted() {
        let few = Finding::new("Stalled", Truth::True, "NotEnoughNodes", "");
        let few = conditions(vec![few], &[], 1, Timestamp::UNIX_EPOCH);
        let serves = [served(), few].concat();
        assert_eq!(told(&stuck_for("NotEnoughNodes", ""), &serves, OLD), SAID);
        assert!(of(&served(), &serves, OLD).is_none(), "it serves as it did");
    }

    #[test]
    fn the_first_agents_of_a_cluster_are_too_few_and_the_warning_is_put_off() {
        let few = stuck_for("NotEnoughNodes", "");
        assert_eq!(told(&waits_for(NO_AGENTS), &few, OLD), put_off("NotEnoughNodes"));
        assert_eq!(told(&served(), &few, OLD), WARNED);
    }

    #[test]
    fn that_all_agents_went_is_a_warning_and_so_is_too_few_that_come_back() {
        let outage = stuck_for(NO_AGENTS, "");
        assert_eq!(told(&served(), &outage, OLD), WARNED);
        assert_eq!(told(&outage, &stuck_for("NotEnoughNodes", ""), OLD), WARNED);
    }

    #[test]
    fn what_was_on_its_way_and_is_stuck_is_warned_of_though_the_reason_is_the_same() {
        assert_eq!(told(&[], &waits_for(NO_AGENTS), YOUNG), SAID);
        assert_eq!(told(&waits_for(NO_AGENTS), &stuck_for(NO_AGENTS, ""), OLD), WARNED);
        assert!(of(&stuck_for(NO_AGENTS, ""), &stuck_for(NO_AGENTS, ""), OLD).is_none());
    }

    #[test]
    fn a_note_is_as_long_as_the_api_server_takes() {
        let long = "é".repeat(NOTE_LEN_MAX);
        let note = event_of(&[], &stuck_for("UnknownModel", &long)).note.unwrap();
        assert_eq!(note.len(), NOTE_LEN_MAX);
    }
}
