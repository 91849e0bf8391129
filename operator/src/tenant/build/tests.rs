use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_plan::{
    Name,
    desired::Sha256,
    reached::{Bites, Limit},
};
use serde_json::json;

use super::*;
use crate::fleet::standing::{Knowledge, Reach};

fn tally(ready: u32, pending: u32, failure: Option<&str>) -> Tally {
    let failure = failure.map(|reason| {
        let failure = Failure { reason: reason.to_owned(), message: "why".to_owned() };
        ("n0".to_owned(), failure)
    });
    Tally { ready, pending, failed: u32::from(failure.is_some()), failure }
}

fn problem(reason: Reason) -> Problem {
    Problem { path: "spec".to_owned(), reason, message: "why".to_owned() }
}

fn status_of(tally: Tally, problems: Vec<Problem>) -> TenantStatus {
    status_when(true, tally, problems)
}

fn status_when(is_answered: bool, tally: Tally, problems: Vec<Problem>) -> TenantStatus {
    let program = Some(Sha256([7; 32]));
    let whole =
        TenantStanding { keys: 2, doors: Some(3), hosts: 1, program, ..TenantStanding::default() };
    status_of_standing(is_answered, TenantStanding { tally, ..whole }, problems)
}

fn status_of_standing(
    is_answered: bool,
    of_tenant: TenantStanding,
    problems: Vec<Problem>,
) -> TenantStatus {
    status_at((false, is_answered), of_tenant, problems)
}

fn status_at(
    (is_young, is_answered): (bool, bool),
    of_tenant: TenantStanding,
    problems: Vec<Problem>,
) -> TenantStatus {
    let tenant: Tenant = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": { "name": "acme", "namespace": "lab" },
        "spec": {},
    }))
    .unwrap();
    let standing = Standing {
        generation: 3,
        is_answered,
        is_young,
        refused: None,
        problems,
        nodes: Standings::Tenant(of_tenant),
    };
    status(&tenant, &standing, Timestamp::from_second(1_700_000_000).unwrap())
}

/// What the status says, one condition a line.
fn check(tally: Tally, problems: Vec<Problem>, expected: &[&str]) {
    check_status(&status_of(tally, problems), expected);
}

fn check_status(status: &TenantStatus, expected: &[&str]) {
    let said: Vec<String> = status
        .conditions
        .iter()
        .map(|each| format!("{}={} {}", each.type_, each.status, each.reason))
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn a_tenant_that_is_served_says_by_what() {
    let expected = [
        "KeysValid=True Valid",
        "ModelsGranted=True Granted",
        "ProgramReady=True Ready",
        "ModelsReady=True Serving",
        "LimitsApplied=True SharedByDoors",
        "Ready=True Serving",
    ];
    check(tally(2, 0, None), Vec::new(), &expected);
    let status = status_of(tally(2, 0, None), Vec::new());
    assert_eq!((status.keys, status.observed_generation), (2, Some(3)));
    assert_eq!(status.program_sha256.as_deref(), Some("07".repeat(32).as_str()));
}

#[test]
fn what_is_wrong_with_a_secret_is_a_matter_of_keys() {
    for reason in OF_KEYS {
        let why = reason.as_str();
        let expected = [
            format!("KeysValid=False {why}"),
            "ModelsGranted=True Granted".to_owned(),
            "ProgramReady=True Ready".to_owned(),
            "ModelsReady=True Serving".to_owned(),
            "LimitsApplied=True SharedByDoors".to_owned(),
            format!("Ready=False {why}"),
            format!("Stalled=True {why}"),
        ];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(tally(1, 0, None), vec![problem(reason)], &expected);
    }
}

#[test]
fn a_program_that_failed_stalls_and_one_that_is_compiled_reconciles() {
    let expected = [
        "KeysValid=True Valid",
        "ModelsGranted=True Granted",
        "ProgramReady=False ProgramInvalid",
        "ModelsReady=True Serving",
        "LimitsApplied=True SharedByDoors",
        "Ready=False ProgramInvalid",
        "Stalled=True ProgramInvalid",
    ];
    check(tally(1, 0, Some("ProgramInvalid")), Vec::new(), &expected);
    let expected = [
        "KeysValid=True Valid",
        "ModelsGranted=True Granted",
        "ProgramReady=False Preparing",
        "ModelsReady=True Serving",
        "LimitsApplied=True SharedByDoors",
        "Ready=False Preparing",
        "Reconciling=True Preparing",
    ];
    check(tally(1, 1, None), Vec::new(), &expected);
}

#[test]
fn that_no_agent_has_answered_yet_is_not_that_there_is_none() {
    let of_program = |is_answered| {
        let status = status_when(is_answered, tally(0, 0, None), Vec::new());
        let mut conditions = status.conditions.into_iter();
        let found = conditions.find(|each| each.type_ == "ProgramReady").unwrap();
        (found.status, found.reason)
    };
    assert_eq!(of_program(false), ("False".to_owned(), PREPARING.to_owned()));
    assert_eq!(of_program(true), ("Unknown".to_owned(), NO_AGENTS.to_owned()));
}

#[test]
fn a_tenant_was_held_when_its_status_says_more_than_that_nobody_is_there() {
    assert!(!was_held(None));
    assert!(!was_held(Some(&status_of(tally(0, 0, None), Vec::new()))));
    assert!(was_held(Some(&status_of(tally(1, 0, None), Vec::new()))));
    assert!(was_held(Some(&status_of(tally(0, 0, Some("SourceGone")), Vec::new()))));
}

#[test]
fn a_node_whose_agent_speaks_another_link_is_named_with_both_versions() {
    let message_of = |hosts, tally| {
        let unspoken = Some(("n7".to_owned(), Versions::said(9, 9)));
        let standing = TenantStanding { tally, hosts, unspoken, ..TenantStanding::default() };
        program(&standing, true).message
    };
    let message = |tally| message_of(2, tally);
    let said = "the agent of n7 speaks the link's version 9 and this operator 1 to 4";
    assert_eq!(message(tally(0, 0, None)), format!("{NO_AGENT_IS_CONNECTED}; {said}"));
    assert_eq!(message(tally(2, 0, None)), format!("on 2 of 2 nodes; {said}"));
    let handed_on = message_of(0, tally(2, 0, None));
    assert!(handed_on.ends_with(&format!("one of its models; {said}")), "{handed_on}");
    let failed = message(tally(0, 0, Some("SourceGone")));
    assert!(failed.ends_with(&format!("; {said}")), "{failed}");
}

fn served() -> TenantStanding {
    let tally = tally(2, 0, None);
    let standing =
        TenantStanding { keys: 1, doors: Some(1), hosts: 2, ..TenantStanding::default() };
    TenantStanding { tally, ..standing }
}

/// `Ready` of a tenant, and what keeps it so.
fn ready_of(of_tenant: TenantStanding) -> (String, String, String, Vec<String>) {
    ready_at(false, of_tenant)
}

fn ready_at(is_young: bool, of_tenant: TenantStanding) -> (String, String, String, Vec<String>) {
    let mut conditions = status_at((is_young, true), of_tenant, Vec::new()).conditions;
    let ready = conditions.iter().position(|each| each.type_ == "Ready").unwrap();
    let progress = conditions.split_off(ready + 1).into_iter().map(|each| each.type_).collect();
    let Condition { status, reason, message, .. } = conditions.pop().unwrap();
    (status, reason, message, progress)
}

#[test]
fn a_tenant_that_has_no_key_cannot_be_called_and_is_told_how_to_get_one() {
    let keyless = TenantStanding { keys: 0, ..served() };
    let (status, reason, message, progress) = ready_of(keyless.clone());
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NoKeys"));
    assert!(message.contains("`realm api-key create`"), "{message}");
    assert_eq!(progress, ["Stalled"]);
    let (_, reason, _, progress) = ready_at(true, keyless);
    assert_eq!((reason.as_str(), progress), ("NoKeys", vec!["Reconciling".to_owned()]));
}

#[test]
fn a_tenant_whose_keys_have_all_expired_cannot_be_called_any_more() {
    let expired = |keys_expired| TenantStanding { keys: 2, keys_expired, ..served() };
    let (status, reason, message, progress) = ready_of(expired(2));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "KeysExpired"));
    assert!(message.contains("2 keys expired"), "{message}");
    assert_eq!(progress, ["Stalled"]);
    assert_eq!(ready_of(expired(1)).1, "Serving");
    assert_eq!(keys(&expired(1), &[]).message, "the doors open to 1 key");
}

#[test]
fn a_reference_that_is_wrong_is_told_before_a_key_that_is_not_there_yet() {
    let keyless = TenantStanding { keys: 0, ..served() };
    let status = status_of_standing(true, keyless, vec![problem(Reason::UnknownModel)]);
    let ready = status.conditions.iter().find(|each| each.type_ == "Ready").unwrap();
    assert_eq!(ready.reason, "UnknownModel");
}

#[test]
fn a_suspended_tenant_says_so_and_is_as_it_should_be() {
    let suspended = TenantStanding { is_suspended: true, ..served() };
    let (status, reason, message, progress) = ready_of(suspended.clone());
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Suspended"));
    assert!(message.contains("refused"), "{message}");
    assert!(progress.is_empty());
    let (status, reason, _, progress) = ready_of(TenantStanding { keys: 0, ..suspended.clone() });
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Suspended"), "it needs no key");
    assert!(progress.is_empty());
    let wrong = status_of_standing(true, suspended, vec![problem(Reason::InvalidKey)]);
    assert!(wrong.conditions.iter().any(|each| each.type_ == "Stalled"), "that is another matter");
}

#[test]
fn a_tenant_none_of_whose_models_is_served_waits_for_them() {
    let model = |index| Name::new("lab", &format!("m{index}")).unwrap();
    let waits = |models| TenantStanding {
        hosts: 0,
        program: None,
        models_missing: (0..models).map(model).collect(),
        is_model_coming: true,
        ..served()
    };
    let (status, reason, message, progress) = ready_of(waits(2));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ModelNotServed"));
    assert_eq!(message, "no agent serves lab/m0, lab/m1");
    assert_eq!(progress, ["Reconciling"]);
    assert!(ready_of(waits(11)).2.ends_with("lab/m7, 3 more"));
    let in_vain = TenantStanding { is_model_coming: false, ..waits(2) };
    assert_eq!(ready_of(in_vain.clone()).3, ["Stalled"]);
    assert_eq!(ready_at(true, in_vain).3, ["Reconciling"], "they may yet be applied");
    let told = program(&waits(1), true).message;
    assert_eq!(told, "on 2 of 2 nodes, to hand its calls on: none loads one of its models");
    assert_eq!(program(&served(), true).message, "on 2 of 2 nodes");
}

#[test]
fn without_any_agent_no_door_enforces_limits_and_the_message_says_what_to_do() {
    let alone = TenantStanding { keys: 1, ..TenantStanding::default() };
    let expected = [
        "KeysValid=True Valid",
        "ModelsGranted=True Granted",
        "ProgramReady=Unknown NoAgents",
        "ModelsReady=True Serving",
        "LimitsApplied=Unknown NoAgents",
        "WithinLimits=Unknown NoAgents",
        "ServedPromptly=Unknown NoAgents",
        "Ready=Unknown NoAgents",
        "Stalled=True NoAgents",
    ];
    for is_answered in [false, true] {
        check_status(&status_of_standing(is_answered, alone.clone(), Vec::new()), &expected);
    }
    let (.., message, _) = ready_of(alone.clone());
    assert_eq!(message, NO_AGENT_IS_CONNECTED);
    assert_eq!(ready_at(true, alone).3, ["Reconciling"], "they may yet come");
}

#[test]
fn agents_of_which_none_is_a_door_enforce_no_limits() {
    let standing = TenantStanding { doors: Some(0), ..served() };
    let found = limits(&standing);
    assert_eq!((found.status, found.reason.as_str()), (Truth::Unknown, "NoDoor"));
    let (status, reason, _, progress) = ready_of(standing);
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "NoDoor"));
    assert_eq!(progress, ["Stalled"]);
}

#[test]
fn numbers_of_one_are_told_as_one() {
    assert_eq!(keys(&served(), &[]).message, "the doors open to 1 key");
    let failed = TenantStanding { tally: tally(1, 0, Some("SourceGone")), ..served() };
    assert_eq!(program(&failed, true).message, "on 1 node; n0: why");
    let status = status_of(tally(1, 0, None), Vec::new());
    assert_eq!(status.conditions[1].message, "every model is granted");
}

#[test]
fn limits_say_whole_even_or_which_door_has_the_largest_slice() {
    let say = |doors, applied: Applied| {
        let finding = limits(&TenantStanding { doors: Some(doors), applied, ..served() });
        (finding.reason, finding.message)
    };
    let even = Applied { older: 3, ..Applied::default() };
    assert_eq!(say(1, Applied::default()).0, "Whole");
    let (reason, message) = say(3, even);
    assert_eq!(reason, "SharedByDoors");
    assert_eq!(message, "each of 3 doors holds one part in 3, rounded up");
    let largest = Some(("worker-1".to_owned(), 93));
    let (reason, message) = say(3, Applied { sliced: 2, largest, older: 1 });
    assert_eq!(reason, "Sliced");
    let expected = "2 doors with slices by use, the largest that of worker-1, 93 %; 1 door of an \
                    older release, one part in 3 each";
    assert_eq!(message, expected);
}

#[test]
fn a_tenant_whose_calls_limits_refuse_is_ready_and_nothing_of_it_is_stuck() {
    let limited = |knowledge, limits: &[Limit]| {
        let bites = Bites { limits: limits.to_vec(), doors: 1, ..Bites::default() };
        let reach = Reach { bites, knowledge };
        status_of_standing(true, TenantStanding { reach, ..served() }, Vec::new())
    };
    let expected = |within: &'static str| {
        [
            "KeysValid=True Valid",
            "ModelsGranted=True Granted",
            "ProgramReady=True Ready",
            "ModelsReady=True Serving",
            "LimitsApplied=True Whole",
            within,
            "ServedPromptly=True ServedPromptly",
            "Ready=True Serving",
        ]
    };
    let calls = limited(Knowledge::All, &[Limit::Calls]);
    check_status(&calls, &expected("WithinLimits=False Calls"));
    let none = limited(Knowledge::All, &[]);
    check_status(&none, &expected("WithinLimits=True WithinLimits"));
}
