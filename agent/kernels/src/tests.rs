//! Facts about the whole crate.

mod instruction_sets;
mod mxfp4;
mod vectors;
