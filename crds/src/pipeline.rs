//! `Pipeline`: several prompts that run as one call beside the weights.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    LABEL_LEN_MAX, LABEL_PATTERN,
    model::CONTEXT_MAX,
    tenant::{DEADLINE_MS_MAX, ModelRef},
};

/// Inputs of one pipeline.
pub const INPUTS_MAX: u32 = 32;

/// Steps of one pipeline: each may hold a sequence in the batch at once.
pub const STEPS_MAX: u32 = 16;

/// Outputs of one pipeline: no more than it has steps to give them.
pub const OUTPUTS_MAX: u32 = STEPS_MAX;

/// Tenants that may call one pipeline.
pub const TENANTS_MAX: u32 = 64;

/// Longest prompt, system or fallback text, in characters. Every text of [`STEPS_MAX`] steps at
/// this length together, at a byte a character, is half of the 1.5 MiB that etcd takes.
pub const TEXT_LEN_MAX: u32 = 16_384;

/// Longest name of an input, a step or an output.
pub const FIELD_LEN_MAX: u32 = 63;

/// Tokens to choose among: more than any vocabulary has.
pub const TOP_K_MAX: u32 = 1_000_000;

/// Largest seed: as many bits as a double holds, which is what many clients read numbers into.
pub const SEED_MAX: u64 = (1 << 53) - 1;

/// Stop strings of one step, and the longest, in characters here and in bytes where one is read:
/// every token is held against all of them.
pub const STOPS_MAX: u32 = 16;
pub const STOP_LEN_MAX: u32 = 256;

/// A letter, then letters, digits, `_` and `-`.
pub(crate) const FIELD_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_-]*$";

/// Several prompts that run as one call beside the weights, each using what came before.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "realm.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    namespaced,
    doc = "Several prompts that run as one call beside the weights, each using what came before.",
    status = "PipelineStatus",
    derive = "PartialEq",
    shortname = "ppl",
    category = "realm",
    validation = (crate::NAME_RULE, crate::NAME_MESSAGE),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Tenants", type_ = "string", json_path = ".spec.tenants"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.outputs.all(o, self.steps.exists(s, s.name == o.step))", "message": "an output names a step of this pipeline" }
]))]
pub struct PipelineSpec {
    /// What a caller passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = INPUTS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub inputs: Vec<PipelineInput>,

    /// The prompts, in any order; a step runs after those whose text it uses.
    #[schemars(
        length(min = 1, max = STEPS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub steps: Vec<PipelineStep>,

    /// What a caller gets.
    #[schemars(
        length(min = 1, max = OUTPUTS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub outputs: Vec<PipelineOutput>,

    /// Tenants of this namespace that may call the pipeline. Each must have been granted every
    /// model that the steps use.
    #[schemars(
        length(min = 1, max = TENANTS_MAX),
        inner(length(min = 1, max = LABEL_LEN_MAX), regex(pattern = LABEL_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub tenants: Vec<String>,
}

/// An input of a pipeline.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineInput {
    /// Its name in a call and in templates.
    #[schemars(length(min = 1, max = FIELD_LEN_MAX), regex(pattern = FIELD_PATTERN))]
    pub name: String,

    /// The type that a call's value must have.
    #[serde(rename = "type", default)]
    pub kind: InputKind,

    /// Whether a call must pass it. An optional input that is not passed is an empty text.
    #[serde(default = "yes")]
    pub required: bool,
}

const fn yes() -> bool {
    true
}

/// The type of a pipeline's input.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    #[default]
    String,
    Integer,
    Number,
    Boolean,
}

/// One prompt, answered by one model through the calling tenant's own program.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineStep {
    /// Its name in templates, outputs and streamed replies.
    #[schemars(length(min = 1, max = FIELD_LEN_MAX), regex(pattern = FIELD_PATTERN))]
    pub name: String,

    /// The model that answers.
    pub model: ModelRef,

    /// The system message, a template like `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = TEXT_LEN_MAX))]
    pub system: Option<String>,

    /// The user's message. `{{ inputs.name }}` stands for an input and `{{ steps.name }}` for the
    /// text of another step, which then runs first.
    #[schemars(length(min = 1, max = TEXT_LEN_MAX))]
    pub prompt: String,

    /// Tokens the step may generate.
    #[schemars(range(min = 1, max = CONTEXT_MAX))]
    pub max_tokens: u32,

    /// How freely the model chooses; 0 takes the likeliest token every time.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub temperature: f64,

    /// The model chooses among so many of the likeliest tokens; 0 keeps all. What a step does not
    /// say of this and what follows is up to the tenant's program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = TOP_K_MAX))]
    pub top_k: Option<u32>,

    /// The model chooses among the likeliest tokens whose probabilities sum to this; 1 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0.0, "exclusiveMinimum" = true, "maximum" = 1.0))]
    pub top_p: Option<f64>,

    /// The model chooses among tokens at least this likely relative to the likeliest; 0 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f64>,

    /// The model chooses among the tokens that tell about as much as can be expected whose
    /// probabilities sum to this; 1 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0.0, "exclusiveMinimum" = true, "maximum" = 1.0))]
    pub typical_p: Option<f64>,

    /// Divides the logits of tokens that the prompt or the answer has; 1 changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0.0, "exclusiveMinimum" = true, "maximum" = 10.0))]
    pub repetition_penalty: Option<f64>,

    /// Taken from a token's logit for each time the answer has it; 0 changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f64>,

    /// Taken from a token's logit once if the answer has it; 0 changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f64>,

    /// Same seed, same prompt, same model: same answer. One is drawn for each call when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SEED_MAX))]
    pub seed: Option<u64>,

    /// The step's text ends before the first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = STOPS_MAX),
        inner(length(min = 1, max = STOP_LEN_MAX)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub stop: Vec<String>,

    /// Milliseconds the step may take.
    #[serde(default = "deadline_ms")]
    #[schemars(range(min = 1, max = DEADLINE_MS_MAX))]
    pub deadline_ms: u64,

    /// Steps that must have ended first although their text is not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = STEPS_MAX),
        inner(length(min = 1, max = FIELD_LEN_MAX)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub depends_on: Vec<String>,

    /// What happens when the step fails. The whole pipeline fails when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
}

/// A minute: on a slow processor a few hundred tokens, on a fast one some thousands.
const fn deadline_ms() -> u64 {
    60_000
}

/// What happens when a step fails.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnError {
    /// The pipeline goes on with this text in place of the step's.
    #[serde(rename = "use")]
    #[schemars(length(max = TEXT_LEN_MAX))]
    pub text: String,
}

/// A named text that a pipeline returns.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineOutput {
    /// Its name in the reply.
    #[schemars(length(min = 1, max = FIELD_LEN_MAX), regex(pattern = FIELD_PATTERN))]
    pub name: String,

    /// The step whose text it is.
    #[schemars(length(min = 1, max = FIELD_LEN_MAX))]
    pub step: String,
}

/// What is known about a pipeline.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// The generation of the spec that the rest of the status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Valid`, `ModelsReady`, and `Ready`, which sums them up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
