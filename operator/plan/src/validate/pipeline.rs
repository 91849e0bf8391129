//! Pipelines.

mod order;
mod step;

use realm_crds::{
    Pipeline, PipelineSpec,
    pipeline::{
        INPUTS_MAX, InputKind as RawInputKind, OUTPUTS_MAX, PipelineInput as RawInput,
        PipelineOutput as RawOutput, PipelineStep as RawStep, STEPS_MAX, TENANTS_MAX,
    },
};

use super::{field, template::is_field};
use crate::{
    desired::{DesiredPipeline, InputKind, PipelineInput, PipelineOutput, PipelineStep},
    name::Name,
    problem::{Findings, Problem, Reason},
};

/// A pipeline that can be planned. Only [`pipeline`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidPipeline {
    pub(crate) desired: DesiredPipeline,
    /// The models of the steps, in the order of the spec.
    pub(crate) models: Vec<Name>,
    /// In the order of the spec.
    pub(crate) tenants: Vec<Name>,
}

impl ValidPipeline {
    pub const fn name(&self) -> &Name {
        &self.desired.name
    }
}

/// Proves `raw`, or lists what is wrong with it.
pub fn pipeline(raw: &Pipeline) -> Result<ValidPipeline, Vec<Problem>> {
    let PipelineSpec { inputs, steps, outputs, tenants } = &raw.spec;
    let mut findings = Findings::default();
    let name = field::name(&raw.metadata, &mut findings);
    let can_be_read = [
        field::count("spec.inputs", inputs.len(), (0, INPUTS_MAX), &mut findings),
        field::count("spec.steps", steps.len(), (1, STEPS_MAX), &mut findings),
        field::count("spec.outputs", outputs.len(), (1, OUTPUTS_MAX), &mut findings),
        field::count("spec.tenants", tenants.len(), (1, TENANTS_MAX), &mut findings),
    ];
    let Some(name) = name.filter(|_| !can_be_read.contains(&false)) else {
        return findings.prove(None);
    };
    let inputs = read_inputs(inputs, &mut findings);
    let outputs = read_outputs(outputs, steps, &mut findings);
    let tenants = read_tenants(tenants, &name, &mut findings);
    let valid = read_steps(steps, &inputs, &name, &mut findings).map(|(models, steps)| {
        ValidPipeline { desired: DesiredPipeline { name, inputs, steps, outputs }, models, tenants }
    });
    findings.prove(valid)
}

fn read_inputs(raw: &[RawInput], findings: &mut Findings) -> Vec<PipelineInput> {
    check_names("spec.inputs", raw.iter().map(|input| input.name.as_str()), findings);
    raw.iter()
        .map(|RawInput { name, kind, required }| PipelineInput {
            name: name.clone(),
            kind: match kind {
                RawInputKind::String => InputKind::String,
                RawInputKind::Integer => InputKind::Integer,
                RawInputKind::Number => InputKind::Number,
                RawInputKind::Boolean => InputKind::Boolean,
            },
            required: *required,
        })
        .collect()
}

fn read_outputs(
    raw: &[RawOutput],
    steps: &[RawStep],
    findings: &mut Findings,
) -> Vec<PipelineOutput> {
    check_names("spec.outputs", raw.iter().map(|output| output.name.as_str()), findings);
    for (i, RawOutput { name: _, step }) in raw.iter().enumerate() {
        if !steps.iter().any(|other| other.name == *step) {
            let message = format!("no step is named `{step}`");
            findings.add(format!("spec.outputs[{i}].step"), Reason::UnknownStep, message);
        }
    }
    raw.iter()
        .map(|RawOutput { name, step }| PipelineOutput { name: name.clone(), step: step.clone() })
        .collect()
}

fn read_tenants(raw: &[String], own: &Name, findings: &mut Findings) -> Vec<Name> {
    let path = |i: usize| format!("spec.tenants[{i}]");
    field::unique(raw.iter().map(String::as_str), path, findings);
    raw.iter()
        .enumerate()
        .filter_map(|(i, tenant)| field::reference(&path(i), ("", tenant), own, findings))
        .collect()
}

/// The models of the steps as the spec lists them, and the steps in running order.
fn read_steps(
    raw: &[RawStep],
    inputs: &[PipelineInput],
    own: &Name,
    findings: &mut Findings,
) -> Option<(Vec<Name>, Vec<PipelineStep>)> {
    check_names("spec.steps", raw.iter().map(|step| step.name.as_str()), findings);
    let mut steps = Vec::with_capacity(raw.len());
    let mut waits = Vec::with_capacity(raw.len());
    for (i, step) in raw.iter().enumerate() {
        let path = format!("spec.steps[{i}]");
        let mut reader = step::StepReader { path: &path, inputs, steps: raw, findings };
        let (step, after) = reader.read(step, own);
        steps.extend(step);
        waits.push(after);
    }
    if steps.len() != raw.len() {
        return None;
    }
    let models = steps.iter().map(|step| step.model.clone()).collect();
    match order::order(&waits) {
        Ok(order) => {
            let mut slots = steps.into_iter().map(Some).collect::<Vec<_>>();
            let steps = order.into_iter().filter_map(|i| slots.get_mut(i)?.take()).collect();
            Some((models, steps))
        }
        Err(cycle) => {
            let names = cycle.iter().filter_map(|&i| raw.get(i)).map(|step| step.name.as_str());
            let names = names.collect::<Vec<_>>().join(" -> ");
            findings.add(
                "spec.steps",
                Reason::Cycle,
                format!("steps wait for each other: {names}"),
            );
            None
        }
    }
}

/// Names of inputs, steps or outputs: well formed, and each there once.
fn check_names<'a>(
    path: &str,
    names: impl Iterator<Item = &'a str> + Clone,
    findings: &mut Findings,
) {
    for (i, name) in names.clone().enumerate() {
        if !is_field(name) {
            let message =
                format!("`{name}` is not a letter followed by at most 62 letters, digits, _ and -");
            findings.add(format!("{path}[{i}].name"), Reason::InvalidValue, message);
        }
    }
    field::unique(names, |i| format!("{path}[{i}].name"), findings);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Choice, OnError, TemplatePart};

    /// The pipeline in `spec`, or its problems as `path reason`.
    fn check(spec: &str) -> Result<ValidPipeline, Vec<String>> {
        let yaml = format!(
            "apiVersion: realm.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: p}}\nspec: {{{spec}}}"
        );
        pipeline(&serde_saphyr::from_str(&yaml).unwrap()).map_err(|problems| {
            problems.iter().map(|p| format!("{} {}", p.path, p.reason.as_str())).collect()
        })
    }

    /// A pipeline of these steps, with an input `x` and the first step's text as its output.
    fn check_steps(steps: &[(&str, &str)]) -> Result<ValidPipeline, Vec<String>> {
        let list = steps
            .iter()
            .map(|(name, more)| {
                format!("{{name: {name}, model: {{name: m}}, maxTokens: 9, {more}}}")
            })
            .collect::<Vec<_>>()
            .join(", ");
        check(&format!(
            "inputs: [{{name: x}}], steps: [{list}], outputs: [{{name: o, step: {}}}], tenants: [t]",
            steps[0].0
        ))
    }

    fn order_of(pipeline: &ValidPipeline) -> Vec<&str> {
        pipeline.desired.steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn a_step_comes_after_those_it_uses() {
        let pipeline = check_steps(&[
            ("last", "prompt: 'All of {{ steps.middle }}', dependsOn: [side]"),
            ("side", "prompt: Aside"),
            ("middle", "prompt: 'For {{ inputs.x }}', system: 'After {{ steps.first }}'"),
            ("first", "prompt: Begin"),
        ])
        .unwrap();
        assert_eq!(order_of(&pipeline), ["side", "first", "middle", "last"]);
    }

    #[test]
    fn steps_that_use_nothing_keep_their_order() {
        let pipeline =
            check_steps(&[("b", "prompt: x"), ("a", "prompt: x"), ("c", "prompt: x")]).unwrap();
        assert_eq!(order_of(&pipeline), ["b", "a", "c"]);
    }

    #[test]
    fn defaults_are_filled_in() {
        let pipeline = check_steps(&[("s", "prompt: 'Hi {{ inputs.x }}'")]).unwrap();
        let step = &pipeline.desired.steps[0];
        assert_eq!((step.tokens_max, step.deadline_ms), (9, 60_000));
        assert_eq!(step.on_error, OnError::Fail);
        assert!(step.temperature.abs() < f32::EPSILON);
        assert_eq!(
            step.prompt.0,
            [TemplatePart::Text("Hi ".to_owned()), TemplatePart::Input("x".to_owned())]
        );
        assert_eq!(pipeline.desired.inputs[0].kind, InputKind::String);
        assert!(pipeline.desired.inputs[0].required);
        let pipeline = check_steps(&[("s", "prompt: a, onError: {use: none}")]).unwrap();
        assert_eq!(pipeline.desired.steps[0].on_error, OnError::Use("none".to_owned()));
    }

    #[test]
    fn steps_that_wait_for_each_other_are_refused() {
        for steps in [
            [("a", "prompt: '{{ steps.b }}'"), ("b", "prompt: '{{ steps.a }}'")],
            [("a", "prompt: x, dependsOn: [b]"), ("b", "prompt: '{{ steps.a }}'")],
            [("a", "prompt: '{{ steps.a }}'"), ("b", "prompt: x")],
            [("a", "prompt: x, dependsOn: [a]"), ("b", "prompt: x, dependsOn: [a]")],
        ] {
            assert_eq!(check_steps(&steps).unwrap_err(), ["spec.steps Cycle"], "{steps:?}");
        }
    }

    #[test]
    fn unknown_references_are_refused_where_they_stand() {
        let problems = check_steps(&[
            ("a", "prompt: '{{ inputs.y }} {{ steps.z }}', system: '{{ nothing }}'"),
            ("b", "prompt: x, dependsOn: [a, z]"),
        ])
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.steps[0].system InvalidTemplate",
                "spec.steps[0].prompt UnknownInput",
                "spec.steps[0].prompt UnknownStep",
                "spec.steps[1].dependsOn[1] UnknownStep",
            ]
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = check(
            "inputs: [{name: x, type: integer}, {name: x}, {name: '1'}], \
             steps: [{name: s, model: {name: m, namespace: 'N'}, prompt: '', maxTokens: 0, \
                      temperature: 2.5, deadlineMs: 0}], \
             outputs: [{name: o, step: none}, {name: o, step: s}], tenants: [t, t, T]",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.inputs[2].name InvalidValue",
                "spec.inputs[1].name Duplicate",
                "spec.outputs[1].name Duplicate",
                "spec.outputs[0].step UnknownStep",
                "spec.tenants[1] Duplicate",
                "spec.tenants[2] InvalidValue",
                "spec.steps[0].model InvalidValue",
                "spec.steps[0].prompt InvalidLength",
                "spec.steps[0].maxTokens OutOfRange",
                "spec.steps[0].deadlineMs OutOfRange",
                "spec.steps[0].temperature OutOfRange",
            ]
        );
    }

    #[test]
    fn a_temperature_that_is_no_number_is_refused() {
        for temperature in [".nan", ".inf", "-0.1"] {
            let more = format!("prompt: x, temperature: {temperature}");
            let problems = check_steps(&[("s", more.as_str())]).unwrap_err();
            assert_eq!(problems, ["spec.steps[0].temperature OutOfRange"]);
        }
    }

    #[test]
    fn a_step_says_how_its_tokens_are_chosen() {
        let more = "prompt: x, topK: 5, topP: 0.5, minP: 0, typicalP: 1, repetitionPenalty: 10, \
                    frequencyPenalty: -2, presencePenalty: 2, seed: 9007199254740991, stop: [a, b]";
        let pipeline = check_steps(&[("s", more)]).unwrap();
        let expected = Choice {
            top_k: Some(5),
            top_p: Some(0.5),
            min_p: Some(0.0),
            typical_p: Some(1.0),
            repetition_penalty: Some(10.0),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            seed: Some((1 << 53) - 1),
            stop: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(pipeline.desired.steps[0].choice, expected);
        let pipeline = check_steps(&[("s", "prompt: x")]).unwrap();
        assert_eq!(pipeline.desired.steps[0].choice, Choice::default());
    }

    #[test]
    fn what_no_sampler_takes_is_refused_where_it_stands() {
        for (more, problem) in [
            ("topK: 1000001", "topK OutOfRange"),
            ("topP: 0", "topP OutOfRange"),
            ("topP: 1.0e-60", "topP OutOfRange"),
            ("topP: 1.01", "topP OutOfRange"),
            ("minP: .nan", "minP OutOfRange"),
            ("typicalP: -1", "typicalP OutOfRange"),
            ("repetitionPenalty: .inf", "repetitionPenalty OutOfRange"),
            ("frequencyPenalty: 2.1", "frequencyPenalty OutOfRange"),
            ("presencePenalty: -2.1", "presencePenalty OutOfRange"),
            ("seed: 9007199254740992", "seed OutOfRange"),
            ("stop: [a, '']", "stop[1] InvalidLength"),
            ("stop: [a, a]", "stop[1] Duplicate"),
        ] {
            let problems = check_steps(&[("s", &format!("prompt: x, {more}"))]).unwrap_err();
            assert_eq!(problems, [format!("spec.steps[0].{problem}")], "{more}");
        }
        let stop = |text: String| check_steps(&[("s", &format!("prompt: x, stop: [{text}]"))]);
        stop("é".repeat(128)).unwrap();
        assert_eq!(stop("é".repeat(129)).unwrap_err(), ["spec.steps[0].stop[0] InvalidLength"]);
        let many = (0..17).map(|i| format!("s{i}")).collect::<Vec<_>>().join(", ");
        assert_eq!(stop(many).unwrap_err(), ["spec.steps[0].stop InvalidCount"]);
    }

    #[test]
    fn empty_lists_are_refused() {
        let problems = check("steps: [], outputs: [], tenants: []").unwrap_err();
        assert_eq!(
            problems,
            ["spec.steps InvalidCount", "spec.outputs InvalidCount", "spec.tenants InvalidCount"]
        );
    }
}
