//! Arithmetic on weights and activations: the `Backend` trait, the block formats and the CPU backend.

pub mod backend;
pub mod format;
