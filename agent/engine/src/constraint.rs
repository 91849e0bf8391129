//! Answers that keep to a grammar, in the order of their way: an answer takes one of the [`places`],
//! its constraint is compiled on a thread of the [`compiler`] before its sequence is admitted,
//! [`masks`] are computed on others beside the forward pass, and a [`guide`] says of each sequence
//! whether the next one is there.
//!
//! What a grammar costs is the work of its tenant alone: both kinds of threads take the tenants in
//! turns, and the engine's thread never waits for a mask while there is anything to compute.

pub(crate) mod places;

mod cache;
pub(crate) mod compiler;

pub(crate) mod guide;
pub(crate) mod masks;

use realm_core::{constraint::PARAMETER, refusal::Refusal};

/// How a sequence ends whose constraint cannot be kept to.
pub(crate) fn refusal(reason: &impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(format!("`{PARAMETER}`: {reason}"))
}
