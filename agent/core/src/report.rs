//! What one node holds: the answer to a [`crate::desired::Desired`].

use std::error::Error;

use crate::{
    desired::{Sha256, Stage},
    name::{ModelName, PipelineName, TenantName},
};

/// The whole state of one node against one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The generation these items answer.
    pub generation: u64,
    pub models: Vec<ModelReport>,
    pub tenants: Vec<TenantReport>,
    pub pipelines: Vec<PipelineReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelReport {
    pub name: ModelName,
    pub phase: ModelPhase,
    /// How far the node is with the model, whatever it is trying now: a loaded one serves until
    /// the next one does.
    pub stage: Option<Stage>,
    /// The KV blocks that the loaded one was told to keep.
    pub kv_blocks: Option<u32>,
    /// What the file says, once its header has been read.
    pub facts: Option<ModelFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantReport {
    pub name: TenantName,
    pub phase: Phase,
    /// Digest of the program that takes the tenant's calls now, where any does.
    pub program: Option<Sha256>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineReport {
    pub name: PipelineName,
    pub phase: Phase,
}

/// How far an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Ready,
    /// Not as desired; what was there before goes on serving.
    Failed(Failure),
}

/// How far a model is on the way to its desired stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPhase {
    Pending,
    Fetching {
        bytes_done: u64,
        bytes_total: Option<u64>,
    },
    Loading,
    /// There: inspected, fetched or loaded, as desired.
    Ready,
    Failed(Failure),
}

/// A cause: a CamelCase reason that is part of the API, and a sentence with the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

/// What a model file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    pub architecture: String,
    pub parameters: u64,
    /// The format that holds most of the weights, such as `Q4_1`.
    pub format: String,
    /// Tokens of context the model was trained for.
    pub context: u32,
    pub licence: Option<String>,
    pub weights_bytes: u64,
    /// What else loading takes, where the architecture is one that can be run.
    pub memory: Option<MemoryFacts>,
    pub sha256: Option<Sha256>,
}

/// What a model takes besides its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFacts {
    pub kv_bytes_per_block: u64,
    /// What a step of a full batch computes in.
    pub activation_bytes: u64,
    /// What of its blocks one sequence holds at most, where layers attend a window.
    pub kv_blocks_per_sequence: Option<SequenceBlocks>,
}

/// What a sequence holds of its KV blocks where it gives back those that lie behind windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceBlocks {
    /// Equal parts of a block: one for each band of layers.
    pub bands: u32,
    /// Of these parts, those of layers that attend everything: a sequence holds all its own.
    pub whole: u32,
    /// Of each other part, as many as it holds at most, however long it is.
    pub windowed_max: u32,
}

/// An error and all its causes in one line, for a condition's message.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
