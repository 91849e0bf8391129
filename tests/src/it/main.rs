//! Whole paths through Realm, and the rules of the house.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tidy;
