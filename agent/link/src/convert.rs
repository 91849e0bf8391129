//! A desired state as protobuf and back; what else passes the link is in the files below.
//! Nothing but these and the `client` knows the generated types.
//!
//! Encoding cannot fail. Decoding trusts nothing: names, digests, references and duplicates are
//! checked again, because the bytes come from a disk or from another machine.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::HashSet;

use prost::Message as _;
use realm_core::{
    desired::{
        ApiKey, Artifact, Desired, DesiredPipeline, HostedProgram, InputKind, Limits, ModelGrant,
        OnError, Peer, PipelineInput, PipelineOutput, PipelineStep, Program, ProgramLimits, Route,
        Sha256, Template, TemplatePart,
    },
    name::{ModelName, NameError, PipelineName},
};
use realm_proto::link::v1 as proto;
use thiserror::Error;

mod choice;
mod credentials;
mod model;
mod report;
mod slices;
mod supply;
mod tenant;

use choice::{choice_from, choice_to};
pub(crate) use credentials::credentials_from;
use model::{model_from, model_to};
pub(crate) use report::{failure_to, report_to};
pub(crate) use slices::{slices_from, slices_to, spends_to};
pub(crate) use supply::{supply_to, uses_to};
use tenant::{tenant_from, tenant_to};

/// What the hooks of one token have where nobody says, as `link.proto` has it.
const TOKEN_FUEL_UNSAID: u64 = 5_000_000;
const TOKEN_DEADLINE_MS_UNSAID: u64 = 20;
/// As many instances as a node has, as `link.proto` has it.
const INSTANCES_UNSAID: u32 = 512;

/// What is wrong with a desired state that was read.
#[derive(Debug, Error)]
pub enum ConvertError {
    #[error("the bytes are not protobuf")]
    Protobuf(#[source] prost::DecodeError),
    #[error("field `{field}` holds no name")]
    Name {
        field: &'static str,
        #[source]
        source: NameError,
    },
    #[error("field `{field}` holds {bytes} bytes and a SHA-256 digest has 32")]
    Digest { field: &'static str, bytes: usize },
    #[error("field `{field}` is missing")]
    Missing { field: &'static str },
    #[error("field `{field}` holds the unknown value {value}")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("field `{field}` is not JSON")]
    Json {
        field: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("field `{field}` holds more than it may")]
    TooMany { field: &'static str },
    #[error("field `{field}` is not a finite number")]
    NotFinite { field: &'static str },
    #[error("field `{field}` holds `{name}` twice")]
    Duplicate { field: &'static str, name: String },
    #[error("`{source_url}` comes without a digest, which only file:// may")]
    Unverified { source_url: String },
    #[error("pipeline `{pipeline}` uses `{name}`, which is no input or earlier step")]
    UnknownReference { pipeline: PipelineName, name: String },
}

pub(crate) fn encode(desired: &Desired) -> Vec<u8> {
    desired_to(desired).encode_to_vec()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Desired, ConvertError> {
    desired_from(proto::Desired::decode(bytes).map_err(ConvertError::Protobuf)?)
}

fn desired_to(desired: &Desired) -> proto::Desired {
    let Desired { generation, models, tenants, pipelines, routes, doors } = desired;
    proto::Desired {
        generation: *generation,
        models: models.iter().map(model_to).collect(),
        tenants: tenants.iter().map(|tenant| tenant_to(tenant, *doors)).collect(),
        pipelines: pipelines.iter().map(pipeline_to).collect(),
        routes: routes.iter().map(route_to).collect(),
        doors: *doors,
    }
}

pub(crate) fn desired_from(desired: proto::Desired) -> Result<Desired, ConvertError> {
    let proto::Desired { generation, models, tenants, pipelines, routes, doors } = desired;
    if doors == 0 {
        return Err(ConvertError::Missing { field: "doors" });
    }
    // An operator from before slices says each door's part and nothing else.
    let is_divided = tenants.iter().any(|tenant| tenant.shared_limits.is_none());
    let doors = if is_divided { 1 } else { doors };
    let models = all(models, model_from)?;
    let tenants = all(tenants, tenant_from)?;
    let pipelines = all(pipelines, pipeline_from)?;
    let routes = all(routes, route_from)?;
    unique("models.name", models.iter().map(|model| model.name.as_str()))?;
    unique("tenants.name", tenants.iter().map(|tenant| tenant.name.as_str()))?;
    unique("pipelines.name", pipelines.iter().map(|pipeline| pipeline.name.as_str()))?;
    unique("routes.model", routes.iter().map(|route| route.model.as_str()))?;
    Ok(Desired { generation, models, tenants, pipelines, routes, doors })
}

fn route_to(route: &Route) -> proto::Route {
    let Route { model, peers } = route;
    let peer_to = |Peer { node, address }: &Peer| proto::route::Peer {
        node: node.clone(),
        address: address.clone(),
    };
    proto::Route { model: model.as_str().to_owned(), peers: peers.iter().map(peer_to).collect() }
}

fn route_from(route: proto::Route) -> Result<Route, ConvertError> {
    let proto::Route { model, peers } = route;
    unique("routes.peers.node", peers.iter().map(|peer| peer.node.as_str()))?;
    let peer_from = |proto::route::Peer { node, address }| Peer { node, address };
    Ok(Route {
        model: named("routes.model", &model, ModelName::parse)?,
        peers: peers.into_iter().map(peer_from).collect(),
    })
}

fn artifact_to(artifact: &Artifact) -> proto::Artifact {
    let Artifact { sources, sha256, parts } = artifact;
    proto::Artifact {
        sources: sources.clone(),
        sha256: sha256.map(|digest| digest.0.to_vec()),
        parts: parts.iter().map(|digest| digest.0.to_vec()).collect(),
    }
}

fn artifact_from(artifact: proto::Artifact) -> Result<Artifact, ConvertError> {
    let proto::Artifact { sources, sha256, parts } = artifact;
    if sources.is_empty() {
        return Err(ConvertError::Missing { field: "artifact.sources" });
    }
    let sha256 = sha256.map(|bytes| digest_from("artifact.sha256", &bytes)).transpose()?;
    let parts = parts.iter().map(|bytes| digest_from("artifact.parts", bytes));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if sha256.is_none() && parts.is_empty() {
        let is_in_place =
            |text: &&String| ["file://", "pvc://"].iter().any(|s| text.starts_with(s));
        let unverified = sources.iter().find(|source| !is_in_place(source));
        if let Some(source) = unverified {
            return Err(ConvertError::Unverified { source_url: source.clone() });
        }
    }
    Ok(Artifact { sources, sha256, parts })
}

fn program_to(program: &HostedProgram) -> proto::Program {
    let HostedProgram { code, config } = program;
    let code = match code {
        Program::BuiltIn => proto::program::Program::BuiltIn(proto::program::BuiltIn {}),
        Program::Component(artifact) => proto::program::Program::Component(artifact_to(artifact)),
    };
    proto::Program { program: Some(code), config: config.clone() }
}

fn program_from(program: proto::Program) -> Result<HostedProgram, ConvertError> {
    let proto::Program { program, config } = program;
    let code = match required("tenant.program.program", program)? {
        proto::program::Program::BuiltIn(proto::program::BuiltIn {}) => Program::BuiltIn,
        proto::program::Program::Component(artifact) => {
            Program::Component(artifact_from(artifact)?)
        }
    };
    Ok(HostedProgram { code, config })
}

fn limits_to(limits: &Limits) -> proto::Limits {
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

fn limits_from(limits: proto::Limits) -> Result<Limits, ConvertError> {
    let proto::Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max,
        kv_blocks_max,
        program,
    } = limits;
    let proto::ProgramLimits {
        memory_bytes_max,
        fuel_max,
        host_calls_max,
        output_bytes_max,
        deadline_ms,
        token_fuel_max,
        token_deadline_ms,
        instances_max,
        memory64,
    } = required("limits.program", program)?;
    Ok(Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max: output_tokens_max.unwrap_or(context_max),
        kv_blocks_max,
        program: ProgramLimits {
            memory_bytes_max,
            fuel_max,
            host_calls_max,
            output_bytes_max,
            deadline_ms,
            token_fuel_max: token_fuel_max.unwrap_or(TOKEN_FUEL_UNSAID),
            token_deadline_ms: token_deadline_ms.unwrap_or(TOKEN_DEADLINE_MS_UNSAID),
            instances_max: instances_max.unwrap_or(INSTANCES_UNSAID),
            memory64,
        },
    })
}

fn grant_to(grant: &ModelGrant) -> proto::ModelGrant {
    let ModelGrant { alias, model } = grant;
    proto::ModelGrant { alias: alias.clone(), model: model.as_str().to_owned() }
}

fn grant_from(grant: proto::ModelGrant) -> Result<ModelGrant, ConvertError> {
    let proto::ModelGrant { alias, model } = grant;
    Ok(ModelGrant { alias, model: named("tenant.models.model", &model, ModelName::parse)? })
}

fn key_to(key: &ApiKey) -> proto::ApiKey {
    let ApiKey { name, sha256, expires_at, disabled } = key;
    proto::ApiKey {
        name: name.clone(),
        sha256: sha256.0.to_vec(),
        expires_at: *expires_at,
        disabled: *disabled,
    }
}

fn key_from(key: proto::ApiKey) -> Result<ApiKey, ConvertError> {
    let proto::ApiKey { name, sha256, expires_at, disabled } = key;
    Ok(ApiKey { name, sha256: digest_from("tenant.keys.sha256", &sha256)?, expires_at, disabled })
}

fn pipeline_to(pipeline: &DesiredPipeline) -> proto::Pipeline {
    let DesiredPipeline { name, inputs, steps, outputs } = pipeline;
    proto::Pipeline {
        name: name.as_str().to_owned(),
        inputs: inputs.iter().map(input_to).collect(),
        steps: steps.iter().map(step_to).collect(),
        outputs: outputs.iter().map(output_to).collect(),
    }
}

fn pipeline_from(pipeline: proto::Pipeline) -> Result<DesiredPipeline, ConvertError> {
    let proto::Pipeline { name, inputs, steps, outputs } = pipeline;
    let pipeline = DesiredPipeline {
        name: named("pipeline.name", &name, PipelineName::parse)?,
        inputs: all(inputs, input_from)?,
        steps: all(steps, step_from)?,
        outputs: outputs.into_iter().map(output_from).collect(),
    };
    unique("pipeline.inputs.name", pipeline.inputs.iter().map(|input| input.name.as_str()))?;
    unique("pipeline.steps.name", pipeline.steps.iter().map(|step| step.name.as_str()))?;
    unique("pipeline.outputs.name", pipeline.outputs.iter().map(|output| output.name.as_str()))?;
    check_references(&pipeline)?;
    Ok(pipeline)
}

/// Holds the promise that every step comes after those it uses.
fn check_references(pipeline: &DesiredPipeline) -> Result<(), ConvertError> {
    let unknown = |name: &str| ConvertError::UnknownReference {
        pipeline: pipeline.name.clone(),
        name: name.to_owned(),
    };
    let inputs: HashSet<_> = pipeline.inputs.iter().map(|input| input.name.as_str()).collect();
    let mut steps = HashSet::new();
    for step in &pipeline.steps {
        let templates = step.system.iter().chain([&step.prompt]);
        for part in templates.flat_map(|template| &template.0) {
            match part {
                TemplatePart::Text(_) => {}
                TemplatePart::Input(name) if inputs.contains(name.as_str()) => {}
                TemplatePart::Step(name) if steps.contains(name.as_str()) => {}
                TemplatePart::Input(name) | TemplatePart::Step(name) => return Err(unknown(name)),
            }
        }
        steps.insert(step.name.as_str());
    }
    match pipeline.outputs.iter().find(|output| !steps.contains(output.step.as_str())) {
        Some(output) => Err(unknown(&output.step)),
        None => Ok(()),
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

fn input_from(input: proto::pipeline::Input) -> Result<PipelineInput, ConvertError> {
    let proto::pipeline::Input { name, kind: value, required } = input;
    let field = "pipeline.inputs.kind";
    let kind = match proto::pipeline::InputKind::try_from(value) {
        Ok(proto::pipeline::InputKind::String) => InputKind::String,
        Ok(proto::pipeline::InputKind::Integer) => InputKind::Integer,
        Ok(proto::pipeline::InputKind::Number) => InputKind::Number,
        Ok(proto::pipeline::InputKind::Boolean) => InputKind::Boolean,
        Ok(proto::pipeline::InputKind::Unspecified) => {
            return Err(ConvertError::Missing { field });
        }
        Err(prost::UnknownEnumValue(value)) => {
            return Err(ConvertError::UnknownValue { field, value });
        }
    };
    Ok(PipelineInput { name, kind, required })
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
        model: model.as_str().to_owned(),
        system: system.as_ref().map(template_to),
        prompt: Some(template_to(prompt)),
        tokens_max: *tokens_max,
        deadline_ms: *deadline_ms,
        temperature: *temperature,
        on_error: Some(proto::pipeline::OnError { action: Some(action) }),
        choice: choice_to(choice),
    }
}

fn step_from(step: proto::pipeline::Step) -> Result<PipelineStep, ConvertError> {
    let proto::pipeline::Step {
        name,
        model,
        system,
        prompt,
        tokens_max,
        deadline_ms,
        temperature,
        on_error,
        choice,
    } = step;
    if !temperature.is_finite() {
        return Err(ConvertError::NotFinite { field: "pipeline.steps.temperature" });
    }
    let action = on_error.and_then(|on_error| on_error.action);
    let on_error = match required("pipeline.steps.on_error", action)? {
        proto::pipeline::on_error::Action::Fail(proto::pipeline::on_error::Fail {}) => {
            OnError::Fail
        }
        proto::pipeline::on_error::Action::UseText(text) => OnError::Use(text),
    };
    Ok(PipelineStep {
        name,
        model: named("pipeline.steps.model", &model, ModelName::parse)?,
        system: system.map(template_from).transpose()?,
        prompt: template_from(required("pipeline.steps.prompt", prompt)?)?,
        tokens_max,
        deadline_ms,
        temperature,
        choice: choice.map(choice_from).transpose()?.unwrap_or_default(),
        on_error,
    })
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

fn template_from(template: proto::Template) -> Result<Template, ConvertError> {
    let proto::Template { parts } = template;
    let part_from = |part: proto::template::Part| match required("template.parts", part.part)? {
        proto::template::part::Part::Text(text) => Ok(TemplatePart::Text(text)),
        proto::template::part::Part::Input(name) => Ok(TemplatePart::Input(name)),
        proto::template::part::Part::Step(name) => Ok(TemplatePart::Step(name)),
    };
    all(parts, part_from).map(Template)
}

fn output_to(output: &PipelineOutput) -> proto::pipeline::Output {
    let PipelineOutput { name, step } = output;
    proto::pipeline::Output { name: name.clone(), step: step.clone() }
}

fn output_from(output: proto::pipeline::Output) -> PipelineOutput {
    let proto::pipeline::Output { name, step } = output;
    PipelineOutput { name, step }
}

fn all<A, B>(
    items: Vec<A>,
    convert: impl FnMut(A) -> Result<B, ConvertError>,
) -> Result<Vec<B>, ConvertError> {
    items.into_iter().map(convert).collect()
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

pub(crate) fn named<T>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, NameError>,
) -> Result<T, ConvertError> {
    parse(text).map_err(|source| ConvertError::Name { field, source })
}

fn digest_from(field: &'static str, bytes: &[u8]) -> Result<Sha256, ConvertError> {
    let digest = bytes.try_into();
    digest.map(Sha256).map_err(|_| ConvertError::Digest { field, bytes: bytes.len() })
}

fn unique<'a>(
    field: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConvertError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ConvertError::Duplicate { field, name: name.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a wrong index fails the test, as it should")]
mod tests;
