//! One step of a pipeline: its numbers, its templates, and what it waits for.

use realm_crds::{
    model::CONTEXT_MAX,
    pipeline::{OnError as RawOnError, PipelineStep as RawStep, STEPS_MAX, TEXT_LEN_MAX},
    tenant::{DEADLINE_MS_MAX, ModelRef},
};

use crate::{
    desired::{OnError, PipelineInput, PipelineStep, Template, TemplatePart},
    name::Name,
    problem::{Findings, Reason},
    validate::{field, template},
};

/// How freely a model may choose: beyond 2 answers are noise.
const TEMPERATURE_MAX: f64 = 2.0;

/// Where a step stands, and what it may refer to.
pub(super) struct StepReader<'a> {
    pub(super) path: &'a str,
    pub(super) inputs: &'a [PipelineInput],
    pub(super) steps: &'a [RawStep],
    pub(super) findings: &'a mut Findings,
}

impl StepReader<'_> {
    /// The step, and the indices of the steps that must have ended before it starts.
    pub(super) fn read(&mut self, raw: &RawStep, own: &Name) -> (Option<PipelineStep>, Vec<usize>) {
        let RawStep {
            name,
            model: ModelRef { name: model, namespace },
            system,
            prompt,
            max_tokens,
            temperature,
            deadline_ms,
            depends_on,
            on_error,
        } = raw;
        let model_path = format!("{}.model", self.path);
        let model = field::reference(&model_path, (namespace, model), own, self.findings);
        let system = system.as_ref().map(|text| self.template("system", text));
        let prompt = self.template("prompt", prompt);
        self.check_numbers(*max_tokens, *deadline_ms);
        let temperature = self.temperature(*temperature);
        let on_error = self.on_error(on_error.as_ref());
        let mut after = self.depends_on(depends_on);
        for template in system.iter().chain([&prompt]).flatten() {
            after.extend(self.used_by(template));
        }
        let step = (|| {
            Some(PipelineStep {
                name: name.clone(),
                model: model?,
                system: match system {
                    None => None,
                    Some(template) => Some(template?),
                },
                prompt: prompt?,
                tokens_max: *max_tokens,
                deadline_ms: *deadline_ms,
                temperature,
                on_error,
            })
        })();
        (step, after)
    }

    fn check_numbers(&mut self, max_tokens: u32, deadline_ms: u64) {
        let path = format!("{}.maxTokens", self.path);
        field::range(&path, max_tokens, (1, CONTEXT_MAX), self.findings);
        let path = format!("{}.deadlineMs", self.path);
        field::range(&path, deadline_ms, (1, DEADLINE_MS_MAX), self.findings);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a temperature needs no more than 24 bits")]
    fn temperature(&mut self, value: f64) -> f32 {
        // Written so that NaN is refused too.
        if !(0.0..=TEMPERATURE_MAX).contains(&value) {
            let message = format!("{value} is not from 0 to {TEMPERATURE_MAX}");
            self.findings.add(format!("{}.temperature", self.path), Reason::OutOfRange, message);
        }
        value as f32
    }

    fn on_error(&mut self, raw: Option<&RawOnError>) -> OnError {
        let Some(RawOnError { text }) = raw else { return OnError::Fail };
        let path = format!("{}.onError.use", self.path);
        field::length(&path, text, (0, TEXT_LEN_MAX), self.findings);
        OnError::Use(text.clone())
    }

    fn template(&mut self, field: &str, text: &str) -> Option<Template> {
        let path = format!("{}.{field}", self.path);
        field::length(&path, text, (1, TEXT_LEN_MAX), self.findings);
        let template = template::parse(text)
            .map_err(|message| self.findings.add(&path, Reason::InvalidTemplate, message))
            .ok()?;
        for part in &template.0 {
            match part {
                TemplatePart::Input(name) if !self.inputs.iter().any(|i| i.name == *name) => {
                    let message = format!("no input is named `{name}`");
                    self.findings.add(&path, Reason::UnknownInput, message);
                }
                TemplatePart::Step(name) if self.index_of(name).is_none() => {
                    let message = format!("no step is named `{name}`");
                    self.findings.add(&path, Reason::UnknownStep, message);
                }
                TemplatePart::Text(_) | TemplatePart::Input(_) | TemplatePart::Step(_) => {}
            }
        }
        Some(template)
    }

    fn depends_on(&mut self, names: &[String]) -> Vec<usize> {
        let path = format!("{}.dependsOn", self.path);
        if !field::count(&path, names.len(), (0, STEPS_MAX), self.findings) {
            return Vec::new();
        }
        let entry = |i: usize| format!("{path}[{i}]");
        field::unique(names.iter().map(String::as_str), entry, self.findings);
        let mut after = Vec::new();
        for (i, name) in names.iter().enumerate() {
            if let Some(step) = self.index_of(name) {
                after.push(step);
            } else {
                let message = format!("no step is named `{name}`");
                self.findings.add(entry(i), Reason::UnknownStep, message);
            }
        }
        after
    }

    fn used_by(&self, template: &Template) -> Vec<usize> {
        let steps = template.0.iter().filter_map(|part| match part {
            TemplatePart::Step(name) => Some(name),
            TemplatePart::Text(_) | TemplatePart::Input(_) => None,
        });
        steps.filter_map(|name| self.index_of(name)).collect()
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }
}
