//! A model's tokens, as grammars see them: bytes in a tree.

use std::sync::Arc;

use llguidance::{
    ParserFactory,
    earley::SlicedBiasComputer,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use realm_core::constraint::Constraint;
use thiserror::Error;

use crate::grammar::{self, Grammar, GrammarError};

/// Bytes of the longest token that is read: the tree's nodes count the way back to their parents
/// in ten bits. A longer one never comes in an answer that keeps to a grammar.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// Tokens of the largest vocabulary: the tree's nodes hold ids in 24 bits, and their count in 22.
/// The largest that is published has a quarter of it.
pub const VOCABULARY_MAX: usize = 1 << 20;

/// Why a vocabulary cannot be had.
#[derive(Debug, Error)]
pub enum VocabularyError {
    #[error("the vocabulary has {tokens} tokens; grammars are kept to with {VOCABULARY_MAX}")]
    TooLarge { tokens: usize },
    #[error("the vocabulary has no token that ends an answer")]
    NoEnding,
    #[error("the tokens make no tree: {0}")]
    Tree(String),
}

/// The tokens of one model. Takes some ten milliseconds to make for each ten thousand tokens.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    /// Of the bytes that each token adds to an answer, by id: none for a token that is no text.
    /// An answer ends with one of `endings`, which are no text either.
    pub fn new<'t>(
        tokens: impl Iterator<Item = &'t [u8]>,
        endings: &[u32],
    ) -> Result<Self, VocabularyError> {
        let words = tokens.map(|bytes| if bytes.len() > TOKEN_BYTES_MAX { &[] } else { bytes });
        let mut words: Vec<Vec<u8>> = words.map(<[u8]>::to_vec).collect();
        if words.len() > VOCABULARY_MAX {
            return Err(VocabularyError::TooLarge { tokens: words.len() });
        }
        let len = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let endings: Vec<u32> = endings.iter().copied().filter(|&id| id < len).collect();
        for &ending in &endings {
            if let Some(word) = words.get_mut(ending as usize) {
                word.clear();
            }
        }
        let Some(&ending) = endings.first() else { return Err(VocabularyError::NoEnding) };
        let made = grammar::caught(|| {
            let tree = TokTrie::from(&TokRxInfo::new(len, ending), &words);
            let tree = tree.with_eos_tokens(&endings);
            // Text that a grammar leaves no choice about is cut as the model likes it: what our
            // tokenizer makes of a piece of text is not what it makes of it within the whole.
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
            let capabilities = InferenceCapabilities::default();
            ParserFactory::new(&tokens, capabilities, &SlicedBiasComputer::general_slices())
        });
        let mut factory = made.map_err(VocabularyError::Tree)?;
        factory.quiet();
        *factory.limits_mut() = grammar::limits();
        Ok(Self { factory })
    }

    /// The grammar of a constraint. Takes [`STACK_BYTES`] of stack.
    ///
    /// [`STACK_BYTES`]: crate::STACK_BYTES
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        Grammar::compile(&self.factory, constraint)
    }
}
