//! Prompt to tokens: opens model files and serves them to many tenants in one batch.
//!
//! In the order of a request: [`tokenizer`] and the chat template make ids of text, the scheduler
//! plans a step over all tenants' sequences, the forward pass computes it on a backend, the sampler
//! picks tokens, and a bounded stream takes them out. [`open`] makes the engine of a model file;
//! [`eval`] and [`bench`] run the same parts without it, and [`simulation`] the scheduler alone;
//! [`quantise`] writes model files.

pub mod gguf;
pub mod quantise;

mod template;
pub mod tokenizer;

mod adapter;
mod architecture;
mod batch;
mod forward;
mod weights;

mod constraint;
mod hook;
mod kv;
mod output;
mod sampler;
mod scheduler;
mod stop;
mod turns;

mod budget;
mod engine;
mod load;

pub mod bench;
pub mod eval;
pub mod simulation;

pub use adapter::{AdapterError, examine_adapter, examine_adapter_head};
pub use architecture::{ArchitectureError, architectures};
pub use budget::{Memory, MemoryBudget};
pub use engine::{AdaptedEngine, AdapterOptions, EngineHandle};
pub use kv::Secret;
pub use load::{BLOCK_TOKENS, LoadError, OpenOptions, examine, examine_heads, open};
pub use weights::WeightsError;
