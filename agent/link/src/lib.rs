//! Desired state in, report out: the state path of one agent.
//!
//! [`ledger::Ledger::accept`] refuses what is older and keeps the rest on disk, `diff` (pure) says
//! what is to do next, and [`converge::run`] does it through the port
//! [`realm_core::residents::Residents`] and writes the [`realm_core::report::Report`], from which
//! [`readiness::follow`] learns when the node may be given calls.
//! Where there is an operator, [`client::run`] hears what to hold from it and tells it the report;
//! what part of tenants' limits this door may spend, it hears beside that ([`slices`]).
//! Calls go from agent to agent through [`peer`].
//! All of it meets its protobuf form in `convert`.

pub mod durable;
pub mod ledger;
pub mod slices;

pub mod converge;
mod diff;
pub mod readiness;

pub mod client;

pub mod peer;

mod convert;
pub use convert::ConvertError;

#[cfg(test)]
mod arbitrary;
