//! `realm serve`: one machine, from manifests to answers.

mod convert;
mod state;
