//! Nodes: what each has for models, and what it says it holds.

use std::collections::BTreeMap;

use super::estimate::Estimate;
use crate::{
    desired::{Accelerator, Sha256, Stage},
    name::Name,
    validate::ValidModel,
};

/// What `Any` takes of a node that computes in several ways: the fastest.
const BEST_FIRST: [Accelerator; 3] = [Accelerator::Cuda, Accelerator::WebGpu, Accelerator::Cpu];

/// What a connected node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSupply {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Bytes that models may still take, by what would compute them; never by `Any`. Measured no
    /// earlier than the report it comes with, so that what the report calls loaded is not in it.
    pub memory_bytes: BTreeMap<Accelerator, u64>,
    /// Whether clients call here.
    pub is_door: bool,
    /// Where the node listens for its peers. No calls are handed to one that says nothing.
    pub peer_address: Option<String>,
    /// Whether the node takes calls and new models. One that drains does not, and keeps what it
    /// has.
    pub is_ready: bool,
    /// Calls in hand, running or waiting, of each loaded model.
    pub calls: BTreeMap<Name, u32>,
    /// Calls that wait here, for models that nobody serves yet.
    pub held: BTreeMap<Name, u32>,
}

/// What a node says it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The generation of the desired state that the report answers.
    pub generation: u64,
    pub models: Vec<ModelHeld>,
}

/// What a node says of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelHeld {
    pub name: Name,
    /// The furthest that the node got; it stays so while something newer is tried.
    pub stage: Option<Stage>,
    /// The KV blocks that a loaded model was told to keep.
    pub kv_blocks: Option<u32>,
    /// Whether the last try went wrong.
    pub is_failed: bool,
    /// Digest of the file, once it has been read.
    pub sha256: Option<Sha256>,
    /// What the file's header says, once that has been read.
    pub estimate: Option<Estimate>,
}

/// A node that is known: it was supplied or recalled, and not withdrawn since.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// `None` until a recalled node is back.
    pub(super) supply: Option<NodeSupply>,
    pub(super) is_connected: bool,
    /// `None` until the node has said what it holds.
    pub(super) heard: Option<Heard>,
}

/// A report, by model.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) models: BTreeMap<Name, ModelHeld>,
}

impl Node {
    /// The node's supply, if it takes calls now.
    pub(super) fn serving(&self) -> Option<&NodeSupply> {
        self.supply.as_ref().filter(|supply| self.is_connected && supply.is_ready)
    }

    /// The supply of a node that went without a word, and may well serve on where only the operator
    /// cannot reach it.
    pub(super) fn away(&self) -> Option<&NodeSupply> {
        self.supply.as_ref().filter(|supply| !self.is_connected && supply.is_ready)
    }

    pub(super) fn held(&self, model: &Name) -> Option<&ModelHeld> {
        self.heard.as_ref()?.models.get(model)
    }

    /// How far the node says it is with `model`.
    pub(super) fn stage(&self, model: &Name) -> Option<Stage> {
        self.held(model)?.stage
    }

    pub(super) fn has_loaded(&self, model: &Name) -> bool {
        self.stage(model) == Some(Stage::Load)
    }

    /// Whether the node may be a door. One that has not come back yet may be one still.
    pub(super) fn may_be_door(&self) -> bool {
        self.supply.as_ref().is_none_or(|supply| supply.is_door)
    }

    /// Whether `model` may stay here. Of a node that has not come back yet nothing is known
    /// against it.
    pub(super) fn may_keep(&self, model: &ValidModel) -> bool {
        self.supply.as_ref().is_none_or(|supply| admitted(model, supply).is_some())
    }
}

/// What would compute `model` on that node, if its labels and accelerators are as the model asks.
pub(super) fn admitted(model: &ValidModel, supply: &NodeSupply) -> Option<Accelerator> {
    let has_label = |(name, value): (&String, &String)| supply.labels.get(name) == Some(value);
    if !model.node_selector.iter().all(has_label) {
        return None;
    }
    let has = |accelerator: &Accelerator| supply.memory_bytes.contains_key(accelerator);
    match model.accelerator {
        Accelerator::Any => BEST_FIRST.into_iter().find(has),
        asked => Some(asked).filter(has),
    }
}
