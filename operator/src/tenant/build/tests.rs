use realm_plan::desired::Sha256;
use serde_json::json;

use super::*;

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
    let tenant: Tenant = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": { "name": "acme", "namespace": "lab" },
        "spec": {},
    }))
    .unwrap();
    let program = Some(Sha256([7; 32]));
    let unspoken = None;
    let of_tenant = TenantStanding { keys: 2, doors: 3, tally, program, unspoken };
    let standing = Standing {
        generation: 3,
        is_answered,
        refused: None,
        problems,
        nodes: Standings::Tenant(of_tenant),
    };
    status(&tenant, &standing, Timestamp::from_second(1_700_000_000).unwrap())
}

/// What the status says, one condition a line.
fn check(tally: Tally, problems: Vec<Problem>, expected: &[&str]) {
    let said: Vec<String> = status_of(tally, problems)
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
        "LimitsApplied=True SharedByDoors",
        "Ready=False ProgramInvalid",
        "Stalled=True ProgramInvalid",
    ];
    check(tally(1, 0, Some("ProgramInvalid")), Vec::new(), &expected);
    let expected = [
        "KeysValid=True Valid",
        "ModelsGranted=True Granted",
        "ProgramReady=False Preparing",
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
    let message = |tally| {
        let unspoken = Some(("n7".to_owned(), Versions::said(9, 9)));
        program(&TenantStanding { tally, unspoken, ..TenantStanding::default() }, true).message
    };
    let said = "the agent of n7 speaks the link's version 9 and this operator 1 to 3";
    assert_eq!(message(tally(0, 0, None)), format!("no agent is connected; {said}"));
    assert_eq!(message(tally(2, 0, None)), format!("on 2 of 2 nodes; {said}"));
    let failed = message(tally(0, 0, Some("SourceGone")));
    assert!(failed.ends_with(&format!("; {said}")), "{failed}");
}
