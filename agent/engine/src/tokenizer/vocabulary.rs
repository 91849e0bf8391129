//! The tokens of a model: their bytes, their kinds, and which of them are special.

use std::collections::HashSet;

use tokenizers::models::bpe::Vocab;

use super::{Special, TokenizerError, alphabet::Alphabet};
use crate::gguf::{Gguf, GgufError, required};

/// Bytes of the longest special token that is read.
///
/// Looking for one takes a step for each byte it may have, at every character of a text, so this
/// bounds what a text of a given length costs. Published ones have less than a hundred: thirty-odd
/// blanks in a row, of three bytes each.
pub(super) const SPECIAL_BYTES_MAX: usize = 128;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Text,
    /// A mark for the model that is no text.
    Control,
    /// A text of its own that is never made by merging.
    UserDefined,
}

pub(super) struct Vocabulary {
    /// The bytes of all tokens, one behind the other.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    /// Special tokens in the order of their spelling, byte by byte.
    specials: Vec<(String, u32)>,
    /// The bytes with which some special token starts.
    starts: [bool; 256],
    endings: HashSet<u32>,
}

/// Reads the vocabulary of a file, and the ids of its text tokens by their spelling.
pub(super) fn read(
    gguf: &Gguf,
    alphabet: &Alphabet,
) -> Result<(Vocabulary, Vocab), TokenizerError> {
    let metadata = TokenizerError::Metadata;
    let key = "tokenizer.ggml.tokens";
    let tokens = gguf
        .texts(key)
        .and_then(|tokens| required(key, tokens))
        .map_err(TokenizerError::Metadata)?;
    let key = "tokenizer.ggml.token_type";
    let value = required(key, gguf.get(key)).map_err(metadata)?;
    let wanted = "an array of 32-bit whole numbers";
    let mistyped = || metadata(GgufError::Type { key: key.to_owned(), wanted });
    let numbers = value.as_i32s().ok_or_else(mistyped)?;
    if numbers.len() != tokens.len() {
        return Err(TokenizerError::Kinds { tokens: tokens.len(), kinds: numbers.len() });
    }

    let mut ids = Vocab::with_capacity(tokens.len());
    let mut vocabulary = Vocabulary {
        bytes: Vec::new(),
        ends: Vec::with_capacity(tokens.len()),
        kinds: Vec::with_capacity(tokens.len()),
        specials: Vec::new(),
        starts: [false; 256],
        endings: HashSet::new(),
    };
    for (at, (token, &number)) in tokens.iter().zip(numbers).enumerate() {
        let kind = kind(at, number)?;
        let id = u32::try_from(at).unwrap_or(u32::MAX);
        match kind {
            Kind::Text => {
                let bytes = alphabet.bytes(token).ok_or(TokenizerError::NotBytes { id: at })?;
                vocabulary.bytes.extend(bytes);
            }
            Kind::Control | Kind::UserDefined => {
                let bytes = token.len();
                if bytes > SPECIAL_BYTES_MAX {
                    return Err(TokenizerError::SpecialTooLong { id: at, bytes });
                }
                vocabulary.bytes.extend(token.as_bytes());
                if let Some(&first) = token.as_bytes().first() {
                    vocabulary.starts[usize::from(first)] = true;
                    vocabulary.specials.push((token.clone(), id));
                }
            }
        }
        vocabulary.ends.push(vocabulary.bytes.len());
        vocabulary.kinds.push(kind);
        if ids.insert(token.clone(), id).is_some() {
            return Err(TokenizerError::Duplicate(token.clone()));
        }
    }
    vocabulary.specials.sort();
    Ok((vocabulary, ids))
}

/// The kind behind a number. "Unknown" and "unused" tokens are marks as control tokens are, and
/// "byte" tokens belong to another kind of tokenizer.
const fn kind(id: usize, number: i32) -> Result<Kind, TokenizerError> {
    match number {
        1 => Ok(Kind::Text),
        2 | 3 | 5 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        kind => Err(TokenizerError::Kind { id, kind }),
    }
}

impl Vocabulary {
    /// Adds the tokens that end an answer: those ids, and control tokens of those spellings.
    pub(super) fn with_endings(
        mut self,
        ids: impl Iterator<Item = u32>,
        spellings: &[&str],
    ) -> Self {
        let spelled = self.specials.iter().filter(|(text, _)| spellings.contains(&text.as_str()));
        self.endings = ids.chain(spelled.map(|&(_, id)| id)).collect();
        self
    }

    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_ending(&self, id: u32) -> bool {
        self.endings.contains(&id)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.bytes.get(start..end)
    }

    /// The longest special token that `text` starts with. Control tokens count only when asked
    /// for; user-defined ones are text and always do.
    pub(super) fn special_at(&self, text: &str, special: Special) -> Option<(&str, u32)> {
        let text = text.as_bytes();
        if !self.starts[usize::from(*text.first()?)] {
            return None;
        }
        let mut left = self.specials.as_slice();
        let mut longest = None;
        for (depth, byte) in text.iter().enumerate() {
            left = going_on(left, depth, *byte);
            let Some(((spelling, id), longer)) = left.split_first() else { break };
            // The spelling that ends here comes before all that go on from it.
            if spelling.len() == depth + 1 {
                if special == Special::Token || self.kind(*id) == Some(Kind::UserDefined) {
                    longest = Some((spelling.as_str(), *id));
                }
                left = longer;
            }
        }
        longest
    }

    /// Cuts `text` at its first special token.
    pub(super) fn split_special<'t>(
        &self,
        text: &'t str,
        special: Special,
    ) -> Option<(&'t str, u32, &'t str)> {
        text.char_indices().find_map(|(at, _)| {
            let (spelling, id) = self.special_at(&text[at..], special)?;
            Some((&text[..at], id, &text[at + spelling.len()..]))
        })
    }
}

/// Those of `specials` that go on with `byte`. They are in order, alike in their first `depth` bytes
/// and longer than that.
fn going_on(specials: &[(String, u32)], depth: usize, byte: u8) -> &[(String, u32)] {
    let at = |special: &(String, u32)| special.0.as_bytes().get(depth).copied();
    let ends = [specials.first(), specials.last()].map(|end| end.and_then(at));
    if ends == [Some(byte); 2] {
        // All of them: mostly there is only one left.
        return specials;
    }
    let start = specials.partition_point(|special| at(special) < Some(byte));
    let end = specials.partition_point(|special| at(special) <= Some(byte));
    &specials[start..end]
}
