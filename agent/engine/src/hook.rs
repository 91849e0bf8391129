//! What stands beside a generation, token by token: its tenant's own code, behind the port
//! [`realm_core::hook`]. A generation takes a place, what is [`beside`] its sequence says whether
//! the next token still waits for its hook, and [`threads`] let hooks work.
//!
//! Hooks cost their own tenant's tokens time and nobody else's: they work beside the forward pass,
//! in turns of a slice each, and the engine's thread waits for one only when there is nothing else
//! to compute.

pub(crate) mod beside;
pub(crate) mod threads;
