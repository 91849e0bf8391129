//! Tenants' programs as WebAssembly components, each in its own sandbox beside the weights.
//!
//! A component's bytes become a [`Prepared`] program once ([`Runtime::prepare_program`]): checked,
//! compiled, asked for its functions and whether it works. A call then takes a fresh instance from the pool, runs in it
//! under its tenant's limits, and throws it away. Nothing but the `host` interfaces reaches out of
//! a sandbox.

#[expect(clippy::error_impl_error, reason = "the world's own word, and the bindings are generated")]
mod bindings;

pub mod bench;

mod ahead;
mod artifact;
mod asks;
mod call;
mod checkup;
mod directory;
mod hook;
mod host;
mod kept;
mod meter;
mod pipeline;
mod pool;
mod program;
mod refusal;
mod room;
mod runtime;
mod sandbox;
mod shared;
mod spent;
mod store;
mod texts;
mod tracker;
mod writer;

pub use artifact::PROGRAM_BYTES_MAX;
pub use directory::{Awaited, ModelState};
pub use kept::{Kept, KeptError};
pub use program::{Prepared, ProgramError};
pub use runtime::Runtime;
pub use sandbox::SandboxError;
pub use spent::ProgramSpent;
pub use writer::{End, deliver};
