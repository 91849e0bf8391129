//! Facts about the whole crate.

mod instruction_sets;
#[cfg(target_os = "linux")]
mod locked;
mod mxfp4;
mod vectors;
