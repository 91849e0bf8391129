//! Arithmetic on weights and activations: the `Backend` trait, the block formats and the CPU backend.
//!
//! [`format`](mod@format) names how numbers are stored and [`formats`] says what their bytes mean;
//! [`backend`] is what a device must do, [`cpu`] does it, and [`contract`] finds out whether it does
//! it right. [`ceiling`] measures what the machine could do at best.

pub mod backend;
pub mod ceiling;
pub mod checks;
pub mod contract;
pub mod cpu;
pub mod format;
pub mod formats;

#[cfg(test)]
mod tests;
