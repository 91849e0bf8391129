use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_plan::Estimate;
use serde_json::json;

use super::*;
use crate::link::report::ModelFacts;

const NOW: i64 = 1_700_000_000;

fn failure(reason: &str) -> Failure {
    Failure { reason: reason.to_owned(), message: "why".to_owned() }
}

fn on_node(stage: Option<Stage>, phase: ModelPhase) -> ModelOnNode {
    ModelOnNode { is_to_load: true, stage, phase }
}

const fn estimate() -> Estimate {
    Estimate {
        weights_bytes: 1 << 30,
        kv_bytes_per_block: 1 << 20,
        kv_blocks_per_sequence: None,
        activation_bytes: 1 << 26,
        context: 4096,
    }
}

fn standing<const N: usize>(replicas: u32, nodes: [ModelOnNode; N]) -> ModelStanding {
    let names = (0..N).map(|index| format!("n{index}"));
    let nodes: BTreeMap<_, _> = names.zip(nodes).collect();
    let estimate = Some(estimate());
    ModelStanding {
        has_agents: true,
        replicas,
        is_woken: false,
        estimate,
        claimed: None,
        facts: None,
        nodes,
    }
}

fn status_of(of_model: ModelStanding, problems: Vec<Problem>) -> ModelStatus {
    status_when(false, of_model, problems)
}

fn status_when(is_young: bool, of_model: ModelStanding, problems: Vec<Problem>) -> ModelStatus {
    let model: Model = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Model",
        "metadata": { "name": "tiny" },
        "spec": { "sources": ["file:///tiny.gguf"] },
    }))
    .unwrap();
    let standing = Standing {
        generation: 3,
        is_answered: true,
        is_young,
        refused: None,
        problems,
        nodes: Standings::Model(of_model),
    };
    status(&model, &standing, "app=agent", Timestamp::from_second(NOW).unwrap())
}

/// What the status says, one condition a line, and of which generation.
fn check(of_model: ModelStanding, problems: Vec<Problem>, expected: &[&str]) {
    check_status(&status_of(of_model, problems), expected);
}

fn check_status(status: &ModelStatus, expected: &[&str]) {
    let said: Vec<String> = status
        .conditions
        .iter()
        .map(|each| format!("{}={} {}", each.type_, each.status, each.reason))
        .collect();
    assert_eq!(said, expected);
    assert!(status.conditions.iter().all(|each| each.observed_generation == Some(3)));
}

fn problem(reason: Reason) -> Problem {
    Problem { path: "spec.replicas".to_owned(), reason, message: "why".to_owned() }
}

#[test]
fn a_model_that_one_agent_of_two_serves_is_ready_and_not_loaded() {
    let nodes = [
        on_node(Some(Stage::Load), ModelPhase::Ready),
        on_node(Some(Stage::Prefetch), ModelPhase::Loading),
    ];
    let expected = [
        "Fetched=True Fetched",
        "Verified=Unknown NotRead",
        "Fits=True Placed",
        "Loaded=False Loading",
        "Ready=True Serving",
        "Reconciling=True Loading",
    ];
    check(standing(2, nodes), Vec::new(), &expected);
}

#[test]
fn a_model_that_serves_its_old_file_is_ready_and_not_loaded() {
    let of = |phase| standing(1, [on_node(Some(Stage::Load), phase)]);
    let expected = |reason: &str, progress: &str| {
        ["Ready=True Serving".to_owned(), format!("{progress}=True {reason}")]
    };
    let said = |of_model| {
        let status = status_of(of_model, Vec::new());
        assert_eq!(status.replicas, 1, "it serves");
        let of = |each: &Condition| format!("{}={} {}", each.type_, each.status, each.reason);
        let said: Vec<_> = status.conditions.iter().skip(4).map(of).collect();
        said
    };
    assert_eq!(said(of(ModelPhase::Loading)), expected("Loading", "Reconciling"));
    let failed = ModelPhase::Failed(failure("SourceGone"));
    assert_eq!(said(of(failed)), expected("SourceGone", "Stalled"));
}

#[test]
fn what_a_header_had_claimed_comes_back_from_the_status_that_says_it() {
    let claim = Estimate { weights_bytes: 7, ..estimate() };
    let of_model = ModelStanding { claimed: Some(claim), ..standing(1, []) };
    let status = status_of(of_model, Vec::new());
    let claimed = claimed(&status).unwrap();
    assert_eq!((claimed.weights_bytes, claimed.kv_bytes_per_block), (7, 1 << 20));
    assert_eq!(super::claimed(&status_of(standing(1, []), Vec::new())), None);
}

#[test]
fn a_model_that_is_on_its_way_reconciles_and_tells_its_bytes() {
    let phase = ModelPhase::Fetching { bytes_done: 5, bytes_total: Some(9) };
    let of_model = standing(1, [on_node(None, phase)]);
    let expected = [
        "Fetched=False Fetching",
        "Verified=Unknown NotRead",
        "Fits=True Placed",
        "Loaded=False Loading",
        "Ready=False Loading",
        "Reconciling=True Loading",
    ];
    check(of_model.clone(), Vec::new(), &expected);
    let status = status_of(of_model, Vec::new());
    assert_eq!(status.conditions[0].message, "n0: 5 of 9 bytes");
    assert_eq!((status.nodes[0].bytes_done, status.nodes[0].bytes_total), (Some(5), Some(9)));
}

#[test]
fn a_digest_that_does_not_match_stalls_the_model() {
    let phase = ModelPhase::Failed(failure("DigestMismatch"));
    let expected = [
        "Fetched=False DigestMismatch",
        "Verified=False DigestMismatch",
        "Fits=True Placed",
        "Loaded=False DigestMismatch",
        "Ready=False DigestMismatch",
        "Stalled=True DigestMismatch",
    ];
    check(standing(1, [on_node(None, phase)]), Vec::new(), &expected);
}

#[test]
fn a_model_without_room_says_so_in_fits_and_still_serves_where_it_does() {
    let nodes = [on_node(Some(Stage::Load), ModelPhase::Ready)];
    let expected = [
        "Fetched=True Fetched",
        "Verified=Unknown NotRead",
        "Fits=False NotEnoughNodes",
        "Loaded=False Loading",
        "Ready=True Serving",
        "Stalled=True NotEnoughNodes",
    ];
    check(standing(2, nodes), vec![problem(Reason::NotEnoughNodes)], &expected);
}

#[test]
fn an_invalid_spec_is_not_ready_whatever_serves() {
    let nodes = [on_node(Some(Stage::Load), ModelPhase::Ready)];
    let expected = [
        "Fetched=True Fetched",
        "Verified=Unknown NotRead",
        "Fits=True Placed",
        "Loaded=True Loaded",
        "Ready=False OutOfRange",
        "Stalled=True OutOfRange",
    ];
    check(standing(1, nodes), vec![problem(Reason::OutOfRange)], &expected);
}

#[test]
fn a_model_that_nobody_wants_loaded_is_ready_to_wake() {
    let expected = [
        "Fetched=Unknown NotStarted",
        "Verified=Unknown NotRead",
        "Fits=True Placed",
        "Loaded=True NoneWanted",
        "Ready=True ScaledToZero",
    ];
    check(standing(0, []), Vec::new(), &expected);
}

#[test]
fn a_model_without_any_agent_says_what_to_do_and_is_stuck_unless_they_may_yet_come() {
    let of_model = ModelStanding { has_agents: false, ..standing(2, []) };
    for (is_young, progress) in [(true, "Reconciling"), (false, "Stalled")] {
        let expected = [
            "Fetched=Unknown NoAgents".to_owned(),
            "Verified=Unknown NoAgents".to_owned(),
            "Fits=Unknown NoAgents".to_owned(),
            "Loaded=False Loading".to_owned(),
            "Ready=False NoAgents".to_owned(),
            format!("{progress}=True NoAgents"),
        ];
        let status = status_when(is_young, of_model.clone(), Vec::new());
        check_status(&status, &expected.each_ref().map(String::as_str));
        assert!(status.conditions[4].message.contains("`realm info --cluster`"));
    }
}

#[test]
fn a_model_that_nobody_wants_needs_no_agent_unless_calls_should_wake_it() {
    let off = ModelStanding { has_agents: false, ..standing(0, []) };
    let ready = |of_model: &ModelStanding| findings(of_model, &[], false).swap_remove(4);
    assert_eq!((ready(&off).status, ready(&off).reason.as_str()), (Truth::True, "ScaledToZero"));
    let asleep = ModelStanding { is_woken: true, ..off };
    assert_eq!(ready(&asleep).reason, NO_AGENTS, "no call wakes it");
}

#[test]
fn a_file_is_fetched_when_somebody_has_it_and_nobody_fetches_it() {
    let fetched = |nodes: [ModelOnNode; 2], facts| {
        let of_model = ModelStanding { facts, ..standing(2, nodes) };
        let found = findings(&of_model, &[], false).swap_remove(0);
        (found.status, found.reason, found.message)
    };
    let told =
        |status, reason: &str, message: &str| (status, reason.to_owned(), message.to_owned());
    let has = || on_node(Some(Stage::Load), ModelPhase::Ready);
    let fetching = ModelPhase::Fetching { bytes_done: 5, bytes_total: None };
    let failed = || on_node(None, ModelPhase::Failed(failure("SourceGone")));
    let none_yet = || on_node(Some(Stage::Inspect), ModelPhase::Ready);
    let is_fetched = told(Truth::True, "Fetched", "the file is on 1 node");
    assert_eq!(fetched([has(), none_yet()], None), is_fetched);
    assert_eq!(fetched([has(), failed()], Some(facts())), is_fetched);
    let on_its_way = told(Truth::False, "Fetching", "n1: 5 of ? bytes");
    assert_eq!(fetched([has(), on_node(None, fetching)], None), on_its_way);
    let gone = |status| told(status, "SourceGone", "n0: why");
    assert_eq!(fetched([failed(), none_yet()], None), gone(Truth::False));
    assert_eq!(fetched([failed(), none_yet()], Some(facts())), gone(Truth::Unknown));
}

/// As the header of a file says.
fn facts() -> ModelFacts {
    ModelFacts {
        architecture: "llama".to_owned(),
        parameters: 1,
        format: "Q4_1".to_owned(),
        context: 1,
        licence: None,
        weights_bytes: 1,
        sha256: None,
        memory: None,
    }
}
