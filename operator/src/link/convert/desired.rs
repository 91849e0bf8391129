//! The planner's desired state as protobuf.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use prost::{Message as _, bytes::Bytes};
use realm_plan::{
    Name,
    desired::{
        Accelerator, ApiKey, Artifact, Choice, Desired, DesiredModel, DesiredPipeline,
        DesiredTenant, HostedProgram, InputKind, KvCache, Limits, LimitsMode, ModelGrant, OnError,
        Peer, PipelineInput, PipelineOutput, PipelineStep, Priority, Program, ProgramLimits, Route,
        Sha256, Stage, Template, TemplatePart,
    },
};
use realm_proto::link::{v1 as proto, versions::CHOICE_SINCE};

/// Encoded tenants that are kept although nobody holds them any more, before they are looked for:
/// what a change of every tenant leaves behind in an installation of a thousand.
const STALE_MAX: usize = 1024;

/// Encodes states, and what several of them hold alike once for all: a door holds every tenant, so
/// that of a thousand tenants in a hundred states only those that changed are encoded anew.
#[derive(Default)]
pub(in crate::link) struct Encoder(Mutex<Encoded>);

#[derive(Default)]
struct Encoded {
    /// By the place of the tenant in memory, which is nobody else's while there is a `Weak`.
    tenants: HashMap<usize, (Weak<DesiredTenant>, Bytes)>,
    /// The doors that share out the limits of these.
    doors: u32,
    /// How many tenants make it worth looking for those that are gone.
    tenants_max: usize,
    pipelines: Last<DesiredPipeline>,
    /// Those that an agent of an older version understands as they are meant.
    plain_pipelines: Last<DesiredPipeline>,
    routes: Last<Route>,
}

/// The newest of a list that all nodes hold alike.
type Last<T> = Option<(Arc<[T]>, Bytes)>;

impl Encoder {
    /// For an agent that speaks `version` of the link. A pipeline that it would run otherwise than
    /// it is meant is left out, and there its calls are refused.
    ///
    /// A list of protobuf is the same in pieces, so that the pieces of a state are put one after
    /// the other.
    pub(in crate::link) fn desired_to(
        &self,
        desired: &Desired,
        version: u32,
    ) -> proto::OperatorMessage {
        let Desired { generation, models, tenants, pipelines, routes, doors } = desired;
        let own = proto::Desired {
            generation: *generation,
            models: models.iter().map(model_to).collect(),
            doors: *doors,
            ..proto::Desired::default()
        };
        let mut bytes = own.encode_to_vec();
        let mut encoded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if encoded.doors != *doors {
            encoded.tenants.clear();
            encoded.doors = *doors;
        }
        let Encoded { pipelines: all, plain_pipelines, routes: last, .. } = &mut *encoded;
        let reads_choice = CHOICE_SINCE <= version;
        let last_pipelines = if reads_choice { all } else { plain_pipelines };
        let all_pipelines = |pipelines: &[DesiredPipeline]| {
            let told = pipelines.iter().filter(|pipeline| reads_choice || is_plain(pipeline));
            let pipelines = told.map(pipeline_to).collect();
            proto::Desired { pipelines, ..proto::Desired::default() }
        };
        let all_routes = |routes: &[Route]| proto::Desired {
            routes: routes.iter().map(route_to).collect(),
            ..proto::Desired::default()
        };
        bytes.extend_from_slice(&newest(last_pipelines, pipelines, all_pipelines));
        bytes.extend_from_slice(&newest(last, routes, all_routes));
        for tenant in tenants {
            bytes.extend_from_slice(encoded.tenant(tenant, *doors));
        }
        encoded.forget_gone();
        drop(encoded);
        super::message(proto::operator_message::Message::Desired(bytes.into()))
    }
}

#[cfg(test)]
impl Encoder {
    pub(super) fn kept(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tenants.len()
    }
}

impl Encoded {
    fn tenant(&mut self, tenant: &Arc<DesiredTenant>, doors: u32) -> &Bytes {
        let place = Arc::as_ptr(tenant).addr();
        let (_, bytes) = self.tenants.entry(place).or_insert_with(|| {
            let tenants = vec![tenant_to(tenant, doors)];
            let one = proto::Desired { tenants, ..proto::Desired::default() };
            (Arc::downgrade(tenant), one.encode_to_vec().into())
        });
        bytes
    }

    /// Looks only when there are as many again as there were.
    fn forget_gone(&mut self) {
        if self.tenants.len() > self.tenants_max {
            self.tenants.retain(|_, (tenant, _)| tenant.strong_count() > 0);
            self.tenants_max = self.tenants.len().saturating_mul(2).max(STALE_MAX);
        }
    }
}

/// What `list` is in bytes, which are made anew only where it is another one.
fn newest<T>(
    last: &mut Last<T>,
    list: &Arc<[T]>,
    encode: impl FnOnce(&[T]) -> proto::Desired,
) -> Bytes {
    if let Some((known, bytes)) = last
        && Arc::ptr_eq(known, list)
    {
        return bytes.clone();
    }
    let bytes = Bytes::from(encode(list).encode_to_vec());
    *last = Some((list.clone(), bytes.clone()));
    bytes
}

fn model_to(model: &DesiredModel) -> proto::Model {
    let DesiredModel {
        name,
        artifact,
        secret,
        base,
        context,
        kv_blocks,
        kv_cache,
        accelerator,
        stage,
    } = model;
    let stage = match stage {
        Stage::Inspect => proto::Stage::Inspect,
        Stage::Prefetch => proto::Stage::Prefetch,
        Stage::Load => proto::Stage::Load,
    };
    let accelerator = match accelerator {
        Accelerator::Any => proto::Accelerator::Any,
        Accelerator::Cpu => proto::Accelerator::Cpu,
        Accelerator::Cuda => proto::Accelerator::Cuda,
        Accelerator::WebGpu => proto::Accelerator::Webgpu,
    };
    let kv_cache = match kv_cache {
        KvCache::F16 => proto::KvCache::F16,
        KvCache::Q8_0 => proto::KvCache::Q80,
    };
    proto::Model {
        name: name.to_string(),
        artifact: Some(artifact_to(artifact)),
        context: *context,
        kv_blocks: *kv_blocks,
        stage: stage.into(),
        accelerator: accelerator.into(),
        secret: secret.as_ref().map(|secret| secret.name().to_owned()),
        kv_cache: kv_cache.into(),
        base: base.as_ref().map(Name::to_string),
    }
}

fn route_to(route: &Route) -> proto::Route {
    let Route { model, peers } = route;
    let peer_to = |Peer { node, address }: &Peer| proto::route::Peer {
        node: node.clone(),
        address: address.clone(),
    };
    proto::Route { model: model.to_string(), peers: peers.iter().map(peer_to).collect() }
}

fn artifact_to(artifact: &Artifact) -> proto::Artifact {
    let Artifact { sources, sha256, parts } = artifact;
    proto::Artifact {
        sources: sources.clone(),
        sha256: sha256.as_ref().map(digest_to),
        parts: parts.iter().map(digest_to).collect(),
    }
}

fn digest_to(digest: &Sha256) -> Vec<u8> {
    let Sha256(bytes) = digest;
    bytes.to_vec()
}

fn tenant_to(tenant: &DesiredTenant, doors: u32) -> proto::Tenant {
    let DesiredTenant {
        name,
        weight,
        priority,
        suspended,
        limits,
        limits_mode,
        share_group,
        models,
        pipelines,
        keys,
        program,
    } = tenant;
    let priority = match priority {
        Priority::Low => proto::Priority::Low,
        Priority::Normal => proto::Priority::Normal,
        Priority::High => proto::Priority::High,
    };
    let limits_mode = match limits_mode {
        LimitsMode::Enforce => proto::LimitsMode::Enforce,
        LimitsMode::Shadow => proto::LimitsMode::Shadow,
    };
    let pipeline_to = |(alias, name): (&String, &Name)| (alias.clone(), name.to_string());
    proto::Tenant {
        name: name.to_string(),
        weight: *weight,
        suspended: *suspended,
        limits: Some(limits_to(&limits.per_door(doors))),
        models: models.iter().map(grant_to).collect(),
        pipelines: pipelines.iter().map(pipeline_to).collect(),
        keys: keys.iter().map(key_to).collect(),
        program: program.as_ref().map(program_to),
        priority: priority.into(),
        limits_mode: limits_mode.into(),
        share_group: share_group.as_ref().map(|group| group.name().to_owned()),
        shared_limits: (doors > 1).then(|| shared_limits_to(limits)),
    }
}

const fn shared_limits_to(limits: &Limits) -> proto::SharedLimits {
    proto::SharedLimits {
        requests_per_minute: limits.requests_per_minute,
        input_tokens_per_minute: limits.input_tokens_per_minute,
        output_tokens_per_minute: limits.output_tokens_per_minute,
        calls_max: limits.calls_max,
    }
}

fn program_to(HostedProgram { code, config }: &HostedProgram) -> proto::Program {
    let code = match code {
        Program::BuiltIn => proto::program::Program::BuiltIn(proto::program::BuiltIn {}),
        Program::Component(artifact) => proto::program::Program::Component(artifact_to(artifact)),
    };
    proto::Program { program: Some(code), config: config.clone() }
}

fn grant_to(grant: &ModelGrant) -> proto::ModelGrant {
    let ModelGrant { alias, model } = grant;
    proto::ModelGrant { alias: alias.clone(), model: model.to_string() }
}

fn key_to(key: &ApiKey) -> proto::ApiKey {
    let ApiKey { name, sha256, expires_at, disabled } = key;
    proto::ApiKey {
        name: name.clone(),
        sha256: digest_to(sha256),
        expires_at: *expires_at,
        disabled: *disabled,
    }
}

const fn limits_to(limits: &Limits) -> proto::Limits {
    let Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max,
        kv_blocks_max,
        program,
    } = *limits;
    let ProgramLimits {
        memory_bytes_max,
        fuel_max,
        host_calls_max,
        output_bytes_max,
        deadline_ms,
        token_fuel_max,
        token_deadline_ms,
        instances_max,
        memory64,
    } = program;
    proto::Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max: Some(output_tokens_max),
        kv_blocks_max,
        program: Some(proto::ProgramLimits {
            memory_bytes_max,
            fuel_max,
            host_calls_max,
            output_bytes_max,
            deadline_ms,
            token_fuel_max: Some(token_fuel_max),
            token_deadline_ms: Some(token_deadline_ms),
            instances_max: Some(instances_max),
            memory64,
        }),
    }
}

/// Whether no step says how its tokens are chosen besides its temperature.
fn is_plain(pipeline: &DesiredPipeline) -> bool {
    pipeline.steps.iter().all(|step| step.choice == Choice::default())
}

fn pipeline_to(pipeline: &DesiredPipeline) -> proto::Pipeline {
    let DesiredPipeline { name, inputs, steps, outputs } = pipeline;
    proto::Pipeline {
        name: name.to_string(),
        inputs: inputs.iter().map(input_to).collect(),
        steps: steps.iter().map(step_to).collect(),
        outputs: outputs.iter().map(output_to).collect(),
    }
}

fn input_to(input: &PipelineInput) -> proto::pipeline::Input {
    let PipelineInput { name, kind, required } = input;
    let kind = match kind {
        InputKind::String => proto::pipeline::InputKind::String,
        InputKind::Integer => proto::pipeline::InputKind::Integer,
        InputKind::Number => proto::pipeline::InputKind::Number,
        InputKind::Boolean => proto::pipeline::InputKind::Boolean,
    };
    proto::pipeline::Input { name: name.clone(), kind: kind.into(), required: *required }
}

fn step_to(step: &PipelineStep) -> proto::pipeline::Step {
    let PipelineStep {
        name,
        model,
        system,
        prompt,
        tokens_max,
        deadline_ms,
        temperature,
        choice,
        on_error,
    } = step;
    let action = match on_error {
        OnError::Fail => {
            proto::pipeline::on_error::Action::Fail(proto::pipeline::on_error::Fail {})
        }
        OnError::Use(text) => proto::pipeline::on_error::Action::UseText(text.clone()),
    };
    proto::pipeline::Step {
        name: name.clone(),
        model: model.to_string(),
        system: system.as_ref().map(template_to),
        prompt: Some(template_to(prompt)),
        tokens_max: *tokens_max,
        deadline_ms: *deadline_ms,
        temperature: *temperature,
        on_error: Some(proto::pipeline::OnError { action: Some(action) }),
        choice: choice_to(choice),
    }
}

/// `None` where it says nothing: a step of before has none.
fn choice_to(choice: &Choice) -> Option<proto::pipeline::Choice> {
    let Choice {
        top_k,
        top_p,
        min_p,
        typical_p,
        repetition_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
    } = choice;
    let said = proto::pipeline::Choice {
        top_k: *top_k,
        top_p: *top_p,
        min_p: *min_p,
        typical_p: *typical_p,
        repetition_penalty: *repetition_penalty,
        frequency_penalty: *frequency_penalty,
        presence_penalty: *presence_penalty,
        seed: *seed,
        stop: stop.clone(),
    };
    (*choice != Choice::default()).then_some(said)
}

fn template_to(template: &Template) -> proto::Template {
    let Template(parts) = template;
    let part_to = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => proto::template::part::Part::Text(text.clone()),
        TemplatePart::Input(name) => proto::template::part::Part::Input(name.clone()),
        TemplatePart::Step(name) => proto::template::part::Part::Step(name.clone()),
    };
    let parts = parts.iter().map(|part| proto::template::Part { part: Some(part_to(part)) });
    proto::Template { parts: parts.collect() }
}

fn output_to(output: &PipelineOutput) -> proto::pipeline::Output {
    let PipelineOutput { name, step } = output;
    proto::pipeline::Output { name: name.clone(), step: step.clone() }
}
