//! Who an agent is and what its node has, in the operator's words.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use realm_plan::Name;
use realm_proto::link::versions::Versions;

/// What an agent says about itself when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub node: String,
    pub agent_version: String,
    /// Another one at each start of the agent.
    pub boot_id: String,
    /// The newest generation in the agent's ledger; 0 before the first.
    pub generation: u64,
    pub supply: Supply,
    /// The versions of the link that it speaks.
    pub link: Versions,
}

/// What a node has for models, and how busy it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Memory of the host that models may take, and what of it is free.
    pub memory_bytes_total: u64,
    pub memory_bytes_free: u64,
    pub devices: Vec<Device>,
    /// Where clients and other agents reach this one.
    pub door: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// Takes no new calls and models, because it is about to go.
    pub is_draining: bool,
    pub models: Vec<ModelLoad>,
    /// What the door holds of calls for models that nobody serves yet, each model once.
    pub held: Vec<HeldCalls>,
}

/// What computes on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub kind: DeviceKind,
    pub product: String,
    /// Memory of its own; 0 for a device that uses the host's.
    pub memory_bytes_total: u64,
    pub memory_bytes_free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    Cuda,
    WebGpu,
}

/// How busy one loaded model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLoad {
    pub model: Name,
    pub sequences_queued: u32,
    pub sequences_running: u32,
    pub kv_blocks_used: u32,
    /// Blocks of finished prefixes, free to be taken.
    pub kv_blocks_cached: u32,
    pub kv_blocks_total: u32,
    pub prompt_tokens_total: u64,
    pub cached_tokens_total: u64,
    pub generated_tokens_total: u64,
    /// Nothing more is served from this load.
    pub failed: bool,
}

/// What one tenant has used on a node, in numbers that only grow for as long as the epoch is the
/// same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUse {
    pub tenant: Name,
    pub epoch: u64,
    pub used: Used,
}

/// What has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub prompt_tokens: u64,
    /// Of the prompt tokens, those that were found in the cache.
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub device_ms: u64,
    /// How long KV blocks were held, counted for each block.
    pub kv_block_ms: u64,
    pub program_fuel: u64,
}

/// Calls that wait at a door for a model to be loaded somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCalls {
    pub model: Name,
    pub calls: u32,
}

/// What opens the sources of models. Opaque here; whoever fetches a model knows its form. Shared by
/// all nodes that are told.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(pub BTreeMap<Name, Arc<[u8]>>);

impl fmt::Debug for Credentials {
    /// Says whose they are, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.keys()).finish()
    }
}
