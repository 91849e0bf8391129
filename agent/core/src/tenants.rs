//! The port to the tenants' programs.

use crate::{auth::Caller, limit::Admitted, reply::Reply};

/// Runs admitted calls in their tenant's own sandbox.
///
/// Called from the doors' runtime; it spawns what it needs and returns at once. Whatever goes
/// wrong comes through the [`Reply`].
pub trait Tenants: Send + Sync {
    /// Starts a call. Dropping the reply cancels it.
    fn start(&self, call: Admitted) -> Reply;

    /// What the caller may call, as its own program declares it.
    fn functions(&self, caller: &Caller) -> Vec<FunctionInfo>;

    /// The models the caller may use, in the order of its grants.
    fn models(&self, caller: &Caller) -> Vec<ModelInfo>;
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
    /// Whether a call would be served now.
    pub ready: bool,
    /// Tokens of context, once loaded.
    pub context: Option<u32>,
}
