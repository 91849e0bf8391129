use proptest::prelude::*;

use super::*;
use crate::arbitrary;

proptest! {
    #[test]
    fn a_desired_state_survives_the_way_through_protobuf(desired in arbitrary::desired()) {
        prop_assert_eq!(decode(&encode(&desired)).unwrap(), desired);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
        if let Ok(desired) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&desired)).unwrap(), desired);
        }
    }
}

/// Spoils one thing in a good state and expects a certain error.
fn check(spoil: impl FnOnce(&mut proto::Desired), expected: &str) {
    let mut desired = desired_to(&arbitrary::sample());
    desired_from(desired.clone()).unwrap();
    spoil(&mut desired);
    let error = desired_from(desired).unwrap_err();
    assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
}

#[test]
fn a_missing_or_malformed_field_is_refused_by_its_name() {
    check(|d| d.models[0].artifact = None, "`model.artifact` is missing");
    check(|d| d.models[0].name = "acme".to_owned(), "`model.name` holds no name");
    check(|d| d.tenants[0].limits = None, "`tenant.limits` is missing");
    check(|d| d.tenants[0].weight = 0, "`tenant.weight` is missing");
    check(
        |d| d.tenants[0].program.as_mut().unwrap().program = None,
        "`tenant.program.program` is missing",
    );
    check(|d| d.doors = 0, "`doors` is missing");
    check(|d| d.models[0].stage = 0, "`model.stage` is missing");
    check(|d| d.models[0].stage = 9, "unknown value 9");
    check(|d| d.models[0].accelerator = 0, "`model.accelerator` is missing");
    check(|d| d.models[0].accelerator = 9, "unknown value 9");
    check(|d| d.routes[0].model.clear(), "`routes.model` holds no name");
    check(|d| d.tenants[0].keys[0].sha256.truncate(31), "31 bytes");
    check(|d| d.pipelines[0].inputs[0].kind = 0, "`pipeline.inputs.kind` is missing");
    check(|d| d.pipelines[0].inputs[0].kind = 9, "unknown value 9");
    check(|d| d.pipelines[0].steps[0].on_error = None, "`pipeline.steps.on_error` is missing");
    check(|d| d.pipelines[0].steps[0].temperature = f32::NAN, "not a finite number");
    let choice = proto::pipeline::Choice { top_p: Some(f32::INFINITY), ..Default::default() };
    check(|d| d.pipelines[0].steps[0].choice = Some(choice), "not a finite number");
}

#[test]
fn an_artifact_needs_a_source_and_a_digest_unless_it_is_a_file() {
    check(
        |d| d.models[0].artifact.as_mut().unwrap().sources.clear(),
        "`artifact.sources` is missing",
    );
    check(|d| d.models[0].artifact.as_mut().unwrap().sha256 = None, "without a digest");
}

#[test]
fn the_same_name_twice_is_refused() {
    check(|d| d.models.push(d.models[0].clone()), "holds `default/tiny` twice");
    check(|d| d.tenants.push(d.tenants[0].clone()), "holds `default/acme` twice");
    check(|d| d.pipelines.push(d.pipelines[0].clone()), "holds `default/digest` twice");
    check(|d| d.routes.push(d.routes[0].clone()), "holds `default/far` twice");
    check(|d| d.routes[0].peers.extend_from_within(..), "holds `n1` twice");
}

#[test]
fn a_step_that_runs_before_one_it_uses_is_refused() {
    check(|d| d.pipelines[0].steps.reverse(), "no input or earlier step");
    check(|d| d.pipelines[0].inputs.clear(), "no input or earlier step");
    check(|d| d.pipelines[0].outputs[0].step.clear(), "no input or earlier step");
}
