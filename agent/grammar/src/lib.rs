//! Grammars that answers keep to: which tokens may come next.
//!
//! In the order of use: a [`Vocabulary`] is made once of a model's tokens, compiles constraints to
//! a [`Grammar`] each, and a grammar begins one [`Matcher`] for each answer, which takes tokens and
//! says with a [`Mask`] which may follow.
//!
//! Everything here takes a bounded time and a bounded memory, whatever the constraint is, and both
//! are too long for a thread that computes tokens: who calls has a thread of its own.

mod grammar;
mod mask;
mod matcher;
mod vocabulary;

pub use grammar::{Grammar, GrammarError, STACK_BYTES};
pub use mask::Mask;
pub use matcher::{Matcher, MatcherError};
pub use vocabulary::{TOKEN_BYTES_MAX, VOCABULARY_MAX, Vocabulary, VocabularyError};

#[cfg(test)]
mod tests;
