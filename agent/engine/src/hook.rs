//! What stands beside a generation, token by token: its tenant's own code, behind the port
//! [`realm_core::hook`]. A generation takes a place, what is [`beside`] its sequence says whether
//! the next token still waits for its hook, and [`threads`] let hooks work, for what of a
//! [`processor`] that takes.
//!
//! Hooks cost their own tenant's tokens time and nobody else's: they work beside the forward pass,
//! in turns of a slice each, and the engine's thread waits for one only when there is nothing else
//! to compute.

pub(crate) mod beside;
mod processor;
pub(crate) mod threads;

use crate::turns::Limits;

/// Generations of one engine that have hooks at once, and of each tenant among them.
///
/// Behind each there may be an instance with as much memory as its tenant's programs may have: 64
/// MiB where nobody says otherwise, so a gibibyte for an engine and a quarter of that for a tenant.
/// An instance that needs little takes little.
pub(crate) const PLACES_MAX: Limits = Limits { all: 16, of_tenant: 4 };
