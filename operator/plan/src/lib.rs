//! From raw specs to the desired state of every node, without a clock, a socket or randomness.
//!
//! In order: [`validate`] turns a raw object into a proven one or into all its problems;
//! [`Fleet`] holds what is proven, resolves who may use what, places models on nodes and says
//! what each node should hold ([`desired`]). Beside it, [`shares`] says what part of each tenant's
//! limits each door may spend, and [`reached`] knows which limits refuse calls.

pub mod desired;
mod fleet;
mod name;
mod problem;
pub mod reached;
pub mod shares;
pub mod validate;
mod words;

pub use fleet::{
    Demand, Estimate, Fleet, KeyCount, ModelHeld, NodePlan, NodeReport, NodeSupply, SequenceBlocks,
};
pub use name::{Kind, Name, NameError};
pub use problem::{Problem, Reason};
pub use words::counted;

#[cfg(test)]
mod samples;
