//! The planner's desired state in the agent's words. No decision is made here.

use realm_core::{
    desired as agent,
    name::{GroupName, ModelName, NameError, PipelineName, TenantName},
};
use realm_plan::{Name, desired as plan};

/// Says the same in the agent's words. Fails only for a name that the agent could not have.
pub(super) fn desired(desired: &plan::Desired) -> Result<agent::Desired, NameError> {
    let plan::Desired { generation, models, tenants, pipelines, routes, doors } = desired;
    Ok(agent::Desired {
        generation: *generation,
        models: models.iter().map(model).collect::<Result<_, _>>()?,
        tenants: tenants.iter().map(|shared| tenant(shared)).collect::<Result<_, _>>()?,
        pipelines: pipelines.iter().map(pipeline).collect::<Result<_, _>>()?,
        routes: routes.iter().map(route).collect::<Result<_, _>>()?,
        doors: *doors,
    })
}

fn model(model: &plan::DesiredModel) -> Result<agent::DesiredModel, NameError> {
    let plan::DesiredModel {
        name,
        artifact: file,
        secret,
        base,
        context,
        kv_blocks,
        kv_cache,
        accelerator,
        stage,
    } = model;
    Ok(agent::DesiredModel {
        name: model_name(name)?,
        artifact: artifact(file),
        secret: secret.as_ref().map(|secret| secret.name().to_owned()),
        base: base.as_ref().map(model_name).transpose()?,
        context: *context,
        kv_blocks: *kv_blocks,
        kv_cache: match kv_cache {
            plan::KvCache::F16 => agent::KvCache::F16,
            plan::KvCache::Q8_0 => agent::KvCache::Q8_0,
        },
        accelerator: match accelerator {
            plan::Accelerator::Any => agent::Accelerator::Any,
            plan::Accelerator::Cpu => agent::Accelerator::Cpu,
            plan::Accelerator::Cuda => agent::Accelerator::Cuda,
            plan::Accelerator::WebGpu => agent::Accelerator::WebGpu,
        },
        stage: match stage {
            plan::Stage::Inspect => agent::Stage::Inspect,
            plan::Stage::Prefetch => agent::Stage::Prefetch,
            plan::Stage::Load => agent::Stage::Load,
        },
    })
}

fn route(route: &plan::Route) -> Result<agent::Route, NameError> {
    let plan::Route { model, peers } = route;
    let peer = |plan::Peer { node, address }: &plan::Peer| agent::Peer {
        node: node.clone(),
        address: address.clone(),
    };
    Ok(agent::Route { model: model_name(model)?, peers: peers.iter().map(peer).collect() })
}

fn artifact(artifact: &plan::Artifact) -> agent::Artifact {
    let plan::Artifact { sources, sha256: digest, parts } = artifact;
    agent::Artifact {
        sources: sources.clone(),
        sha256: digest.map(sha256),
        parts: parts.iter().copied().map(sha256).collect(),
    }
}

const fn sha256(digest: plan::Sha256) -> agent::Sha256 {
    let plan::Sha256(bytes) = digest;
    agent::Sha256(bytes)
}

fn tenant(tenant: &plan::DesiredTenant) -> Result<agent::DesiredTenant, NameError> {
    let plan::DesiredTenant {
        name,
        weight,
        priority,
        suspended,
        limits: spend,
        limits_mode,
        share_group,
        models,
        pipelines,
        keys,
        program: hosted,
    } = tenant;
    let pipelines = pipelines
        .iter()
        .map(|(alias, name)| Ok((alias.clone(), pipeline_name(name)?)))
        .collect::<Result<_, NameError>>()?;
    Ok(agent::DesiredTenant {
        name: TenantName::new(name.namespace(), name.name())?,
        weight: *weight,
        priority: match priority {
            plan::Priority::Low => agent::Priority::Low,
            plan::Priority::Normal => agent::Priority::Normal,
            plan::Priority::High => agent::Priority::High,
        },
        suspended: *suspended,
        limits: limits(*spend),
        limits_mode: match limits_mode {
            plan::LimitsMode::Enforce => agent::LimitsMode::Enforce,
            plan::LimitsMode::Shadow => agent::LimitsMode::Shadow,
        },
        share_group: share_group
            .as_ref()
            .map(|group| GroupName::new(name.namespace(), group.name()))
            .transpose()?,
        models: models.iter().map(grant).collect::<Result<_, _>>()?,
        pipelines,
        keys: keys.iter().map(key).collect(),
        program: hosted.as_ref().map(program),
    })
}

fn program(program: &plan::HostedProgram) -> agent::HostedProgram {
    let plan::HostedProgram { code, config } = program;
    agent::HostedProgram {
        code: match code {
            plan::Program::BuiltIn => agent::Program::BuiltIn,
            plan::Program::Component(file) => agent::Program::Component(artifact(file)),
        },
        config: config.clone(),
    }
}

const fn limits(limits: plan::Limits) -> agent::Limits {
    let plan::Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max,
        kv_blocks_max,
        program,
    } = limits;
    let plan::ProgramLimits {
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
    agent::Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        context_max,
        output_tokens_max,
        kv_blocks_max,
        program: agent::ProgramLimits {
            memory_bytes_max,
            fuel_max,
            host_calls_max,
            output_bytes_max,
            deadline_ms,
            token_fuel_max,
            token_deadline_ms,
            instances_max,
            memory64,
        },
    }
}

fn grant(grant: &plan::ModelGrant) -> Result<agent::ModelGrant, NameError> {
    let plan::ModelGrant { alias, model } = grant;
    Ok(agent::ModelGrant { alias: alias.clone(), model: model_name(model)? })
}

fn key(key: &plan::ApiKey) -> agent::ApiKey {
    let plan::ApiKey { name, sha256: digest, expires_at, disabled } = key;
    agent::ApiKey {
        name: name.clone(),
        sha256: sha256(*digest),
        expires_at: *expires_at,
        disabled: *disabled,
    }
}

fn pipeline(pipeline: &plan::DesiredPipeline) -> Result<agent::DesiredPipeline, NameError> {
    let plan::DesiredPipeline { name, inputs, steps, outputs } = pipeline;
    Ok(agent::DesiredPipeline {
        name: pipeline_name(name)?,
        inputs: inputs.iter().map(input).collect(),
        steps: steps.iter().map(step).collect::<Result<_, _>>()?,
        outputs: outputs.iter().map(output).collect(),
    })
}

fn input(input: &plan::PipelineInput) -> agent::PipelineInput {
    let plan::PipelineInput { name, kind, required } = input;
    let kind = match kind {
        plan::InputKind::String => agent::InputKind::String,
        plan::InputKind::Integer => agent::InputKind::Integer,
        plan::InputKind::Number => agent::InputKind::Number,
        plan::InputKind::Boolean => agent::InputKind::Boolean,
    };
    agent::PipelineInput { name: name.clone(), kind, required: *required }
}

fn step(step: &plan::PipelineStep) -> Result<agent::PipelineStep, NameError> {
    let plan::PipelineStep {
        name,
        model,
        system,
        prompt,
        tokens_max,
        deadline_ms,
        temperature,
        choice: chosen,
        on_error,
    } = step;
    Ok(agent::PipelineStep {
        name: name.clone(),
        model: model_name(model)?,
        system: system.as_ref().map(template),
        prompt: template(prompt),
        tokens_max: *tokens_max,
        deadline_ms: *deadline_ms,
        temperature: *temperature,
        choice: choice(chosen),
        on_error: match on_error {
            plan::OnError::Fail => agent::OnError::Fail,
            plan::OnError::Use(text) => agent::OnError::Use(text.clone()),
        },
    })
}

fn choice(choice: &plan::Choice) -> agent::Choice {
    let plan::Choice {
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
    agent::Choice {
        top_k: *top_k,
        top_p: *top_p,
        min_p: *min_p,
        typical_p: *typical_p,
        repetition_penalty: *repetition_penalty,
        frequency_penalty: *frequency_penalty,
        presence_penalty: *presence_penalty,
        seed: *seed,
        stop: stop.clone(),
    }
}

fn template(template: &plan::Template) -> agent::Template {
    let plan::Template(parts) = template;
    let part = |part: &plan::TemplatePart| match part {
        plan::TemplatePart::Text(text) => agent::TemplatePart::Text(text.clone()),
        plan::TemplatePart::Input(name) => agent::TemplatePart::Input(name.clone()),
        plan::TemplatePart::Step(name) => agent::TemplatePart::Step(name.clone()),
    };
    agent::Template(parts.iter().map(part).collect())
}

fn output(output: &plan::PipelineOutput) -> agent::PipelineOutput {
    let plan::PipelineOutput { name, step } = output;
    agent::PipelineOutput { name: name.clone(), step: step.clone() }
}

fn model_name(name: &Name) -> Result<ModelName, NameError> {
    ModelName::new(name.namespace(), name.name())
}

fn pipeline_name(name: &Name) -> Result<PipelineName, NameError> {
    PipelineName::new(name.namespace(), name.name())
}

#[cfg(test)]
mod tests {
    use realm_core::sampling::{RANGES, Range, STOP_BYTES_MAX, STOPS_MAX, TEMPERATURE};
    use serde_json::{Value, json};

    /// The definition of a step's fields, as the API server has it.
    fn step_schema() -> Value {
        let [_, pipeline, _] = realm_crds::definitions();
        let definition = json!(pipeline);
        let steps = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/steps";
        let step = definition.pointer(&format!("{steps}/items/properties"));
        step.unwrap_or_else(|| panic!("{definition:#}")).clone()
    }

    fn camel_case(name: &str) -> String {
        let mut parts = name.split('_');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |name, part| format!("{name}{}{}", part[..1].to_uppercase(), &part[1..]))
    }

    #[test]
    fn a_step_takes_what_every_sampler_takes_and_nothing_else() {
        let step = step_schema();
        for Range { name, min, max, is_open } in RANGES {
            let field = &step[camel_case(name)];
            // An answer that is drawn hotter than 2 is noise, which no pipeline wants.
            let max = if name == TEMPERATURE.name { 2.0 } else { max };
            assert_eq!(
                (&field["minimum"], &field["maximum"]),
                (&json!(min), &json!(max)),
                "{name}"
            );
            assert_eq!(field["exclusiveMinimum"] == json!(true), is_open, "{name}");
        }
        let stop = &step["stop"];
        assert_eq!(stop["maxItems"], json!(STOPS_MAX));
        assert_eq!(stop["items"]["maxLength"], json!(STOP_BYTES_MAX));
    }
}
