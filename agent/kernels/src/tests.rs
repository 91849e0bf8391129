//! Facts about the whole crate.

mod instruction_sets;
mod vectors;
