//! Operator and agent mean the same by everything that passes between them.
//!
//! Both have their own words with the same names, so that what one says and what the other has
//! understood print alike.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{
    collection::vec, option, prelude::*, strategy::ValueTree as _, test_runner::TestRunner,
};
use realm_core::{
    desired::{Sha256, Stage},
    engine::EngineLoad,
    name::{ModelName, PipelineName, TenantName},
    report::{
        Failure, MemoryFacts, ModelFacts, ModelPhase, ModelReport, Phase, PipelineReport, Report,
        SequenceBlocks, TenantReport,
    },
    supply::{Device, DeviceKind, HeldCalls, ModelLoad, Supply},
};
use realm_plan::desired as plan;

use super::world::{World, name};

/// States or reports that are sent one after the other over one connection.
const CASES: usize = 100;

const NAMES: [&str; 3] = ["n/a", "n/b", "m/a"];

fn names() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(NAMES.to_vec(), 0..=NAMES.len())
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

/// One value for each name of some.
fn each<T: std::fmt::Debug + 'static, S: Strategy<Value = T> + 'static>(
    make: impl Fn(String) -> S + 'static,
) -> impl Strategy<Value = Vec<T>> {
    names().prop_flat_map(move |names| names.into_iter().map(&make).collect::<Vec<_>>())
}

fn artifact() -> impl Strategy<Value = plan::Artifact> {
    let digest = any::<[u8; 32]>().prop_map(plan::Sha256);
    let of = |sources, sha256, parts| plan::Artifact { sources, sha256, parts };
    let verified = (vec("[a-z]{3,5}://.{1,20}", 1..3), digest.clone())
        .prop_map(move |(sources, digest)| of(sources, Some(digest), Vec::new()));
    let split = (vec("[a-z]{3,5}://.{1,20}", 1..3), vec(digest, 1..4))
        .prop_map(move |(sources, parts)| of(sources, None, parts));
    let in_place =
        vec("(file|pvc)://.{1,20}", 1..3).prop_map(move |sources| of(sources, None, Vec::new()));
    prop_oneof![verified, split, in_place]
}

fn stage() -> impl Strategy<Value = plan::Stage> {
    let stages = [plan::Stage::Inspect, plan::Stage::Prefetch, plan::Stage::Load];
    proptest::sample::select(stages.to_vec())
}

fn model(text: String) -> impl Strategy<Value = plan::DesiredModel> {
    use plan::Accelerator;
    let accelerators = [Accelerator::Any, Accelerator::Cpu, Accelerator::Cuda, Accelerator::WebGpu];
    let accelerator = proptest::sample::select(accelerators.to_vec());
    let kv_cache = proptest::sample::select(vec![plan::KvCache::F16, plan::KvCache::Q8_0]);
    let (kv, context) = ((any::<Option<u32>>(), kv_cache), any::<Option<u32>>());
    let base = any::<bool>().prop_map(|is_adapter| is_adapter.then(|| name("models/base")));
    (artifact(), (base, context), kv, accelerator, stage()).prop_map(
        move |(artifact, (base, context), kv, accelerator, stage)| plan::DesiredModel {
            name: name(&text),
            artifact: Arc::new(artifact),
            // The agent knows it by its name alone.
            secret: None,
            base,
            context,
            kv_blocks: kv.0,
            kv_cache: kv.1,
            accelerator,
            stage,
        },
    )
}

fn limits() -> impl Strategy<Value = plan::Limits> {
    (any::<[u32; 8]>(), any::<[u64; 7]>(), any::<bool>()).prop_map(
        |([a, b, c, d, e, f, o, p], [g, h, i, j, k, l, m], n)| plan::Limits {
            requests_per_minute: a,
            input_tokens_per_minute: b,
            output_tokens_per_minute: c,
            calls_max: d,
            context_max: e,
            output_tokens_max: o,
            kv_blocks_max: f,
            program: plan::ProgramLimits {
                memory_bytes_max: g,
                fuel_max: h,
                host_calls_max: i,
                output_bytes_max: j,
                deadline_ms: k,
                token_fuel_max: l,
                token_deadline_ms: m,
                instances_max: p,
                memory64: n,
            },
        },
    )
}

fn key() -> impl Strategy<Value = plan::ApiKey> {
    (".{0,8}", any::<[u8; 32]>(), any::<Option<u64>>(), any::<bool>()).prop_map(
        |(name, digest, expires_at, disabled)| plan::ApiKey {
            name,
            sha256: plan::Sha256(digest),
            expires_at,
            disabled,
        },
    )
}

fn tenant(text: String) -> impl Strategy<Value = plan::DesiredTenant> {
    let code =
        prop_oneof![Just(plan::Program::BuiltIn), artifact().prop_map(plan::Program::Component)];
    let config = proptest::collection::btree_map(".{0,4}", ".{0,8}", 0..3);
    let hosted = (code, config).prop_map(|(code, config)| plan::HostedProgram { code, config });
    let names = (names(), names());
    let priority = prop_oneof![
        Just(plan::Priority::Low),
        Just(plan::Priority::Normal),
        Just(plan::Priority::High),
    ];
    let mode = prop_oneof![Just(plan::LimitsMode::Enforce), Just(plan::LimitsMode::Shadow)];
    let turns = (1_u32.., priority, option::of("[a-z]{1,4}"));
    let limits = (limits(), mode);
    (turns, any::<bool>(), limits, names, vec(key(), 0..3), option::of(hosted)).prop_map(
        move |(turns, suspended, limits, (models, pipelines), keys, program)| {
            let grant = |alias: String| plan::ModelGrant { model: name(&alias), alias };
            let pipeline = |alias: String| (alias.clone(), name(&alias));
            let name_of_tenant = name(&text);
            let group =
                |group: String| realm_plan::Name::new(name_of_tenant.namespace(), &group).unwrap();
            plan::DesiredTenant {
                share_group: turns.2.map(group),
                name: name_of_tenant,
                weight: turns.0,
                priority: turns.1,
                suspended,
                limits: limits.0,
                limits_mode: limits.1,
                models: models.into_iter().map(grant).collect(),
                pipelines: pipelines.into_iter().map(pipeline).collect::<BTreeMap<_, _>>(),
                keys,
                program,
            }
        },
    )
}

fn template() -> impl Strategy<Value = plan::Template> {
    let text = ".{0,10}".prop_map(plan::TemplatePart::Text);
    let input = Just(plan::TemplatePart::Input("text".to_owned()));
    vec(prop_oneof![text, input], 0..4).prop_map(plan::Template)
}

fn choice() -> impl Strategy<Value = plan::Choice> {
    let number = || option::of(-2.0_f32..2.0);
    let shares = (number(), number(), number());
    let penalties = (number(), number(), number());
    (any::<(Option<u32>, Option<u64>)>(), shares, penalties, vec(".{1,4}", 0..3)).prop_map(
        |((top_k, seed), shares, penalties, stop)| plan::Choice {
            top_k,
            top_p: shares.0,
            min_p: shares.1,
            typical_p: shares.2,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            seed,
            stop,
        },
    )
}

fn step(index: usize) -> impl Strategy<Value = plan::PipelineStep> {
    let on_error = prop_oneof![Just(plan::OnError::Fail), ".{0,8}".prop_map(plan::OnError::Use)];
    let texts = (option::of(template()), template());
    (texts, any::<u32>(), any::<u64>(), (0.0_f32..2.0, choice()), on_error).prop_map(
        move |((system, mut prompt), tokens_max, deadline_ms, (temperature, choice), on_error)| {
            if index > 0 {
                prompt.0.push(plan::TemplatePart::Step(format!("step-{}", index - 1)));
            }
            plan::PipelineStep {
                name: format!("step-{index}"),
                model: name("n/a"),
                system,
                prompt,
                tokens_max,
                deadline_ms,
                temperature,
                choice,
                on_error,
            }
        },
    )
}

fn pipeline(text: String) -> impl Strategy<Value = plan::DesiredPipeline> {
    let kinds = [
        plan::InputKind::String,
        plan::InputKind::Integer,
        plan::InputKind::Number,
        plan::InputKind::Boolean,
    ];
    let kind = proptest::sample::select(kinds.to_vec());
    let steps = (1_usize..4).prop_flat_map(|count| (0..count).map(step).collect::<Vec<_>>());
    (kind, any::<bool>(), steps).prop_map(move |(kind, required, steps)| {
        let output = |step: &plan::PipelineStep| plan::PipelineOutput {
            name: format!("{}-text", step.name),
            step: step.name.clone(),
        };
        plan::DesiredPipeline {
            name: name(&text),
            inputs: vec![plan::PipelineInput { name: "text".to_owned(), kind, required }],
            outputs: steps.iter().map(output).collect(),
            steps,
        }
    })
}

/// Any state that the planner could make.
fn desired() -> impl Strategy<Value = plan::Desired> {
    let peer = |node: String| plan::Peer { address: format!("{node}:7444"), node };
    let route = move |text: String| {
        let peers = vec("[a-z]{1,9}", 0..3);
        peers.prop_map(move |nodes| plan::Route {
            model: name(&text),
            peers: nodes.into_iter().map(peer).collect(),
        })
    };
    (each(model), each(tenant), each(pipeline), each(route), 1_u32..).prop_map(
        |(models, tenants, pipelines, routes, doors)| plan::Desired {
            generation: 0,
            models,
            tenants: tenants.into_iter().map(Arc::new).collect(),
            pipelines: pipelines.into(),
            routes: routes.into(),
            doors,
        },
    )
}

fn failure() -> impl Strategy<Value = Failure> {
    let reason = proptest::sample::select(vec!["DigestMismatch", "OutOfMemory"]);
    (reason, ".{0,40}").prop_map(|(reason, message)| Failure { reason, message })
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Pending), Just(Phase::Ready), failure().prop_map(Phase::Failed)]
}

fn digest() -> impl Strategy<Value = Option<Sha256>> {
    option::of(any::<[u8; 32]>().prop_map(Sha256))
}

fn facts() -> impl Strategy<Value = ModelFacts> {
    let texts = (".{0,9}", ".{0,9}", option::of(".{0,9}"));
    // Of layers of one kind, and of both.
    let held = prop_oneof![
        any::<u32>().prop_map(|windowed_max| SequenceBlocks { bands: 1, whole: 0, windowed_max }),
        (1..9_u32, 1..9_u32, any::<u32>()).prop_map(|(whole, windowed, windowed_max)| {
            SequenceBlocks { bands: whole + windowed, whole, windowed_max }
        }),
    ];
    let memory = (any::<(u64, u64)>(), option::of(held)).prop_map(
        |((kv_bytes_per_block, activation_bytes), kv_blocks_per_sequence)| MemoryFacts {
            kv_bytes_per_block,
            activation_bytes,
            kv_blocks_per_sequence,
        },
    );
    (texts, any::<(u64, u32, u64)>(), digest(), option::of(memory)).prop_map(
        |(texts, (parameters, context, weights_bytes), sha256, memory)| {
            let (architecture, format, licence) = texts;
            ModelFacts {
                architecture,
                parameters,
                format,
                context,
                licence,
                weights_bytes,
                sha256,
                memory,
            }
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let model = |name: String| {
        let fetching = any::<(u64, Option<u64>)>()
            .prop_map(|(bytes_done, bytes_total)| ModelPhase::Fetching { bytes_done, bytes_total });
        let plain = [ModelPhase::Pending, ModelPhase::Loading, ModelPhase::Ready];
        let phase = prop_oneof![
            proptest::sample::select(plain.to_vec()),
            fetching,
            failure().prop_map(ModelPhase::Failed)
        ];
        let stages = [None, Some(Stage::Inspect), Some(Stage::Prefetch), Some(Stage::Load)];
        let stage = proptest::sample::select(stages.to_vec());
        (phase, stage, any::<Option<u32>>(), option::of(facts())).prop_map(
            move |(phase, stage, kv_blocks, facts)| ModelReport {
                name: ModelName::parse(&name).unwrap(),
                phase,
                stage,
                kv_blocks,
                facts,
            },
        )
    };
    let tenant = |name: String| {
        (phase(), digest()).prop_map(move |(phase, program)| TenantReport {
            name: TenantName::parse(&name).unwrap(),
            phase,
            program,
        })
    };
    let pipeline = |name: String| {
        phase().prop_map(move |phase| PipelineReport {
            name: PipelineName::parse(&name).unwrap(),
            phase,
        })
    };
    (each(model), each(tenant), each(pipeline)).prop_map(|(models, tenants, pipelines)| Report {
        generation: 0,
        models,
        tenants,
        pipelines,
    })
}

#[tokio::test]
async fn a_desired_state_means_the_same_at_both_ends() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let mut runner = TestRunner::deterministic();
    for generation in 1..=CASES {
        let mut said = desired().new_tree(&mut runner).unwrap().current();
        said.generation = u64::try_from(generation).unwrap();
        world.order("worker-1", &said);
        let understood = agent.until_held(said.generation).await;
        assert_eq!(format!("{understood:?}"), format!("{said:?}"));
    }
}

#[tokio::test]
async fn a_report_means_the_same_at_both_ends() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let mut runner = TestRunner::deterministic();
    // An agent reports four times a second at most.
    for generation in 1..=CASES / 10 {
        let mut said = report().new_tree(&mut runner).unwrap().current();
        said.generation = u64::try_from(generation).unwrap();
        agent.report.send_replace(said.clone());
        let is_new = |view: &realm_operator::link::registry::NodeView| {
            view.report.as_ref().is_some_and(|report| report.generation == said.generation)
        };
        let understood = world.until("worker-1", is_new).await.report.unwrap();
        assert_eq!(format!("{understood:?}"), format!("{said:?}"));
    }
}

#[tokio::test]
async fn a_supply_means_the_same_at_both_ends() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let device = |name: &str, kind| Device {
        name: name.to_owned(),
        kind,
        product: format!("the {name}"),
        memory_bytes_total: 3,
        memory_bytes_free: 4,
    };
    let load = EngineLoad {
        sequences_queued: 5,
        sequences_running: 6,
        kv_blocks_used: 7,
        kv_blocks_cached: 8,
        kv_blocks_total: 9,
        prompt_tokens_total: 10,
        cached_tokens_total: 11,
        generated_tokens_total: 12,
        failed: true,
    };
    agent.supply.send_replace(Supply {
        memory_bytes_total: 1,
        memory_bytes_free: 2,
        devices: vec![
            device("cpu", DeviceKind::Cpu),
            device("cuda0", DeviceKind::Cuda),
            device("gpu0", DeviceKind::WebGpu),
        ],
        door: Some("10.0.0.7:8080".parse().unwrap()),
        peer: Some("[fd00::7]:7444".parse().unwrap()),
        is_draining: true,
        models: vec![ModelLoad { model: ModelName::parse("default/tiny").unwrap(), load }],
        held: vec![HeldCalls { model: ModelName::parse("default/asleep").unwrap(), calls: 13 }],
    });
    let is_new = |view: &realm_operator::link::registry::NodeView| {
        view.supply.as_ref().is_some_and(|supply| supply.memory_bytes_total == 1)
    };
    let understood = world.until("worker-1", is_new).await.supply.unwrap();
    // A load is flat there and nested here.
    let said = format!("{:?}", *agent.supply.borrow());
    let said = said.replace("load: EngineLoad { ", "").replace("true } }", "true }");
    assert_eq!(format!("{understood:?}"), said);
}
