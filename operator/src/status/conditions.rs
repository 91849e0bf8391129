//! Conditions after KEP-1623: what is true of an object, why, and since when. Pure.

use std::iter;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use realm_plan::{Name, Problem};

use crate::{fleet::standing::Holders, link::report::Failure};

/// Longest message, in bytes: what the API server takes of a condition.
const MESSAGE_LEN_MAX: usize = 32_768;

/// The reason of an object that is deleted and still held.
const DELETING: &str = "Deleting";

/// Problems named in one message; the rest are counted.
const PROBLEMS_NAMED_MAX: usize = 8;

/// The reason that says nothing is wrong, and some nodes are not there yet.
pub(crate) const PREPARING: &str = "Preparing";

/// The reason that says no node has the object.
pub(crate) const NO_AGENTS: &str = "NoAgents";

/// What to do where there is no agent at all.
pub(crate) const NO_AGENT_IS_CONNECTED: &str =
    "no agent is connected; `realm info --cluster` says which of their Pods run";

/// The reason that says nobody serves the models that are asked for.
pub(crate) const MODEL_NOT_SERVED: &str = "ModelNotServed";

/// The reason that says agents are there, and none of them is a door.
pub(crate) const NO_DOOR: &str = "NoDoor";

/// The reason of a tenant that nobody can call.
pub(crate) const NO_KEYS: &str = "NoKeys";

/// The reason of a tenant that nobody can call any more.
pub(crate) const KEYS_EXPIRED: &str = "KeysExpired";

/// Whether a tenant's limits let all of its calls in. No part of `Ready`: one that is at its limits
/// is served as it was agreed.
pub(crate) const WITHIN_LIMITS: &str = "WithinLimits";

/// Whether a tenant's calls wait for nobody else's. No part of `Ready` either: one whose turn is after
/// others' is served as it was agreed.
pub(crate) const SERVED_PROMPTLY: &str = "ServedPromptly";

/// The conditions that say what a tenant has come up against, which turn with what is asked and not
/// with what is wanted.
pub(crate) const OF_USE: [&str; 2] = [WITHIN_LIMITS, SERVED_PROMPTLY];

/// What comes before how many doors refuse calls.
pub(crate) const REFUSED_AT: &str = "; at ";

/// Models named in one message; the rest are counted.
const MODELS_NAMED_MAX: usize = 8;

/// What holds of an object, in one respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub type_: &'static str,
    pub status: Truth,
    /// CamelCase, part of the API.
    pub reason: String,
    /// The cause with its numbers.
    pub message: String,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Finding {
    pub(crate) fn new(
        type_: &'static str,
        status: Truth,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, status, reason: reason.into(), message: message.into() }
    }

    /// `False` for the first of `problems`, naming them all.
    pub(crate) fn problems(type_: &'static str, problems: &[&Problem]) -> Option<Self> {
        let first = problems.first()?;
        let mut message: Vec<String> = problems
            .iter()
            .take(PROBLEMS_NAMED_MAX)
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        if let Some(more) = problems.len().checked_sub(PROBLEMS_NAMED_MAX).filter(|n| *n > 0) {
            message.push(format!("and {more} more"));
        }
        Some(Self::new(type_, Truth::False, first.reason.as_str(), message.join("; ")))
    }

    pub(crate) fn is_true(&self) -> bool {
        self.status == Truth::True
    }
}

/// `ModelsReady` of an object that waits for `missing`.
pub(crate) fn models_missing(missing: &[Name]) -> Finding {
    let mut named: Vec<_> =
        missing.iter().take(MODELS_NAMED_MAX).map(ToString::to_string).collect();
    if let Some(more) = missing.len().checked_sub(MODELS_NAMED_MAX).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    let message = format!("no agent serves {}", named.join(", "));
    Finding::new("ModelsReady", Truth::False, MODEL_NOT_SERVED, message)
}

/// The two conditions by which kstatus (and `kubectl wait`, Flux, Argo CD) tells what is under way
/// from what is stuck. Each is there only while it is true.
pub(crate) fn progress(ready: &Finding, is_stalled: bool) -> Option<Finding> {
    if ready.is_true() {
        None
    } else if is_stalled {
        Some(Finding::new("Stalled", Truth::True, ready.reason.clone(), ready.message.clone()))
    } else {
        Some(Finding::new("Reconciling", Truth::True, ready.reason.clone(), ready.message.clone()))
    }
}

/// The same findings of an object of whose spec an agent has refused the state: one that goes on
/// with an older spec, in rights and limits too, is told of where everything else is well.
pub(crate) fn held_back(
    mut findings: Vec<Finding>,
    refused: Option<&(String, Failure)>,
) -> Vec<Finding> {
    let ready = findings.iter_mut().find(|finding| finding.type_ == "Ready" && finding.is_true());
    if let (Some(ready), Some((node, Failure { reason, message }))) = (ready, refused) {
        let message = format!("{node} goes on with an older spec: {reason}: {message}");
        *ready = Finding::new("Ready", Truth::False, "StateRefused", message);
        let stalled = progress(ready, true);
        findings.extend(stalled);
    }
    findings
}

/// The conditions of a deleted object that these nodes still hold: `Ready` says so, and the others
/// are what they were.
pub(crate) fn leaving(
    before: &[Condition],
    holders: &Holders,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let Holders { named, others } = holders;
    let others = if *others > 0 { format!(" and {others} more") } else { String::new() };
    let message = format!("agents that have not let go of it: {}{others}", named.join(", "));
    let ready = Finding::new("Ready", Truth::False, DELETING, message);
    let progress = progress(&ready, false);
    let is_kept = |old: &&Condition| !["Ready", "Reconciling", "Stalled"].contains(&&*old.type_);
    let kept = before.iter().filter(is_kept).cloned();
    let findings = iter::once(ready).chain(progress).collect();
    kept.chain(conditions(findings, before, generation, now)).collect()
}

/// Whether conditions say that an object is deleted and still held.
pub(crate) fn are_of_leaving(conditions: &[Condition]) -> bool {
    conditions.iter().any(|each| each.type_ == "Ready" && each.reason == DELETING)
}

/// The conditions that say `findings` of the spec's `generation`; those whose status is as it was
/// in `before` keep the time of their last transition.
pub(crate) fn conditions(
    findings: Vec<Finding>,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|Finding { type_, status, reason, mut message }| {
            let old = before.iter().find(|old| old.type_ == type_ && old.status == status.as_str());
            message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
            Condition {
                type_: type_.to_owned(),
                status: status.as_str().to_owned(),
                reason,
                message,
                last_transition_time: old.map_or_else(
                    || Time(whole_seconds(now)),
                    |old| old.last_transition_time.clone(),
                ),
                observed_generation: Some(generation),
            }
        })
        .collect()
}

/// What the API server keeps of a time.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(status: Truth, reason: &str) -> Vec<Finding> {
        vec![Finding::new("Ready", status, reason, "")]
    }

    #[test]
    fn a_condition_remembers_when_its_status_last_changed() {
        let first = conditions(ready(Truth::False, "Loading"), &[], 1, at(10));
        let same = conditions(ready(Truth::False, "Fetching"), &first, 2, at(20));
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("Fetching", Some(2)));
        let turned = conditions(ready(Truth::True, "Serving"), &same, 2, at(30));
        assert_eq!(turned[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn what_is_under_way_and_what_is_stuck_are_told_apart() {
        let [waits] = ready(Truth::False, "Fetching").try_into().unwrap();
        assert_eq!(progress(&waits, false).unwrap().type_, "Reconciling");
        assert_eq!(progress(&waits, true).unwrap().type_, "Stalled");
        let [done] = ready(Truth::True, "Serving").try_into().unwrap();
        assert_eq!(progress(&done, true), None);
    }

    #[test]
    fn an_object_whose_newest_spec_an_agent_refused_is_not_ready() {
        let full = Failure { reason: "Full".to_owned(), message: "no space".to_owned() };
        let refused = Some(("n2".to_owned(), full));
        let told = held_back(ready(Truth::True, "Serving"), refused.as_ref());
        let [ready_now, stalled] = told.try_into().unwrap();
        assert_eq!((ready_now.status, ready_now.reason.as_str()), (Truth::False, "StateRefused"));
        assert_eq!(ready_now.message, "n2 goes on with an older spec: Full: no space");
        assert_eq!((stalled.type_, stalled.status), ("Stalled", Truth::True));

        let waits = ready(Truth::False, "Fetching");
        assert_eq!(held_back(waits.clone(), refused.as_ref()), waits, "that comes first");
        let done = ready(Truth::True, "Serving");
        assert_eq!(held_back(done.clone(), None), done);
    }

    #[test]
    fn a_deleted_object_names_who_holds_it_and_keeps_what_else_was_said_of_it() {
        let mut holders = Holders { named: vec!["n1".to_owned(), "n2".to_owned()], others: 0 };
        let valid = Finding::new("KeysValid", Truth::True, "Valid", "the doors open to 2 keys");
        let findings = [vec![valid], ready(Truth::True, "Serving")].concat();
        let before = conditions(findings, &[], 1, at(10));
        assert!(!are_of_leaving(&before));
        let told = leaving(&before, &holders, 2, at(20));
        assert!(are_of_leaving(&told));
        let said: Vec<_> = told.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(said, [("KeysValid", "True"), ("Ready", "False"), ("Reconciling", "True")]);
        assert_eq!(told[0], before[0]);
        assert_eq!(told[1].message, "agents that have not let go of it: n1, n2");
        assert_eq!(told[1].observed_generation, Some(2));

        holders.others = 3;
        let later = leaving(&told, &holders, 2, at(30));
        assert_eq!(later.len(), told.len());
        assert_eq!(later[1].message, "agents that have not let go of it: n1, n2 and 3 more");
        assert_eq!(later[1].last_transition_time, Time(at(20)));
    }

    /// What is written in CamelCase between quotes in a source file: types of conditions and
    /// reasons.
    fn words(source: &str) -> impl Iterator<Item = &str> {
        let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
        let quoted = code.split('"').skip(1).step_by(2);
        quoted.filter(|text| {
            let is_camel = text.chars().all(|c| c.is_ascii_alphanumeric());
            is_camel && text.starts_with(|c: char| c.is_ascii_uppercase())
        })
    }

    #[test]
    fn every_condition_and_every_reason_is_in_the_document() {
        let document = include_str!("../../README.md");
        let sources = [
            include_str!("conditions.rs"),
            include_str!("../model/build.rs"),
            include_str!("../tenant/build.rs"),
            include_str!("../tenant/promptly.rs"),
            include_str!("../tenant/within.rs"),
            include_str!("../pipeline/build.rs"),
            include_str!("../../plan/src/problem.rs"),
        ];
        let said: Vec<&str> = sources.into_iter().flat_map(words).collect();
        assert!(said.contains(&"DoesNotFit") && said.contains(&"ModelsGranted"), "{said:?}");
        let missing: Vec<&str> = said
            .into_iter()
            .filter(|word| !matches!(*word, "True" | "False" | "Unknown"))
            .filter(|word| !document.contains(&format!("`{word}`")))
            .collect();
        assert_eq!(missing, Vec::<&str>::new(), "operator/README.md does not say what they mean");
    }
}
