//! Whole paths through Realm, and the rules of the house.

mod tidy;
