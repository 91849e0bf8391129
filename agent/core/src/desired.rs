//! What one node should hold: the whole state, never a delta.
//!
//! Everything here has been validated and resolved by the planner: references are full names,
//! defaults are filled in, and what a tenant may not use is simply absent.

use std::collections::BTreeMap;

use crate::name::{GroupName, ModelName, PipelineName, TenantName};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Sha256 {
    type Err = hex::FromHexError;

    /// Reads 64 hexadecimal digits, with or without a leading `sha256:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:").unwrap_or(text), &mut digest)?;
        Ok(Self(digest))
    }
}

/// The whole desired state of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Only grows, across restarts and changes of leader.
    pub generation: u64,
    pub models: Vec<DesiredModel>,
    pub tenants: Vec<DesiredTenant>,
    pub pipelines: Vec<DesiredPipeline>,
    /// Where the models are that other nodes serve, for calls that come to this door.
    pub routes: Vec<Route>,
    /// Doors that share the tenants' limits out evenly where no slices are leased, this one
    /// included. 0 only before the first state.
    pub doors: u32,
}

/// One model to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredModel {
    pub name: ModelName,
    pub artifact: Artifact,
    /// The Secret, in the model's namespace, that opens the sources. What it holds comes beside the
    /// desired state, never in it.
    pub secret: Option<String>,
    /// The model that this is an adapter of, which is desired too.
    pub base: Option<ModelName>,
    /// Tokens of context; `None` takes what the file says.
    pub context: Option<u32>,
    /// KV blocks to keep for this model; `None` lets the agent derive them from its memory.
    pub kv_blocks: Option<u32>,
    pub kv_cache: KvCache,
    /// What computes; `Any` takes the best that the node has.
    pub accelerator: Accelerator,
    pub stage: Stage,
}

/// How a model's KV cache holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    F16,
    /// Signed bytes, under a scale for each 32.
    Q8_0,
}

/// What computes a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Any,
    Cpu,
    Cuda,
    WebGpu,
}

/// How far a node goes with a model. What is further includes what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reads the header of the file and says what it found.
    Inspect,
    /// Fetches the file and keeps it; nothing is loaded.
    Prefetch,
    /// Loads the model and serves it.
    Load,
}

/// The nodes that serve a model now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub model: ModelName,
    /// Empty while nobody serves a model that scales or is on its way: calls for it are held, which
    /// wakes it.
    pub peers: Vec<Peer>,
}

/// A node that others hand calls to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub node: String,
    /// Where the node listens for its peers.
    pub address: String,
}

/// A file to fetch: the mirrors are tried in order and all must carry the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// `file`, `pvc`, `https`, `hf`, `s3`, `oci` or `pip` addresses; never empty.
    pub sources: Vec<String>,
    /// Checked before use. Only `file` and `pvc` may go without, and a file in several parts does.
    pub sha256: Option<Sha256>,
    /// The digests of a file's parts, in order, where it is split and the sources name the first.
    pub parts: Vec<Sha256>,
}

/// One tenant: its rights, limits, keys and program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTenant {
    pub name: TenantName,
    /// The tenant's part of the machine in proportion to the other tenants' weights; at least 1.
    pub weight: u32,
    pub priority: Priority,
    pub suspended: bool,
    pub limits: Limits,
    pub limits_mode: LimitsMode,
    /// The group, of the tenant's own namespace, in which what its calls mark as public is shared.
    pub share_group: Option<GroupName>,
    /// What the tenant may use, by the name it uses for it; the first is its default.
    pub models: Vec<ModelGrant>,
    /// Pipelines the tenant may call, by the name it uses for them.
    pub pipelines: BTreeMap<String, PipelineName>,
    pub keys: Vec<ApiKey>,
    /// What runs the tenant's calls here. `None` where none of its models is: calls are handed to
    /// a node that has one.
    pub program: Option<HostedProgram>,
}

/// Whose turn comes before all others', whatever their shares; within one, shares decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Has what the others leave.
    Low,
    #[default]
    Normal,
    High,
}

/// What becomes of a call beyond the limits per minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitsMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is counted. What one call or one moment may hold is enforced all the same.
    Shadow,
}

/// A program and what it reads through its `config` interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedProgram {
    pub code: Program,
    pub config: BTreeMap<String, String>,
}

impl HostedProgram {
    /// The component that ships with Realm, with nothing set.
    pub const fn built_in() -> Self {
        Self { code: Program::BuiltIn, config: BTreeMap::new() }
    }
}

/// A tenant's right to use a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelGrant {
    /// What the tenant calls it: the bare name in its own namespace, else `namespace/name`.
    pub alias: String,
    pub model: ModelName,
}

/// What a tenant may spend, at all doors together. Every field is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub requests_per_minute: u32,
    pub input_tokens_per_minute: u32,
    pub output_tokens_per_minute: u32,
    /// Calls running at once.
    pub calls_max: u32,
    /// Tokens of prompt and answer together, for one sequence.
    pub context_max: u32,
    /// Tokens of one answer, which ends there.
    pub output_tokens_max: u32,
    /// KV blocks held at once, over all sequences and cached prefixes, per model and node.
    pub kv_blocks_max: u32,
    pub program: ProgramLimits,
}

/// What one call of a tenant's program may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramLimits {
    pub memory_bytes_max: u64,
    /// Wasmtime fuel, about one unit an instruction.
    pub fuel_max: u64,
    pub host_calls_max: u64,
    /// Bytes the program may write as its reply.
    pub output_bytes_max: u64,
    /// Wall-clock time of one call.
    pub deadline_ms: u64,
    /// Fuel that the hooks of one token may burn.
    pub token_fuel_max: u64,
    /// How long a token waits for its hooks.
    pub token_deadline_ms: u64,
    /// Instances that answer its calls at once at one node; a call beyond them waits for one.
    pub instances_max: u32,
    /// Whether its parts may hand each other values through 64-bit memories.
    pub memory64: bool,
}

/// One API key, as its digest: the key itself is known to its holder alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub name: String,
    pub sha256: Sha256,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<u64>,
    pub disabled: bool,
}

/// What runs a tenant's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The component that ships with Realm.
    BuiltIn,
    /// The tenant's own component.
    Component(Artifact),
}

/// A pipeline whose references and types have been checked and whose steps are in running order.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPipeline {
    pub name: PipelineName,
    pub inputs: Vec<PipelineInput>,
    /// In an order in which every step comes after those it uses.
    pub steps: Vec<PipelineStep>,
    pub outputs: Vec<PipelineOutput>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineInput {
    pub name: String,
    pub kind: InputKind,
    pub required: bool,
}

/// The type of a pipeline's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    String,
    Integer,
    Number,
    Boolean,
}

/// One step: a prompt for a model, answered by the tenant's own program.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineStep {
    pub name: String,
    pub model: ModelName,
    pub system: Option<Template>,
    pub prompt: Template,
    pub tokens_max: u32,
    pub deadline_ms: u64,
    pub temperature: f32,
    pub choice: Choice,
    pub on_error: OnError,
}

/// How a step's tokens are chosen besides its temperature. What is absent is up to the tenant's
/// program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
}

/// What a pipeline does when a step fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnError {
    Fail,
    /// The step's output becomes this text.
    Use(String),
}

/// A text with holes, already taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    Text(String),
    /// `{{ inputs.name }}`
    Input(String),
    /// `{{ steps.name }}`
    Step(String),
}

/// A named output: the text of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineOutput {
    pub name: String,
    pub step: String,
}
