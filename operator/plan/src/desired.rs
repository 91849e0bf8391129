//! What each node should hold: the whole state, never a delta.
//!
//! References are full names, defaults are filled in, and what a tenant may not use is absent.
//! The agent has its own words for the same things; whoever hands a plan over translates.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

pub use realm_crds::{
    model::{Accelerator, KvCache},
    tenant::{LimitsMode, Priority},
};

use crate::name::Name;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = hex::FromHexError;

    /// Reads 64 hexadecimal digits, with or without a leading `sha256:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:").unwrap_or(text), &mut digest)?;
        Ok(Self(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The whole desired state of one node, each list in the order of names.
///
/// What several nodes hold is shared between their states, so that a plan for many costs little
/// more than for one.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Grows whenever anything else here changes, and only then.
    pub generation: u64,
    pub models: Vec<DesiredModel>,
    pub tenants: Vec<Arc<DesiredTenant>>,
    pub pipelines: Arc<[DesiredPipeline]>,
    /// Where the models are that this node's door may be asked for.
    pub routes: Arc<[Route]>,
    /// Doors of the cluster, this node's included if it is one: what shares the limits out where no
    /// slices are leased.
    pub doors: u32,
}

impl Desired {
    /// Whether two desired states differ in nothing but their generation.
    pub(crate) fn has_same_content(&self, other: &Self) -> bool {
        let Self { generation: _, models, tenants, pipelines, routes, doors } = self;
        *doors == other.doors
            && *models == other.models
            && *tenants == other.tenants
            && is_same(routes, &other.routes)
            && is_same(pipelines, &other.pipelines)
    }
}

impl PartialEq for Desired {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation && self.has_same_content(other)
    }
}

fn is_same<T: PartialEq>(a: &Arc<[T]>, b: &Arc<[T]>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// One model to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredModel {
    pub name: Name,
    pub artifact: Arc<Artifact>,
    /// The Secret that opens the sources, by name alone: what it holds travels beside the plan.
    pub secret: Option<Name>,
    /// The model that this is an adapter of, which the node holds too.
    pub base: Option<Name>,
    /// Tokens of context; `None` takes what the file says.
    pub context: Option<u32>,
    /// KV blocks to keep for this model; `None` lets the agent derive them from its memory.
    pub kv_blocks: Option<u32>,
    pub kv_cache: KvCache,
    /// What computes; `Any` takes the node's best, which is the one the plan reckoned with.
    pub accelerator: Accelerator,
    pub stage: Stage,
}

/// How far a node goes with a model.
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
    pub model: Name,
    /// Empty while nobody serves a model that scales or is on its way: calls for it are held, which
    /// wakes it.
    pub peers: Vec<Peer>,
}

/// A node that other nodes hand calls to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: String,
    /// Where the node listens for its peers.
    pub address: String,
}

/// A file to fetch: the mirrors are tried in order and all must carry the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Never empty.
    pub sources: Vec<String>,
    /// `None` where every source is a `file` or a `pvc`, and for a file in several parts.
    pub sha256: Option<Sha256>,
    /// The digests of a file's parts, in order, where it is split and the sources name the first.
    pub parts: Vec<Sha256>,
}

/// One tenant: its rights, limits, keys and program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTenant {
    pub name: Name,
    pub weight: u32,
    pub priority: Priority,
    pub suspended: bool,
    pub limits: Limits,
    pub limits_mode: LimitsMode,
    /// The group, of the tenant's own namespace, in which what it makes public is shared.
    pub share_group: Option<Name>,
    /// What the tenant may use, by the name it uses for it; the first is its default.
    pub models: Vec<ModelGrant>,
    /// Pipelines the tenant may call, by the name it uses for them.
    pub pipelines: BTreeMap<String, Name>,
    pub keys: Vec<ApiKey>,
    /// What runs the tenant's calls here. `None` where none of its models is: calls are handed to
    /// a node that has one.
    pub program: Option<HostedProgram>,
}

/// A program and what it reads through its `config` interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedProgram {
    pub code: Program,
    pub config: BTreeMap<String, String>,
}

/// A tenant's right to use a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelGrant {
    /// The bare name in the tenant's own namespace, else `namespace/name`.
    pub alias: String,
    pub model: Name,
}

/// What a tenant may spend, at all doors together.
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

impl Limits {
    /// The part of one door out of `doors` that knows no slices, rounded up: a limit of 1 stays 1, and
    /// all such doors together let in less than one call or token more per door and minute than the
    /// limit. What bounds a single sequence, a program or a node's cache is no door's business and
    /// stays whole.
    #[must_use]
    pub const fn per_door(self, doors: u32) -> Self {
        let Self {
            requests_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            calls_max,
            context_max,
            output_tokens_max,
            kv_blocks_max,
            program,
        } = self;
        let doors = if doors == 0 { 1 } else { doors };
        Self {
            requests_per_minute: requests_per_minute.div_ceil(doors),
            input_tokens_per_minute: input_tokens_per_minute.div_ceil(doors),
            output_tokens_per_minute: output_tokens_per_minute.div_ceil(doors),
            calls_max: calls_max.div_ceil(doors),
            context_max,
            output_tokens_max,
            kv_blocks_max,
            program,
        }
    }
}

/// What one call of a tenant's program may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramLimits {
    pub memory_bytes_max: u64,
    pub fuel_max: u64,
    pub host_calls_max: u64,
    pub output_bytes_max: u64,
    pub deadline_ms: u64,
    pub token_fuel_max: u64,
    pub token_deadline_ms: u64,
    pub instances_max: u32,
    pub memory64: bool,
}

/// One API key, as its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// `secret/entry`, unique in its tenant.
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

/// A pipeline whose references and types have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPipeline {
    pub name: Name,
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

/// One step: a prompt for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineStep {
    pub name: String,
    pub model: Name,
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
