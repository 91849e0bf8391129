//! A pipeline: its steps one after the other, each a `chat` in the tenant's own program.

mod input;
mod runner;

use std::{collections::HashMap, time::Instant};

use realm_core::{
    call::Deadline,
    desired::{
        Choice, DesiredPipeline, DesiredTenant, OnError, PipelineStep, Template, TemplatePart,
    },
    engine::Finish,
    refusal::{ProgramLimit, Refusal},
    trace::{self, Key, SpanName},
};
use serde_json::{Map, Value, json};

use crate::{call::Answer, refusal::internal};

pub(crate) use input::Request;
pub(crate) use runner::{Apart, Runner};

/// Bytes of a filled-in template: the largest message that the doors let in, since a client could
/// have sent the same text itself.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// Bytes of a pipeline's outputs together, which go out as one message: with every second
/// character escaped they still fit in the 10 MiB that careful clients take. The steps' text,
/// which is the same, has been streamed in pieces before.
const OUTPUTS_BYTES_MAX: usize = 4 << 20;

/// The function of the tenant's program that serves every step.
const FUNCTION: &str = "chat";

/// What holes are filled with.
#[derive(Default)]
struct Filling {
    inputs: HashMap<String, String>,
    steps: HashMap<String, String>,
}

/// Runs every step and streams each as it goes. It is one call: cancelled, charged, limited and
/// ended as one.
pub(crate) async fn run(
    runner: Runner<'_>,
    pipeline: &DesiredPipeline,
    request: Request,
) -> Result<Answer, Refusal> {
    runner.check_program()?;
    let inputs = input::check(&pipeline.inputs, request.input)?;
    let mut filling = Filling { inputs, steps: HashMap::new() };
    let mut finish = Finish::Stop;
    for step in &pipeline.steps {
        let text = match run_step(runner, step, &filling).await {
            Ok(answer) => {
                if answer.finish == Finish::Length {
                    finish = Finish::Length;
                }
                answer.text
            }
            Err(refusal) => on_error(step, refusal, runner.deadline())?,
        };
        filling.steps.insert(step.name.clone(), text);
    }
    let data = json!({ "outputs": outputs(pipeline, &filling)? });
    Ok(Answer { finish, data, text: String::new() })
}

fn outputs(pipeline: &DesiredPipeline, filling: &Filling) -> Result<Map<String, Value>, Refusal> {
    let (mut outputs, mut bytes_left) = (Map::new(), OUTPUTS_BYTES_MAX);
    for output in &pipeline.outputs {
        let text = filling.step(&output.step)?;
        bytes_left = bytes_left.checked_sub(text.len()).ok_or_else(|| {
            let max = u64::try_from(OUTPUTS_BYTES_MAX).unwrap_or(u64::MAX);
            Refusal::ProgramLimit { limit: ProgramLimit::Output, max }
        })?;
        outputs.insert(output.name.clone(), Value::from(text.as_str()));
    }
    Ok(outputs)
}

async fn run_step(
    runner: Runner<'_>,
    step: &PipelineStep,
    filling: &Filling,
) -> Result<Answer, Refusal> {
    let params = params(runner.tenant(), step, filling)?;
    let deadline = Deadline::after(Instant::now(), step.deadline_ms);
    let mut span = runner.trace().begin(SpanName::Step);
    span.set(Key::Step, step.name.as_str());
    span.set(Key::ModelName, step.model.as_str());
    let name = step.name.as_str().into();
    let ran = Box::pin(runner.run(name, params, deadline, span.scope())).await;
    span.end(trace::outcome(&ran));
    ran
}

/// A step's text when it fails. What ends the whole call ends it whatever a step says.
fn on_error(step: &PipelineStep, refusal: Refusal, deadline: Deadline) -> Result<String, Refusal> {
    let is_over = deadline.is_over(Instant::now()) || ends_the_call(&refusal);
    match &step.on_error {
        OnError::Use(text) if !is_over => Ok(text.clone()),
        OnError::Use(_) | OnError::Fail => Err(refusal),
    }
}

/// Whether nothing after the refused step could be served either. Memory is each instance's own.
const fn ends_the_call(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Cancelled
            | Refusal::SlowReader
            | Refusal::Draining
            | Refusal::Moved
            | Refusal::ProgramLimit {
                limit: ProgramLimit::Fuel | ProgramLimit::HostCalls | ProgramLimit::Output,
                ..
            }
    )
}

/// The step as parameters of `chat`.
fn params(
    tenant: &DesiredTenant,
    step: &PipelineStep,
    filling: &Filling,
) -> Result<Value, Refusal> {
    let grant = tenant.models.iter().find(|grant| grant.model == step.model);
    let grant = grant.ok_or_else(|| Refusal::UnknownModel(step.model.to_string()))?;
    let mut messages = Vec::new();
    if let Some(system) = &step.system {
        messages.push(json!({ "role": "system", "content": filling.fill(system)? }));
    }
    messages.push(json!({ "role": "user", "content": filling.fill(&step.prompt)? }));
    let mut params = json!({
        "messages": messages,
        "model": grant.alias,
        "max_tokens": step.tokens_max,
        "temperature": step.temperature,
    });
    for (name, value) in choice_params(&step.choice) {
        if let Some(value) = value {
            params[name] = value;
        }
    }
    Ok(params)
}

fn choice_params(choice: &Choice) -> [(&'static str, Option<Value>); 9] {
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
    [
        ("top_k", top_k.map(Value::from)),
        ("top_p", top_p.map(Value::from)),
        ("min_p", min_p.map(Value::from)),
        ("typical_p", typical_p.map(Value::from)),
        ("repetition_penalty", repetition_penalty.map(Value::from)),
        ("frequency_penalty", frequency_penalty.map(Value::from)),
        ("presence_penalty", presence_penalty.map(Value::from)),
        ("seed", seed.map(Value::from)),
        ("stop", (!stop.is_empty()).then(|| stop.as_slice().into())),
    ]
}

impl Filling {
    fn fill(&self, template: &Template) -> Result<String, Refusal> {
        let mut text = String::new();
        for part in &template.0 {
            let piece = match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Input(name) => self.input(name)?,
                TemplatePart::Step(name) => self.step(name)?,
            };
            if text.len().saturating_add(piece.len()) > PROMPT_BYTES_MAX {
                return Err(Refusal::TooLarge { bytes_max: PROMPT_BYTES_MAX });
            }
            text.push_str(piece);
        }
        Ok(text)
    }

    /// An input's text. The planner lets a template name only inputs that are always there.
    fn input(&self, name: &str) -> Result<&String, Refusal> {
        self.inputs.get(name).ok_or_else(|| internal("a pipeline's template names no input"))
    }

    /// A step's text. The planner has put steps in an order in which it is there.
    fn step(&self, name: &str) -> Result<&String, Refusal> {
        self.steps.get(name).ok_or_else(|| internal("a pipeline's step comes before its source"))
    }
}

#[cfg(test)]
mod tests {
    use realm_core::{desired::PipelineOutput, name::PipelineName};

    use super::*;

    #[test]
    fn a_template_that_multiplies_its_input_is_stopped() {
        let mut filling = Filling::default();
        filling.inputs.insert("x".into(), "a".repeat(PROMPT_BYTES_MAX / 2));
        let twice = Template(vec![TemplatePart::Input("x".into()); 2]);
        assert_eq!(filling.fill(&twice).unwrap().len(), PROMPT_BYTES_MAX);
        let thrice = Template(vec![TemplatePart::Input("x".into()); 3]);
        let refusal = filling.fill(&thrice).unwrap_err();
        assert_eq!(refusal, Refusal::TooLarge { bytes_max: PROMPT_BYTES_MAX });
    }

    #[test]
    fn a_step_passes_on_what_it_says_and_leaves_the_rest_to_the_program() {
        let said = |choice: &Choice| -> Map<String, Value> {
            let said = choice_params(choice).into_iter();
            said.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
        };
        assert!(said(&Choice::default()).is_empty());
        let choice = Choice {
            top_k: Some(5),
            top_p: Some(0.5),
            min_p: Some(0.0),
            typical_p: Some(1.0),
            repetition_penalty: Some(1.5),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            seed: Some(7),
            stop: vec!["a".into()],
        };
        let expected = json!({
            "top_k": 5, "top_p": 0.5, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.5,
            "frequency_penalty": -2.0, "presence_penalty": 2.0, "seed": 7, "stop": ["a"],
        });
        assert_eq!(Value::from(said(&choice)), expected);
    }

    #[test]
    fn outputs_that_no_message_holds_are_refused() {
        let name = PipelineName::new("tests", "echo").unwrap();
        let output = |name: &str| PipelineOutput { name: name.into(), step: "step".into() };
        let (inputs, steps) = (Vec::new(), Vec::new());
        let mut pipeline = DesiredPipeline { name, inputs, steps, outputs: vec![output("a")] };
        let mut filling = Filling::default();
        filling.steps.insert("step".into(), "a".repeat(OUTPUTS_BYTES_MAX));
        assert_eq!(outputs(&pipeline, &filling).unwrap().len(), 1);
        pipeline.outputs.push(output("b"));
        let max = u64::try_from(OUTPUTS_BYTES_MAX).unwrap();
        let expected = Refusal::ProgramLimit { limit: ProgramLimit::Output, max };
        assert_eq!(outputs(&pipeline, &filling).unwrap_err(), expected);
    }
}
