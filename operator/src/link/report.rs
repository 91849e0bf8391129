//! What an agent says it holds, in the operator's words.

use realm_plan::{
    Name, SequenceBlocks,
    desired::{Sha256, Stage},
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
    pub name: Name,
    pub phase: ModelPhase,
    /// How far the node is with the model, whatever it is trying now.
    pub stage: Option<Stage>,
    /// The KV blocks that the loaded one was told to keep.
    pub kv_blocks: Option<u32>,
    /// What the file says, once its header has been read.
    pub facts: Option<ModelFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantReport {
    pub name: Name,
    pub phase: Phase,
    /// Digest of the program that takes the tenant's calls now.
    pub program: Option<Sha256>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineReport {
    pub name: Name,
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

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPhase {
    Pending,
    Fetching { bytes_done: u64, bytes_total: Option<u64> },
    Loading,
    Ready,
    Failed(Failure),
}

/// A cause: a CamelCase reason, fit for a condition, and a sentence with the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
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
    pub activation_bytes: u64,
    /// What of its blocks one sequence holds at most, where it does not hold all its own.
    pub kv_blocks_per_sequence: Option<SequenceBlocks>,
}

/// A desired state that an agent's ledger does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub generation: u64,
    pub failure: Failure,
}
