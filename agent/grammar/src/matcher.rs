//! One answer on its way through a grammar.

use llguidance::{TokenParser, api::StopReason};
use thiserror::Error;

use crate::{grammar::caught, mask::Mask};

/// Bytes that an answer's place in its grammar may have, by a count that is no less than what it has
/// when it is large. Four times what a schema of a hundred keys comes to in three thousand tokens; it
/// is held to behind each step, which adds a mebibyte at most.
pub(crate) const BYTES_MAX: usize = 8 << 20;
/// Bytes of an item with its parameter, sixteen, in a list that has as much room to grow.
const ITEM_BYTES: usize = 32;

/// Why an answer cannot go on. It stays so.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MatcherError {
    #[error("token {id} is not of the grammar")]
    NotAllowed { id: u32 },
    #[error("no token of the model leads on in the grammar")]
    DeadEnd,
    #[error("the grammar is too complex: {0}")]
    TooComplex(String),
}

/// The place of one answer in its grammar.
pub struct Matcher {
    parser: TokenParser,
    /// Items of the answer's rows so far, which stay.
    items: usize,
    /// Nothing can follow but the end.
    is_whole: bool,
    failed: Option<MatcherError>,
}

impl Matcher {
    pub(crate) fn new(mut parser: TokenParser) -> Self {
        parser.start_without_prompt();
        let mut matcher = Self { parser, items: 0, is_whole: false, failed: None };
        matcher.look();
        matcher
    }

    /// Takes the next token of the answer, which is not one of its endings.
    pub fn accept(&mut self, id: u32) -> Result<(), MatcherError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.is_whole {
            return self.fail(MatcherError::NotAllowed { id });
        }
        match caught(|| self.parser.validate_token(id)) {
            Ok(true) => {}
            Ok(false) => return self.fail(MatcherError::NotAllowed { id }),
            Err(reason) => return self.fail(MatcherError::TooComplex(reason)),
        }
        let items = self.parser.parser_stats().all_items;
        if let Err(reason) = caught(|| self.parser.consume_token(id)) {
            return self.fail(MatcherError::TooComplex(reason));
        }
        self.items += self.parser.parser_stats().all_items.saturating_sub(items);
        self.look();
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None => self.weigh(()),
        }
    }

    /// The tokens that may follow those so far: endings among them where the answer may end, and
    /// nothing else where it must.
    pub fn mask(&mut self) -> Result<Mask, MatcherError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let parser = &mut self.parser;
        if self.is_whole {
            let tokens = parser.token_env.tok_trie();
            return Ok(Mask::of(tokens.eos_tokens().iter().copied(), tokens.vocab_size()));
        }
        let computed = caught(|| parser.compute_mask());
        match computed {
            Ok(mask) => self.weigh(Mask::new(mask.into())),
            Err(_) if self.parser.stop_reason() == StopReason::NoExtensionBias => {
                self.fail(MatcherError::DeadEnd)
            }
            Err(reason) => self.fail(MatcherError::TooComplex(reason)),
        }
    }

    /// About how many bytes this has.
    pub(crate) fn bytes(&self) -> usize {
        self.parser.parser.lexer_stats().num_bytes + self.items * ITEM_BYTES
    }

    /// Gives `done`, unless this has become too large.
    fn weigh<T>(&mut self, done: T) -> Result<T, MatcherError> {
        if self.bytes() > BYTES_MAX {
            let message = format!("an answer takes more than {} MiB of it", BYTES_MAX >> 20);
            return self.fail(MatcherError::TooComplex(message));
        }
        Ok(done)
    }

    /// Takes note of whether the answer can go on.
    fn look(&mut self) {
        match caught(|| self.parser.check_stop()) {
            Ok(is_whole) => self.is_whole = is_whole,
            Err(reason) => self.failed = Some(MatcherError::TooComplex(reason)),
        }
    }

    fn fail<T>(&mut self, error: MatcherError) -> Result<T, MatcherError> {
        self.failed = Some(error.clone());
        Err(error)
    }
}
