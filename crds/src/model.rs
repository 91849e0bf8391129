//! `Model`: weights that every tenant with the right to them shares.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    DIGEST_MESSAGE, LABEL_LEN_MAX, LABEL_PATTERN, MODEL_DIGEST_RULE, MODEL_SOURCES_MESSAGE,
    MODEL_SOURCES_RULE, SHA256_PATTERN, SOURCE_LEN_MAX, SOURCES_MAX,
    tenant::{ModelRef, SECRET_NAME_LEN_MAX},
};

/// Namespaces one model may be opened to, by name.
pub const ALLOWED_NAMESPACES_MAX: u32 = 64;

/// More tokens of context than any published model has been trained for.
pub const CONTEXT_MAX: u32 = 16_777_216;

/// At the smallest usual block, 16 tokens, as many as [`CONTEXT_MAX`] tokens take for 16 sequences.
pub const KV_BLOCKS_MAX: u32 = 16_777_216;

/// Parts of a file that is split. The largest open weights are a terabyte, and no tool makes parts of
/// less than 4 GB of such a file.
pub const PARTS_MAX: u32 = 256;

/// Agents that may hold one model: more than a cluster of the size Kubernetes supports has nodes.
pub const REPLICAS_MAX: u32 = 10_000;

/// Labels that one model may ask a node for: a cluster tells its nodes apart by far fewer.
pub const NODE_SELECTOR_MAX: u32 = 16;

/// Longest name of a label: a DNS subdomain of 253 characters, `/`, and a name of 63.
pub const LABEL_KEY_LEN_MAX: u32 = 317;

/// Longest value of a label, as Kubernetes has it.
pub const LABEL_VALUE_LEN_MAX: u32 = 63;

/// Calls in hand that one replica may be wanted to have: as many as one tenant may have in all.
pub const TARGET_QUEUE_MAX: u32 = crate::tenant::CALLS_MAX;

/// The longest a model may wait for its next call before it is unloaded, one week: one that waits
/// longer is better kept for good, with a `min` of 1.
pub const IDLE_AFTER_SECONDS_MAX: u32 = 604_800;

/// A label's name is looked at for its length alone: one that no node can have admits no node.
const NODE_SELECTOR_RULE: &str = "self.all(name, size(name) > 0 && size(name) <= 317)";
const NODE_SELECTOR_MESSAGE: &str = "the name of a label has 1 to 317 characters";

/// `replicas` has a default, without which the scale subresource of a model with `scaling` could
/// not be read, so that the default is what says that it was left out.
const REPLICAS_RULE: &str = "!has(self.scaling) || self.replicas == 1";
const REPLICAS_MESSAGE: &str =
    "scaling says how many agents hold the model; leave replicas out beside it";

/// One digest cannot be of a file and of its parts.
const PARTS_RULE: &str = "!has(self.sha256) || !has(self.parts) || size(self.parts) == 0";
const PARTS_MESSAGE: &str = "a file in several parts has a digest of each, in parts, and no sha256";

/// What an adapter has of its model, and no other.
const ADAPTER_RULE: &str = "!has(self.adapterOf) || ((!has(self.parts) || size(self.parts) == 0) && !has(self.context) && !has(self.kvBlocks) && self.kvCache == 'F16' && self.placement.accelerator == 'Any' && (!has(self.placement.nodeSelector) || size(self.placement.nodeSelector) == 0) && self.prefetch == 'None' && self.replicas == 1 && !has(self.scaling))";
/// Said wherever such a field is found.
pub const ADAPTER_MESSAGE: &str =
    "an adapter is wherever its model is, with the model's cache; leave this out beside adapterOf";

const SCALING_RULE: &str = "self.min <= self.max";
const SCALING_MESSAGE: &str = "min is not above max";

/// Weights that agents load once and every tenant with the right to them shares.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[kube(
    group = "realm.dev",
    version = "v1alpha1",
    kind = "Model",
    plural = "models",
    namespaced,
    doc = "Weights that agents load once and every tenant with the right to them shares.",
    status = "ModelStatus",
    derive = "PartialEq",
    shortname = "mdl",
    category = "realm",
    validation = (crate::NAME_RULE, crate::NAME_MESSAGE),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
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
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Format", type_ = "string", json_path = ".status.format"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Architecture",
        type_ = "string",
        json_path = ".status.architecture",
        priority = 1
    ),
    printcolumn(
        name = "Parameters",
        type_ = "integer",
        json_path = ".status.parameters",
        priority = 1
    ),
    printcolumn(name = "Context", type_ = "integer", json_path = ".status.context", priority = 1)
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": MODEL_DIGEST_RULE, "message": DIGEST_MESSAGE },
    { "rule": PARTS_RULE, "message": PARTS_MESSAGE },
    { "rule": REPLICAS_RULE, "message": REPLICAS_MESSAGE },
    { "rule": ADAPTER_RULE, "message": ADAPTER_MESSAGE }
]))]
pub struct ModelSpec {
    /// Where the model's file may be fetched from, tried in order; all must carry the same bytes.
    ///
    /// - `file:///path` is read on the agent's node.
    /// - `pvc://claim/path` is read from a persistent volume claim that agents mount (in a cluster
    ///   only).
    /// - `https://host/path` is downloaded.
    /// - `hf://org/repo[@revision]/path` is a file in a repository of the model hub, of the branch
    ///   `main` if no revision is given.
    /// - `s3://bucket/key[?region=…&endpoint=https://host]` is an object of an object store.
    /// - `oci://registry/repository[:tag|@sha256:digest][#title]` is a layer of an artifact in a
    ///   registry: the one with that title, or else the one with the model's `sha256`.
    /// - `pip://name==version/file` is a file inside a Python wheel (on one machine only): after
    ///   the first `/`, its path inside the wheel, or its base name if that is unique.
    ///
    /// Paths and keys of `pvc`, `hf` and `s3` are written as they are, without percent signs for
    /// other characters.
    ///
    /// Of a file that is split, they name the first part, `…-00001-of-0000N.gguf`, which brings the
    /// others.
    #[schemars(
        length(min = 1, max = SOURCES_MAX),
        inner(length(min = 1, max = SOURCE_LEN_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[schemars(extend("x-kubernetes-validations" = [{ "rule": MODEL_SOURCES_RULE, "message": MODEL_SOURCES_MESSAGE }]))]
    pub sources: Vec<String>,

    /// SHA-256 of the file, in hexadecimal, checked before the file is used. Required, as `parts`
    /// of a file that is split, unless every source is a `file` or a `pvc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    pub sha256: Option<String>,

    /// SHA-256 of each part of a file that is split, in the order of the parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = PARTS_MAX),
        inner(length(max = 71), regex(pattern = SHA256_PATTERN)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub parts: Vec<String>,

    /// The Secret, in the model's namespace, with what the sources ask for. Its content reaches the
    /// agents beside their state and is kept on no disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_secret: Option<SourceSecret>,

    /// The model that this is an adapter (LoRA) of: low-rank changes of its matrices, in one GGUF
    /// file of the type `adapter`. Whoever may use the adapter calls it by its own name, and shares
    /// the model's memory and batch with all others. It is loaded wherever the model is, so that
    /// nothing that says where or how is told of it; that model allows this one's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_of: Option<ModelRef>,

    /// Tokens of context that one sequence may hold. What the model was trained for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = CONTEXT_MAX))]
    pub context: Option<u32>,

    /// Blocks of KV cache, of 32 tokens each, that an agent keeps for this model. When absent,
    /// enough for four whole contexts, or fewer where memory is short. A model whose layers all
    /// attend a window needs no more than that and a step of tokens for each sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = KV_BLOCKS_MAX))]
    pub kv_blocks: Option<u32>,

    /// How keys and values of the context are kept. `Q8_0` takes little more than half of the memory
    /// of `F16`, and rounds more.
    #[serde(default)]
    pub kv_cache: KvCache,

    /// Other namespaces whose tenants and pipelines may refer to this model, and whose models may be
    /// adapters of it. What an adapter allows is allowed to those that its model allows too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = ALLOWED_NAMESPACES_MAX),
        inner(length(min = 1, max = LABEL_LEN_MAX), regex(pattern = LABEL_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allowed_namespaces: Vec<String>,

    /// Which nodes may hold the model.
    #[serde(default)]
    pub placement: ModelPlacement,

    /// Which nodes fetch the model's file before they are to load it.
    #[serde(default)]
    pub prefetch: Prefetch,

    /// How many agents hold the model. 0 unloads it everywhere. Left out where `scaling` decides.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = REPLICAS_MAX))]
    pub replicas: u32,

    /// How many agents hold the model, by how much it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

const fn one() -> u32 {
    1
}

/// A Secret by name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSecret {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = SECRET_NAME_LEN_MAX),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Which nodes may hold a model.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelPlacement {
    /// Labels that a node must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = NODE_SELECTOR_MAX,
        "additionalProperties" = json!({
            "type": "string",
            "maxLength": LABEL_VALUE_LEN_MAX,
            "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
        })
    ))]
    #[schemars(extend("x-kubernetes-validations" = [{ "rule": NODE_SELECTOR_RULE, "message": NODE_SELECTOR_MESSAGE }]))]
    pub node_selector: BTreeMap<String, String>,

    /// What computes. `Any` takes a node's `Cuda` before its `WebGpu` before its `Cpu`, and never
    /// one because another is full.
    #[serde(default)]
    pub accelerator: Accelerator,
}

/// What computes a model's tokens.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum Accelerator {
    #[default]
    Any,
    Cpu,
    Cuda,
    WebGpu,
}

/// How a model's KV cache holds its numbers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum KvCache {
    #[default]
    F16,
    Q8_0,
}

/// Which nodes fetch a model's file ahead of need.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Prefetch {
    /// Those that are to load the model.
    #[default]
    None,
    /// Every node that `placement` admits.
    Selected,
}

/// How many agents hold a model, by how much it is used.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": SCALING_RULE, "message": SCALING_MESSAGE }
]))]
pub struct Scaling {
    /// Agents that hold the model however little it is used. With 0 it is unloaded when idle, and
    /// its next call waits for it.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = REPLICAS_MAX))]
    pub min: u32,

    /// Agents that hold the model however much it is used.
    #[schemars(range(min = 1, max = REPLICAS_MAX))]
    pub max: u32,

    /// Calls in hand, running or waiting, that each agent should have of this model.
    #[serde(default = "target_queue")]
    #[schemars(range(min = 1, max = TARGET_QUEUE_MAX))]
    pub target_queue: u32,

    /// Seconds without a call after which a model with a `min` of 0 is unloaded.
    #[serde(default = "idle_after_seconds")]
    #[schemars(range(min = 1, max = IDLE_AFTER_SECONDS_MAX))]
    pub idle_after_seconds: u32,
}

/// A quarter of what an agent runs of one model at once: enough to fill its batch, and soon enough
/// to load another before calls wait.
const fn target_queue() -> u32 {
    16
}

/// Several times what a load from a local disk takes, and a person's pause between two questions.
const fn idle_after_seconds() -> u32 {
    600
}

/// What is known about a model, and where it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The generation of the spec that the rest of the status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Fetched` (an agent has the whole file and none is fetching it), `Verified` (its digest was
    /// right), `Fits` (as many agents as wanted have room for it), `Loaded` (those have loaded it),
    /// and `Ready`, which sums them up: at least one agent takes calls, or none is wanted now.
    /// `Reconciling` while anything is still on its way, `Stalled` when something must change
    /// first, in the spec or the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Agents that serve the model now.
    #[serde(default)]
    pub replicas: u32,

    /// The label selector of the agents' pods, as the scale subresource tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The architecture that the file names, such as `llama`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,

    /// Weights in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,

    /// The format that holds most of the weights, such as `Q4_1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,

    /// Tokens of context the model was trained for. Of an adapter its model says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,

    /// The licence that the file names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,

    /// What an agent needs for the model, by the header of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<ModelEstimate>,

    /// What the header alone had said, where the whole file says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<ModelEstimate>,

    /// Where the model is, node by node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<ModelNode>,
}

/// What a loaded model takes of an agent's memory, once for all tenants.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelEstimate {
    /// Bytes of weights.
    pub weights_bytes: u64,

    /// Bytes of one block of KV cache.
    pub kv_bytes_per_block: u64,

    /// Bytes that one step of a full batch computes in.
    pub activation_bytes: u64,
}

/// A model on one node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelNode {
    /// The node's name.
    pub name: String,

    /// How far the model is on this node.
    pub state: ModelNodeState,

    /// Bytes fetched so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,

    /// Bytes to fetch, once the source has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,

    /// Why the model is not served here, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// The cause with its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a model is on one node.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ModelNodeState {
    Pending,
    /// The header of the file has been read, and no more is to be.
    Inspected,
    Fetching,
    /// The file is there and the model is not to be loaded.
    Fetched,
    Loading,
    Ready,
    Failed,
}
