//! Programs in their sandboxes, driven through the ports as the doors and the engine drive them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod echo;
mod town;

mod attacks;
mod built_in;
mod components;
mod embed;
mod hooks;
mod life;
mod pipelines;
mod pirate;
mod prefixes;
mod resume;
mod sources;
mod store;
mod wide;
