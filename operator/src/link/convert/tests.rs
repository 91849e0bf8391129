use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use prost::Message as _;
use realm_plan::desired::{
    Choice, Desired, DesiredPipeline, DesiredTenant, Limits, LimitsMode, OnError, Peer,
    PipelineStep, Priority, ProgramLimits, Route, Template,
};
use realm_proto::link::versions::CHOICE_SINCE;

use super::*;

fn hello() -> proto::Hello {
    proto::Hello {
        node: "worker-1".to_owned(),
        agent_version: "1.0.0".to_owned(),
        boot_id: "first".to_owned(),
        generation: 0,
        supply: Some(proto::Supply {
            memory_bytes_total: 1 << 34,
            memory_bytes_free: 1 << 33,
            devices: vec![proto::Device {
                name: "cpu".to_owned(),
                kind: proto::DeviceKind::Cpu.into(),
                product: "any".to_owned(),
                memory_bytes_total: 0,
                memory_bytes_free: 0,
            }],
            door_address: Some("10.0.0.7:8080".to_owned()),
            peer_address: None,
            is_draining: false,
            models: vec![proto::ModelLoad {
                model: "default/tiny".to_owned(),
                ..proto::ModelLoad::default()
            }],
            held: vec![proto::HeldCalls { model: "default/asleep".to_owned(), calls: 1 }],
        }),
        link_oldest: 1,
        link_newest: 2,
    }
}

fn check_hello(spoil: impl FnOnce(&mut proto::Hello), expected: &str) {
    let mut hello = hello();
    hello_from(hello.clone()).unwrap();
    spoil(&mut hello);
    let error = hello_from(hello).unwrap_err();
    assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
}

#[test]
fn a_hello_that_says_nothing_or_nonsense_is_refused_by_its_field() {
    check_hello(|h| h.node.clear(), "`hello.node` is missing");
    check_hello(|h| h.agent_version.clear(), "`hello.agent_version` is missing");
    check_hello(|h| h.boot_id = "x".repeat(2000), "`hello.boot_id` has 2000 bytes");
    check_hello(|h| h.supply = None, "`hello.supply` is missing");
}

#[test]
fn a_supply_that_says_nonsense_is_refused_by_its_field() {
    let check = |spoil: fn(&mut proto::Supply), expected: &str| {
        check_hello(|h| spoil(h.supply.as_mut().unwrap()), expected);
    };
    check(|s| s.devices[0].kind = 0, "`supply.devices.kind` is missing");
    check(|s| s.devices.push(s.devices[0].clone()), "`cpu` twice");
    check(|s| s.door_address = Some("here".to_owned()), "`supply.door_address` is not");
    check(|s| s.models[0].model = "tiny".to_owned(), "not of the form namespace/name");
    check(|s| s.models.push(s.models[0].clone()), "`default/tiny` twice");
    check(|s| s.held[0].model.clear(), "not of the form namespace/name");
    check(|s| s.held[0].calls = 0, "`supply.held.calls` is missing");
    check(|s| s.held.push(s.held[0].clone()), "`default/asleep` twice");
}

#[test]
fn a_device_of_a_kind_that_is_yet_to_come_is_left_out_and_the_others_are_heard() {
    let mut hello = hello();
    let devices = &mut hello.supply.as_mut().unwrap().devices;
    devices.push(proto::Device { name: "npu0".to_owned(), kind: 9, ..devices[0].clone() });
    let heard = hello_from(hello).unwrap();
    let names: Vec<&str> = heard.supply.devices.iter().map(|device| &*device.name).collect();
    assert_eq!(names, ["cpu"]);
}

#[test]
fn an_agent_of_before_versions_speaks_the_first() {
    let hello = proto::Hello { link_oldest: 0, link_newest: 0, ..hello() };
    assert_eq!(hello_from(hello).unwrap().link, Versions::said(1, 1));
}

fn report() -> proto::Report {
    let ready = proto::Ready {};
    proto::Report {
        generation: 3,
        models: vec![proto::ModelReport {
            name: "default/tiny".to_owned(),
            phase: Some(proto::model_report::Phase::Failed(proto::Failure {
                reason: "DigestMismatch".to_owned(),
                message: "12 of 34 bytes".to_owned(),
            })),
            facts: None,
            stage: proto::Stage::Load.into(),
            kv_blocks: Some(64),
        }],
        tenants: vec![proto::TenantReport {
            name: "default/acme".to_owned(),
            phase: Some(proto::tenant_report::Phase::Ready(ready)),
            program_sha256: Some(vec![7; 32]),
        }],
        pipelines: vec![proto::PipelineReport {
            name: "default/digest".to_owned(),
            phase: Some(proto::pipeline_report::Phase::Ready(ready)),
        }],
    }
}

fn check(spoil: impl FnOnce(&mut proto::Report), expected: &str) {
    let mut report = report();
    report_from(report.clone()).unwrap();
    spoil(&mut report);
    let error = report_from(report).unwrap_err();
    assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
}

#[test]
fn a_report_that_says_nonsense_is_refused_by_its_field() {
    check(|r| r.models[0].phase = None, "`report.models.phase` is missing");
    check(|r| r.models[0].stage = 9, "unknown value 9");
    check(|r| r.tenants[0].phase = None, "`report.tenants.phase` is missing");
    check(|r| r.pipelines[0].phase = None, "`report.pipelines.phase` is missing");
    check(|r| r.tenants[0].program_sha256 = Some(vec![7; 31]), "31 bytes");
    check(|r| r.pipelines[0].name = "a/B".to_owned(), "holds no name");
    check(|r| r.models.push(r.models[0].clone()), "`default/tiny` twice");
    let fail = |reason: &str, message: &str| {
        let failure = proto::Failure { reason: reason.to_owned(), message: message.to_owned() };
        Some(proto::tenant_report::Phase::Failed(failure))
    };
    check(|r| r.tenants[0].phase = fail("", "m"), "no CamelCase reason");
    check(|r| r.tenants[0].phase = fail("Not a reason", "m"), "no CamelCase reason");
    check(|r| r.tenants[0].phase = fail("TooBig", &"m".repeat(1025)), "has 1025 bytes");
}

#[test]
fn a_message_of_an_unknown_kind_is_refused() {
    // Field 99, a kind that a later version may know.
    let unknown = proto::AgentMessage::decode(&[0x9a, 0x06, 0x00][..]).unwrap();
    assert!(required("message", unknown.message).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
        if let Ok(report) = proto::Report::decode(&bytes[..]) {
            let _ = report_from(report);
        }
        if let Ok(hello) = proto::Hello::decode(&bytes[..]) {
            let _ = hello_from(hello);
        }
    }
}

fn tenant(index: usize, weight: u32) -> Arc<DesiredTenant> {
    Arc::new(DesiredTenant {
        name: Name::new("default", &format!("t{index}")).unwrap(),
        weight,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1,
            input_tokens_per_minute: 2,
            output_tokens_per_minute: 3,
            calls_max: 4,
            context_max: 5,
            output_tokens_max: 20,
            kv_blocks_max: 6,
            program: ProgramLimits {
                memory_bytes_max: 7,
                fuel_max: 8,
                host_calls_max: 9,
                output_bytes_max: 10,
                deadline_ms: 11,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: Vec::new(),
        program: None,
    })
}

/// The generation that a message is of, its tenants' weights, and how many routes it has.
fn read(message: &proto::OperatorMessage) -> (u64, Vec<u32>, usize) {
    let Some(proto::operator_message::Message::Desired(bytes)) = &message.message else {
        panic!("{message:?} is no state");
    };
    let proto::Desired { generation, tenants, routes, doors, .. } =
        proto::Desired::decode(bytes.clone()).unwrap();
    assert_eq!(doors, 3);
    (generation, tenants.iter().map(|tenant| tenant.weight).collect(), routes.len())
}

#[test]
fn a_state_of_pieces_that_were_encoded_before_reads_as_one_that_was_not() {
    let encoder = Encoder::default();
    let peers = vec![Peer { node: "n".to_owned(), address: "10.0.0.1:1".to_owned() }];
    let model = Name::new("default", "tiny").unwrap();
    let routes: Arc<[Route]> = Arc::from([Route { model, peers }]);
    let mut tenants: Vec<_> = (0..5).map(|index| tenant(index, 1)).collect();
    for generation in 1..9_u32 {
        let index = usize::try_from(generation).unwrap() % 5;
        tenants[index] = tenant(index, generation);
        let desired = Desired {
            generation: generation.into(),
            tenants: tenants.clone(),
            routes: if generation < 5 { routes.clone() } else { Arc::from([]) },
            doors: 3,
            ..Desired::default()
        };
        let fresh = Encoder::default().desired_to(&desired, CHOICE_SINCE);
        assert_eq!(read(&encoder.desired_to(&desired, CHOICE_SINCE)), read(&fresh));
        let weights: Vec<u32> = tenants.iter().map(|tenant| tenant.weight).collect();
        assert_eq!(read(&fresh), (generation.into(), weights, usize::from(generation < 5)));
    }
}

#[test]
fn tenants_that_nobody_holds_are_not_kept_encoded() {
    let encoder = Encoder::default();
    for round in 0..10 {
        let tenants = (0..1000).map(|index| tenant(index, round)).collect();
        let desired = Desired { tenants, doors: 3, ..Desired::default() };
        encoder.desired_to(&desired, CHOICE_SINCE);
    }
    assert!(encoder.kept() <= 3000, "{} are", encoder.kept());
}

fn pipeline(name: &str, choice: Choice) -> DesiredPipeline {
    let step = PipelineStep {
        name: "s".to_owned(),
        model: Name::new("default", "tiny").unwrap(),
        system: None,
        prompt: Template(Vec::new()),
        tokens_max: 1,
        deadline_ms: 1,
        temperature: 0.0,
        choice,
        on_error: OnError::Fail,
    };
    let name = Name::new("default", name).unwrap();
    DesiredPipeline { name, inputs: Vec::new(), steps: vec![step], outputs: Vec::new() }
}

#[test]
fn an_agent_that_would_run_a_pipeline_otherwise_is_not_told_of_it() {
    let encoder = Encoder::default();
    let choice = Choice { seed: Some(7), ..Choice::default() };
    let pipelines = Arc::from([pipeline("plain", Choice::default()), pipeline("drawn", choice)]);
    let desired = Desired { pipelines, doors: 3, ..Desired::default() };
    let told = |version: u32| {
        let message = encoder.desired_to(&desired, version).message;
        let Some(proto::operator_message::Message::Desired(bytes)) = message else { panic!() };
        let told = proto::Desired::decode(bytes).unwrap().pipelines.into_iter();
        told.map(|pipeline| pipeline.name).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(told(CHOICE_SINCE - 1), ["default/plain"]);
        assert_eq!(told(CHOICE_SINCE), ["default/plain", "default/drawn"]);
    }
}
