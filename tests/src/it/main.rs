//! Whole paths through Realm, and the rules of the house.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod link;
mod reasons;
mod tidy;
