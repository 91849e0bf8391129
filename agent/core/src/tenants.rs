//! The port to the tenants' programs.

use std::pin::Pin;

use crate::{
    auth::Caller,
    embed::Abilities,
    limit::Admitted,
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::Reply,
};

/// What a tenant may call, once it is known: its program may be on another node.
pub type Functions = Pin<Box<dyn Future<Output = Vec<FunctionInfo>> + Send>>;

/// Runs admitted calls in their tenant's own sandbox.
///
/// Called from the doors' runtime; it spawns what it needs and returns at once. Whatever goes
/// wrong comes through the [`Reply`].
pub trait Tenants: Send + Sync {
    /// Starts a call. Dropping the reply cancels it.
    fn start(&self, call: Admitted) -> Reply;

    /// What the caller may call, as its own program declares it.
    fn functions(&self, caller: &Caller) -> Functions;

    /// The models the caller may use, in the order of its grants.
    fn models(&self, caller: &Caller) -> Vec<ModelInfo>;

    /// Whether calls of `tenant` for `model` would be served on this node now.
    fn hosts(&self, tenant: &TenantName, model: &ModelName) -> bool;

    /// Why calls of `tenant` are not served on this node although its program should be here: it
    /// does not come. `None` where it is here, on its way, or not meant to be here.
    fn lacks(&self, tenant: &TenantName) -> Option<Refusal>;
}

/// A function, described well enough to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    pub name: String,
    pub description: String,
    /// A JSON Schema of the parameters.
    pub params_schema: serde_json::Value,
    pub streams: bool,
}

/// A model, as its tenant knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    pub alias: String,
    /// Whether the model is there for a call now. On the door's own node that takes the tenant's
    /// program as well; of other nodes only their models are known.
    pub ready: bool,
    /// Tokens of context, once loaded on this node.
    pub context: Option<u32>,
    /// What it can be asked for, once loaded on this node.
    pub abilities: Option<Abilities>,
}
