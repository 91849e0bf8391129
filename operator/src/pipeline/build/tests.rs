use realm_plan::{Name, Problem, Reason};
use serde_json::json;

use super::*;

/// What the status says of a pipeline that two nodes have, one condition a line.
fn check(models_missing: Vec<Name>, problems: Vec<Problem>, expected: &[&str]) {
    let tally = Tally { ready: 2, ..Tally::default() };
    let standing = PipelineStanding { tally, models_missing, are_models_coming: true };
    check_of(standing, problems, expected);
}

fn check_of(of_pipeline: PipelineStanding, problems: Vec<Problem>, expected: &[&str]) {
    let pipeline: Pipeline = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": { "name": "echo" },
        "spec": { "steps": [], "outputs": [], "tenants": [] },
    }))
    .unwrap();
    let standing = Standing {
        generation: 3,
        is_answered: true,
        is_young: false,
        refused: None,
        problems,
        nodes: Standings::Pipeline(of_pipeline),
    };
    let status = status(&pipeline, &standing, Timestamp::from_second(1_700_000_000).unwrap());
    let said: Vec<String> = status
        .conditions
        .iter()
        .map(|each| format!("{}={} {}", each.type_, each.status, each.reason))
        .collect();
    assert_eq!(said, expected);
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn a_pipeline_is_ready_when_all_of_its_models_are_served() {
    let expected = ["Valid=True Valid", "ModelsReady=True Serving", "Ready=True Serving"];
    check(Vec::new(), Vec::new(), &expected);
}

#[test]
fn a_pipeline_waits_for_a_model_that_nobody_serves() {
    let expected = [
        "Valid=True Valid",
        "ModelsReady=False ModelNotServed",
        "Ready=False ModelNotServed",
        "Reconciling=True ModelNotServed",
    ];
    let missing = vec![Name::new("default", "tiny").unwrap()];
    check(missing.clone(), Vec::new(), &expected);
    let tally = Tally { ready: 2, ..Tally::default() };
    let in_vain =
        PipelineStanding { tally, models_missing: missing, ..PipelineStanding::default() };
    let stalled = [&expected[..3], &["Stalled=True ModelNotServed"]].concat();
    check_of(in_vain, Vec::new(), &stalled);
}

#[test]
fn a_pipeline_with_a_wrong_reference_is_stuck_and_says_where() {
    let message = "there is no model `tiny`".to_owned();
    let path = "spec.steps[0].model".to_owned();
    let problem = Problem { path, reason: Reason::UnknownModel, message };
    let expected = [
        "Valid=False UnknownModel",
        "ModelsReady=True Serving",
        "Ready=False UnknownModel",
        "Stalled=True UnknownModel",
    ];
    check(Vec::new(), vec![problem], &expected);
}

#[test]
fn a_pipeline_is_ready_when_every_node_has_it() {
    let check = |ready, pending, expected: &[&str]| {
        let tally = Tally { ready, pending, ..Tally::default() };
        let of_pipeline = PipelineStanding { tally, ..PipelineStanding::default() };
        let whole = [&["Valid=True Valid", "ModelsReady=True Serving"], expected].concat();
        check_of(of_pipeline, Vec::new(), &whole);
    };
    check(2, 0, &["Ready=True Serving"]);
    let on_its_way = ["Ready=False Preparing", "Reconciling=True Preparing"];
    check(1, 1, &on_its_way);
    check(0, 0, &on_its_way);
}

#[test]
fn a_pipeline_that_a_node_cannot_take_is_stuck_and_says_why() {
    let failure = Failure { reason: "Internal".to_owned(), message: "why".to_owned() };
    let failure = Some(("n1".to_owned(), failure));
    let tally = Tally { ready: 1, pending: 0, failed: 1, failure };
    let expected = [
        "Valid=True Valid",
        "ModelsReady=True Serving",
        "Ready=False Internal",
        "Stalled=True Internal",
    ];
    check_of(PipelineStanding { tally, ..PipelineStanding::default() }, Vec::new(), &expected);
}
