//! Large states and many agents.

use std::{sync::Arc, time::Instant};

use realm_plan::desired::{
    Accelerator, ApiKey, Artifact, Choice, Desired, DesiredModel, DesiredPipeline, DesiredTenant,
    HostedProgram, InputKind, KvCache, Limits, LimitsMode, ModelGrant, OnError, PipelineInput,
    PipelineOutput, PipelineStep, Priority, Program, ProgramLimits, Sha256, Stage, Template,
    TemplatePart,
};

use realm_proto::link::OPERATOR_MESSAGE_BYTES_MAX;

use super::world::{World, name, soon};

const LIMITS: Limits = Limits {
    requests_per_minute: 600,
    input_tokens_per_minute: 1_000_000,
    output_tokens_per_minute: 100_000,
    calls_max: 16,
    context_max: 32_768,
    output_tokens_max: 32_768,
    kv_blocks_max: 4096,
    program: ProgramLimits {
        memory_bytes_max: 64 << 20,
        fuel_max: 10_000_000_000,
        host_calls_max: 10_000,
        output_bytes_max: 1 << 20,
        deadline_ms: 60_000,
        token_fuel_max: 1_000_000,
        token_deadline_ms: 1_000,
        instances_max: 64,
        memory64: false,
    },
};

fn model(index: usize) -> DesiredModel {
    DesiredModel {
        name: name(&format!("models/model-{index}")),
        artifact: Arc::new(Artifact {
            sources: vec![format!("https://models.example.com/model-{index}/model.gguf")],
            sha256: Some(Sha256([7; 32])),
            parts: Vec::new(),
        }),
        secret: None,
        base: None,
        context: Some(32_768),
        kv_blocks: Some(4096),
        kv_cache: KvCache::F16,
        accelerator: Accelerator::Any,
        stage: Stage::Load,
    }
}

fn tenant(index: usize) -> DesiredTenant {
    let key = |key: usize| ApiKey {
        name: format!("tenant-{index}-keys/key-{key}"),
        sha256: Sha256([1; 32]),
        expires_at: Some(1_900_000_000),
        disabled: false,
    };
    let grant = |model: usize| ModelGrant {
        alias: format!("models/model-{model}"),
        model: name(&format!("models/model-{model}")),
    };
    let alias = |pipeline: usize| format!("models/pipeline-{pipeline}");
    DesiredTenant {
        name: name(&format!("team-{}/tenant-{index}", index / 10)),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: LIMITS,
        models: (0..20).map(grant).collect(),
        pipelines: (0..10).map(|index| (alias(index), name(&alias(index)))).collect(),
        keys: (0..8).map(key).collect(),
        program: Some(HostedProgram {
            code: Program::BuiltIn,
            config: [("greeting".to_owned(), "c".repeat(200))].into(),
        }),
    }
}

fn pipeline(index: usize) -> DesiredPipeline {
    let step = |step: usize| PipelineStep {
        name: format!("step-{step}"),
        model: name("models/model-0"),
        system: None,
        prompt: Template(vec![
            TemplatePart::Text("p".repeat(2000)),
            TemplatePart::Input("text".to_owned()),
        ]),
        tokens_max: 512,
        deadline_ms: 30_000,
        temperature: 0.2,
        choice: Choice::default(),
        on_error: OnError::Fail,
    };
    DesiredPipeline {
        name: name(&format!("models/pipeline-{index}")),
        inputs: vec![PipelineInput {
            name: "text".to_owned(),
            kind: InputKind::String,
            required: true,
        }],
        steps: (0..5).map(step).collect(),
        outputs: vec![PipelineOutput { name: "text".to_owned(), step: "step-4".to_owned() }],
    }
}

/// So many tenants with 8 keys, 20 models and 10 pipelines each, a fifth as many models and a
/// tenth as many pipelines.
pub(super) fn state(generation: u64, tenants: usize) -> Desired {
    Desired {
        generation,
        models: (0..tenants / 5).map(model).collect(),
        tenants: (0..tenants).map(|index| Arc::new(tenant(index))).collect(),
        pipelines: (0..tenants / 10).map(pipeline).collect(),
        routes: Arc::from([]),
        doors: 1,
    }
}

#[tokio::test]
async fn a_state_of_a_thousand_tenants_passes() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    world.order("worker-1", &state(1, 1000));
    let held = agent.until_held(1).await;
    assert_eq!((held.tenants.len(), held.models.len(), held.pipelines.len()), (1000, 200, 100));
    let bytes = std::fs::metadata(agent.dir().join("desired.0")).unwrap().len();
    let bytes = usize::try_from(bytes).unwrap();
    assert!(bytes * 20 < OPERATOR_MESSAGE_BYTES_MAX, "{bytes} bytes");
}

#[tokio::test]
async fn a_state_too_large_for_any_agent_is_said_to_the_fleet_and_not_sent() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let mut large = state(1, 10);
    let program = Arc::make_mut(&mut large.tenants[0]).program.as_mut().unwrap();
    program.config.insert("large".to_owned(), "c".repeat(81 << 20));
    world.order("worker-1", &large);
    let view = world.until("worker-1", |view| view.refused.is_some()).await;
    assert_eq!(view.refused.unwrap().failure.reason, "TooLarge");
    world.order("worker-1", &state(2, 10));
    agent.until_held(2).await;
}

/// Kilobytes of memory that this process holds.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; to be run alone and in release"]
async fn a_hundred_agents_get_a_state_of_a_thousand_tenants() {
    let world = World::start().await;
    let mut agents = Vec::new();
    for index in 0..100 {
        agents.push(world.agent(&format!("worker-{index}")).await);
    }
    for agent in &agents {
        agent.until_state(|state| state.connected.is_some()).await;
    }
    let before_kib = resident_kib();
    let desired = Arc::new(state(1, 1000));
    let started = Instant::now();
    for index in 0..100 {
        let node = format!("worker-{index}");
        world.registry.set_desired(&node, desired.clone()).unwrap();
    }
    let mut slowest = std::time::Duration::ZERO;
    for agent in &agents {
        soon("a state", agent.until_held(1)).await;
        slowest = started.elapsed();
    }
    println!("100 agents hold the state after {slowest:?}");
    let bytes = std::fs::metadata(agents[0].dir().join("desired.0")).unwrap().len();
    println!("a state has {bytes} bytes");
    println!("resident: {before_kib} KiB before, {} KiB after", resident_kib());
}
