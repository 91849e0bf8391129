//! Desired states for tests: one that is easy to read, and any that the planner could make.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};
use realm_core::{
    desired::{
        Accelerator, ApiKey, Artifact, Choice, Desired, DesiredModel, DesiredPipeline,
        DesiredTenant, HostedProgram, InputKind, KvCache, Limits, LimitsMode, ModelGrant, OnError,
        Peer, PipelineInput, PipelineOutput, PipelineStep, Priority, Program, ProgramLimits, Route,
        Sha256, Stage, Template, TemplatePart,
    },
    name::{GroupName, ModelName, PipelineName, TenantName},
};

pub(crate) fn model(name: &str) -> DesiredModel {
    DesiredModel {
        name: ModelName::parse(name).unwrap(),
        artifact: Artifact {
            sources: vec!["https://models.example/tiny.gguf".to_owned()],
            sha256: Some(Sha256([7; 32])),
            parts: Vec::new(),
        },
        secret: None,
        base: None,
        context: None,
        kv_blocks: None,
        kv_cache: KvCache::F16,
        accelerator: Accelerator::Any,
        stage: Stage::Load,
    }
}

pub(crate) fn tenant(name: &str) -> DesiredTenant {
    DesiredTenant {
        name: TenantName::parse(name).unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 60,
            input_tokens_per_minute: 10_000,
            output_tokens_per_minute: 10_000,
            calls_max: 8,
            context_max: 2048,
            output_tokens_max: 1024,
            kv_blocks_max: 128,
            program: ProgramLimits {
                memory_bytes_max: 64 << 20,
                fuel_max: 1_000_000_000,
                host_calls_max: 10_000,
                output_bytes_max: 1 << 20,
                deadline_ms: 60_000,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: vec![],
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey {
            name: "first".to_owned(),
            sha256: Sha256([1; 32]),
            expires_at: None,
            disabled: false,
        }],
        program: Some(HostedProgram::built_in()),
    }
}

fn step(name: &str, prompt: Vec<TemplatePart>) -> PipelineStep {
    PipelineStep {
        name: name.to_owned(),
        model: ModelName::parse("default/tiny").unwrap(),
        system: None,
        prompt: Template(prompt),
        tokens_max: 64,
        deadline_ms: 10_000,
        temperature: 0.0,
        choice: Choice::default(),
        on_error: OnError::Fail,
    }
}

pub(crate) fn pipeline(name: &str) -> DesiredPipeline {
    DesiredPipeline {
        name: PipelineName::parse(name).unwrap(),
        inputs: vec![PipelineInput {
            name: "text".to_owned(),
            kind: InputKind::String,
            required: true,
        }],
        steps: vec![
            step("summary", vec![TemplatePart::Input("text".to_owned())]),
            step("headline", vec![TemplatePart::Step("summary".to_owned())]),
        ],
        outputs: vec![PipelineOutput { name: "title".to_owned(), step: "headline".to_owned() }],
    }
}

/// One model, one tenant, one pipeline, and one model on another node.
pub(crate) fn sample() -> Desired {
    let mut acme = tenant("default/acme");
    acme.models.push(ModelGrant {
        alias: "tiny".to_owned(),
        model: ModelName::parse("default/tiny").unwrap(),
    });
    acme.pipelines.insert("digest".to_owned(), PipelineName::parse("default/digest").unwrap());
    Desired {
        generation: 1,
        models: vec![model("default/tiny")],
        tenants: vec![acme],
        pipelines: vec![pipeline("default/digest")],
        routes: vec![Route {
            model: ModelName::parse("default/far").unwrap(),
            peers: vec![Peer { node: "n1".to_owned(), address: "n1:1".to_owned() }],
        }],
        doors: 2,
    }
}

/// Few names, so that two arbitrary states share some of their items.
fn names() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(vec!["n/a", "n/b", "n/c", "m/a", "m/b"], 0..=5)
        .prop_map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        .prop_shuffle()
}

fn digest() -> impl Strategy<Value = Sha256> {
    any::<[u8; 32]>().prop_map(Sha256)
}

fn artifact() -> impl Strategy<Value = Artifact> {
    let verified = (vec("[a-z]{3,5}://.{1,20}", 1..3), digest())
        .prop_map(|(sources, digest)| artifact_of(sources, Some(digest), Vec::new()));
    let split = (vec("[a-z]{3,5}://.{1,20}", 1..3), vec(digest(), 1..4))
        .prop_map(|(sources, parts)| artifact_of(sources, None, parts));
    let in_place = vec("(file|pvc)://.{1,20}", 1..3)
        .prop_map(|sources| artifact_of(sources, None, Vec::new()));
    prop_oneof![verified, split, in_place]
}

const fn artifact_of(sources: Vec<String>, sha256: Option<Sha256>, parts: Vec<Sha256>) -> Artifact {
    Artifact { sources, sha256, parts }
}

fn models() -> impl Strategy<Value = Vec<DesiredModel>> {
    names().prop_flat_map(|names| {
        let models = names.into_iter().map(|name| {
            let kv_cache = select(vec![KvCache::F16, KvCache::Q8_0]);
            let sizes = (any::<Option<u32>>(), any::<Option<u32>>(), kv_cache);
            let base = option::of(select(vec!["default/base", "shared/base"]));
            let ways = (base, option::of(".{0,8}"));
            (artifact(), ways, sizes, accelerator(), stage()).prop_map(
                move |(
                    artifact,
                    (base, secret),
                    (context, kv_blocks, kv_cache),
                    accelerator,
                    stage,
                )| {
                    DesiredModel {
                        name: ModelName::parse(&name).unwrap(),
                        artifact,
                        secret,
                        base: base.map(|base| ModelName::parse(base).unwrap()),
                        context,
                        kv_blocks,
                        kv_cache,
                        accelerator,
                        stage,
                    }
                },
            )
        });
        models.collect::<Vec<_>>()
    })
}

fn accelerator() -> impl Strategy<Value = Accelerator> {
    select(vec![Accelerator::Any, Accelerator::Cpu, Accelerator::Cuda, Accelerator::WebGpu])
}

fn stage() -> impl Strategy<Value = Stage> {
    select(vec![Stage::Inspect, Stage::Prefetch, Stage::Load])
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    names().prop_flat_map(|names| {
        let routes = names.into_iter().map(|name| {
            vec(".{0,8}", 0..4).prop_map(move |addresses| {
                let peer = |(node, address)| Peer { node: format!("n{node}"), address };
                let peers = addresses.into_iter().enumerate().map(peer).collect();
                Route { model: ModelName::parse(&name).unwrap(), peers }
            })
        });
        routes.collect::<Vec<_>>()
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (any::<[u32; 8]>(), any::<[u64; 7]>(), any::<bool>()).prop_map(
        |([a, b, c, d, e, f, o, p], [g, h, i, j, k, l, m], n)| Limits {
            requests_per_minute: a,
            input_tokens_per_minute: b,
            output_tokens_per_minute: c,
            calls_max: d,
            context_max: e,
            output_tokens_max: o,
            kv_blocks_max: f,
            program: ProgramLimits {
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

fn keys() -> impl Strategy<Value = Vec<ApiKey>> {
    let key = (".{0,8}", digest(), any::<Option<u64>>(), any::<bool>()).prop_map(
        |(name, sha256, expires_at, disabled)| ApiKey { name, sha256, expires_at, disabled },
    );
    vec(key, 0..3)
}

fn program() -> impl Strategy<Value = HostedProgram> {
    let code = prop_oneof![Just(Program::BuiltIn), artifact().prop_map(Program::Component)];
    let config = proptest::collection::btree_map(".{0,4}", ".{0,8}", 0..3);
    (code, config).prop_map(|(code, config)| HostedProgram { code, config })
}

fn tenants() -> impl Strategy<Value = Vec<DesiredTenant>> {
    names().prop_flat_map(|names| {
        let tenants = names.into_iter().map(|name| {
            let rights = (names_of_models(), names_of_pipelines());
            let program = option::of(program());
            let limits = (limits(), any::<bool>()).prop_map(|(limits, is_shadow)| {
                (limits, if is_shadow { LimitsMode::Shadow } else { LimitsMode::Enforce })
            });
            let turns = (1_u32.., priority(), option::of("[a-z]{1,4}"));
            (turns, any::<bool>(), limits, rights, keys(), program).prop_map(
                move |(turns, suspended, limits, (models, pipelines), keys, program)| {
                    let name = TenantName::parse(&name).unwrap();
                    let group = |group: String| GroupName::new(name.namespace(), &group).unwrap();
                    DesiredTenant {
                        share_group: turns.2.map(group),
                        name,
                        weight: turns.0,
                        priority: turns.1,
                        suspended,
                        limits: limits.0,
                        limits_mode: limits.1,
                        models,
                        pipelines,
                        keys,
                        program,
                    }
                },
            )
        });
        tenants.collect::<Vec<_>>()
    })
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)]
}

fn names_of_models() -> impl Strategy<Value = Vec<ModelGrant>> {
    names().prop_map(|names| {
        let grant =
            |name: String| ModelGrant { model: ModelName::parse(&name).unwrap(), alias: name };
        names.into_iter().map(grant).collect()
    })
}

fn names_of_pipelines() -> impl Strategy<Value = BTreeMap<String, PipelineName>> {
    names().prop_map(|names| {
        let named = |name: String| (name.clone(), PipelineName::parse(&name).unwrap());
        names.into_iter().map(named).collect()
    })
}

const INPUTS: [&str; 2] = ["text", "language"];

fn template(step: usize) -> impl Strategy<Value = Template> {
    let text = ".{0,10}".prop_map(TemplatePart::Text).boxed();
    let input = select(&INPUTS[..]).prop_map(|name| TemplatePart::Input(name.to_owned())).boxed();
    let mut parts = vec![text, input];
    if step > 0 {
        parts.push((0..step).prop_map(|step| TemplatePart::Step(format!("step-{step}"))).boxed());
    }
    vec(proptest::strategy::Union::new(parts), 0..4).prop_map(Template)
}

fn choice() -> impl Strategy<Value = Choice> {
    let number = || option::of(-2.0_f32..2.0);
    let shares = (number(), number(), number());
    let penalties = (number(), number(), number());
    (any::<(Option<u32>, Option<u64>)>(), shares, penalties, vec(".{1,4}", 0..3)).prop_map(
        |((top_k, seed), shares, penalties, stop)| Choice {
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

fn steps(count: usize) -> impl Strategy<Value = Vec<PipelineStep>> {
    let step = |step: usize| {
        let on_error = prop_oneof![Just(OnError::Fail), ".{0,8}".prop_map(OnError::Use)];
        let texts = (option::of(template(step)), template(step));
        (texts, any::<u32>(), any::<u64>(), (0.0_f32..2.0, choice()), on_error).prop_map(
            move |((system, prompt), tokens_max, deadline_ms, (temperature, choice), on_error)| {
                PipelineStep {
                    name: format!("step-{step}"),
                    model: ModelName::parse("n/a").unwrap(),
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
    };
    (0..count).map(step).collect::<Vec<_>>()
}

fn pipelines() -> impl Strategy<Value = Vec<DesiredPipeline>> {
    let kinds = [InputKind::String, InputKind::Integer, InputKind::Number, InputKind::Boolean];
    names().prop_flat_map(move |names| {
        let pipelines = names.into_iter().map(|name| {
            let kinds = [select(kinds.to_vec()), select(kinds.to_vec())];
            let steps = (1_usize..4).prop_flat_map(steps);
            (kinds, any::<bool>(), steps).prop_map(move |(kinds, required, steps)| {
                let input = |(name, kind): (&str, InputKind)| PipelineInput {
                    name: name.to_owned(),
                    kind,
                    required,
                };
                let output = |step: &PipelineStep| PipelineOutput {
                    name: format!("{}-text", step.name),
                    step: step.name.clone(),
                };
                DesiredPipeline {
                    name: PipelineName::parse(&name).unwrap(),
                    inputs: INPUTS.into_iter().zip(kinds).map(input).collect(),
                    outputs: steps.iter().map(output).collect(),
                    steps,
                }
            })
        });
        pipelines.collect::<Vec<_>>()
    })
}

/// Any desired state that the planner could make.
pub(crate) fn desired() -> impl Strategy<Value = Desired> {
    let items = (models(), tenants(), pipelines());
    (any::<u64>(), items, routes(), 1_u32..).prop_map(
        |(generation, (models, tenants, pipelines), routes, doors)| Desired {
            generation,
            models,
            tenants,
            pipelines,
            routes,
            doors,
        },
    )
}
