//! The operator's end of the link to the agents.
//!
//! An agent's connection passes, in order: TLS with a certificate of the [`authority`],
//! [`identity`] (whose token is this), [`server`] (is it the node that it says it is), and the
//! [`registry`], where the fleet leaves what a node should hold and finds what it does hold.
//! Protobuf meets the operator's words in `convert` alone.

pub mod report;
pub mod supply;

pub mod authority;
pub mod identity;
pub mod registry;

mod convert;
pub use convert::ConvertError;
pub mod server;
