//! The engine as its neighbours use it: files in, tokens out.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here is a test, also in the functions that tests share"
)]

#[path = "../../../../tests/src/tiny_adapter.rs"]
mod tiny_adapter;
#[expect(unreachable_pub, reason = "other crates use it where it is a part of a library")]
#[path = "../../../../tests/src/tiny_gguf.rs"]
mod tiny_gguf;
#[path = "../../../../tests/src/tiny_parts.rs"]
mod tiny_parts;

mod adapters;
mod reference_model;
mod support;

mod architectures;
mod constraint;
mod converted;
mod embed;
mod encoders;
mod files;
mod formats;
mod generate;
mod logits;
mod perplexity;
mod quantise;
mod resume;
mod split;
mod steps;
mod tokens;
mod vocabularies;
mod windows;
