//! Desired state in, report out: the state path of one agent.
//!
//! [`ledger::Ledger::accept`] refuses what is older and keeps the rest on disk, `diff` (pure) says
//! what is to do next, and [`converge::run`] does it through the port
//! [`realm_core::residents::Residents`] and writes the [`realm_core::report::Report`], from which
//! [`readiness::follow`] learns when the node may be given calls.
//! Desired states meet their protobuf form in `convert` alone.

pub mod ledger;

pub mod converge;
mod diff;
pub mod readiness;

mod convert;
pub use convert::ConvertError;

#[cfg(test)]
mod arbitrary;
