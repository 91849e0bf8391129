//! One answer on its way through a grammar.

use llguidance::{TokenParser, api::StopReason};
use thiserror::Error;

use crate::{grammar::caught, mask::Mask};

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
    /// Nothing can follow but the end.
    is_whole: bool,
    failed: Option<MatcherError>,
}

impl Matcher {
    pub(crate) fn new(mut parser: TokenParser) -> Self {
        parser.start_without_prompt();
        let mut matcher = Self { parser, is_whole: false, failed: None };
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
        if let Err(reason) = caught(|| self.parser.consume_token(id)) {
            return self.fail(MatcherError::TooComplex(reason));
        }
        self.look();
        self.failed.clone().map_or(Ok(()), Err)
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
            Ok(mask) => Ok(Mask::new(mask.into())),
            Err(_) if self.parser.stop_reason() == StopReason::NoExtensionBias => {
                self.fail(MatcherError::DeadEnd)
            }
            Err(reason) => self.fail(MatcherError::TooComplex(reason)),
        }
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
