//! One step of a pipeline: its numbers, its templates, and what it waits for.

use realm_crds::{
    model::CONTEXT_MAX,
    pipeline::{
        OnError as RawOnError, PipelineStep as RawStep, SEED_MAX, STEPS_MAX, STOP_LEN_MAX,
        STOPS_MAX, TEXT_LEN_MAX, TOP_K_MAX,
    },
    tenant::{DEADLINE_MS_MAX, ModelRef},
};

use crate::{
    desired::{Choice, OnError, PipelineInput, PipelineStep, Template, TemplatePart},
    name::Name,
    problem::{Findings, Reason},
    validate::{field, template},
};

/// What a number of a step may be, under its name there.
struct Range {
    field: &'static str,
    min: f64,
    max: f64,
    /// Whether `min` itself is too little.
    is_open: bool,
}

impl Range {
    const fn from(field: &'static str, min: f64, max: f64) -> Self {
        Self { field, min, max, is_open: false }
    }

    const fn above(field: &'static str, min: f64, max: f64) -> Self {
        Self { field, min, max, is_open: true }
    }
}

/// How freely a model may choose: beyond 2 answers are noise.
const TEMPERATURE: Range = Range::from("temperature", 0.0, 2.0);
/// The others are what samplers take.
const TOP_P: Range = Range::above("topP", 0.0, 1.0);
const MIN_P: Range = Range::from("minP", 0.0, 1.0);
const TYPICAL_P: Range = Range::above("typicalP", 0.0, 1.0);
const REPETITION_PENALTY: Range = Range::above("repetitionPenalty", 0.0, 10.0);
const FREQUENCY_PENALTY: Range = Range::from("frequencyPenalty", -2.0, 2.0);
const PRESENCE_PENALTY: Range = Range::from("presencePenalty", -2.0, 2.0);

/// Bytes of a stop string, which has as many characters at most.
const STOP_BYTES_MAX: usize = STOP_LEN_MAX as usize;

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
            top_k: _,
            top_p: _,
            min_p: _,
            typical_p: _,
            repetition_penalty: _,
            frequency_penalty: _,
            presence_penalty: _,
            seed: _,
            stop: _,
            deadline_ms,
            depends_on,
            on_error,
        } = raw;
        let model_path = format!("{}.model", self.path);
        let model = field::reference(&model_path, (namespace, model), own, self.findings);
        let system = system.as_ref().map(|text| self.template("system", text));
        let prompt = self.template("prompt", prompt);
        self.check_numbers(*max_tokens, *deadline_ms);
        let temperature = self.number(*temperature, &TEMPERATURE);
        let choice = self.choice(raw);
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
                choice,
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

    fn choice(&mut self, raw: &RawStep) -> Choice {
        if let Some(top_k) = raw.top_k {
            let path = format!("{}.topK", self.path);
            field::range(&path, top_k, (0, TOP_K_MAX), self.findings);
        }
        if let Some(seed) = raw.seed {
            let path = format!("{}.seed", self.path);
            field::range(&path, seed, (0, SEED_MAX), self.findings);
        }
        self.check_stop(&raw.stop);
        let mut number = |value: Option<f64>, range| value.map(|value| self.number(value, range));
        Choice {
            top_k: raw.top_k,
            top_p: number(raw.top_p, &TOP_P),
            min_p: number(raw.min_p, &MIN_P),
            typical_p: number(raw.typical_p, &TYPICAL_P),
            repetition_penalty: number(raw.repetition_penalty, &REPETITION_PENALTY),
            frequency_penalty: number(raw.frequency_penalty, &FREQUENCY_PENALTY),
            presence_penalty: number(raw.presence_penalty, &PRESENCE_PENALTY),
            seed: raw.seed,
            stop: raw.stop.clone(),
        }
    }

    /// The comparisons are written so that NaN fails each of them.
    #[expect(clippy::cast_possible_truncation, reason = "samplers work with 24 bits")]
    fn number(&mut self, value: f64, range: &Range) -> f32 {
        let Range { field, min, max, is_open } = *range;
        let single = value as f32;
        // As the sampler has it: a number that is next to nothing may be nothing there.
        let is_enough = if is_open { f64::from(single) > min } else { value >= min };
        if !(is_enough && value <= max) {
            let from = if is_open { "above" } else { "from" };
            let message = format!("{value} is not {from} {min} to {max}");
            self.findings.add(format!("{}.{field}", self.path), Reason::OutOfRange, message);
        }
        single
    }

    fn check_stop(&mut self, stop: &[String]) {
        let path = format!("{}.stop", self.path);
        if !field::count(&path, stop.len(), (0, STOPS_MAX), self.findings) {
            return;
        }
        let entry = |i: usize| format!("{path}[{i}]");
        field::unique(stop.iter().map(String::as_str), entry, self.findings);
        for (i, text) in stop.iter().enumerate() {
            let bytes = text.len();
            if !(1..=STOP_BYTES_MAX).contains(&bytes) {
                let message = format!("{bytes} bytes are not from 1 to {STOP_BYTES_MAX}");
                self.findings.add(entry(i), Reason::InvalidLength, message);
            }
        }
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
