//! The tokens of a model: their bytes, their kinds, and which of them are special.

use std::collections::{HashMap, HashSet};

use super::{Special, TokenizerError, alphabet::Alphabet, prefixes::Prefixes};
use crate::gguf::{Gguf, GgufError, required};

/// Bytes of the longest special token that is read.
///
/// Looking for one takes a step for each byte it may have, at every character of a text, so this
/// bounds what a text of a given length costs. Published ones have less than a hundred: thirty-odd
/// blanks in a row, of three bytes each.
pub(super) const SPECIAL_BYTES_MAX: usize = 128;

/// Bytes of the longest piece of text that is read where pieces are looked up by their spelling:
/// each such look reads as much. The longest that is published is 31 blanks of three bytes.
pub(super) const PIECE_BYTES_MAX: usize = 256;

/// The character that stands for a blank in the pieces of SentencePiece and its kin.
pub(super) const BLANK: char = '\u{2581}';

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Text,
    /// A byte that no piece of text holds.
    Byte,
    /// A mark for the model that is no text.
    Control,
    /// A text of its own that is never made by merging.
    UserDefined,
}

/// How the bytes of a text token are written in the file.
pub(super) enum Spelling {
    /// One character a byte.
    Bytes(Alphabet),
    /// As text, with [`BLANK`] for each blank; bytes as `<0x0A>`.
    Pieces,
}

pub(super) struct Vocabulary {
    /// The bytes of all tokens, one behind the other.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    specials: Prefixes,
    endings: HashSet<u32>,
}

/// The ids of tokens that text may become, by their spelling in the file.
pub(super) type Ids<'a> = HashMap<&'a str, u32>;

/// Reads the vocabulary of a file, and the ids of its text tokens, user-defined ones among them.
/// What spells one of `endings` is a control token, whatever the file calls it.
pub(super) fn read<'g>(
    gguf: &'g Gguf,
    spelling: &Spelling,
    endings: &[&str],
) -> Result<(Vocabulary, Ids<'g>), TokenizerError> {
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

    let mut ids = Ids::with_capacity(tokens.len());
    let mut seen = HashSet::with_capacity(tokens.len());
    let mut specials = Vec::new();
    let mut vocabulary = Vocabulary {
        bytes: Vec::new(),
        ends: Vec::with_capacity(tokens.len()),
        kinds: Vec::with_capacity(tokens.len()),
        specials: Prefixes::default(),
        endings: HashSet::new(),
    };
    for (at, (token, &number)) in tokens.iter().zip(numbers).enumerate() {
        let kind = match kind(at, number, spelling)? {
            Kind::Text | Kind::UserDefined if endings.contains(&token.as_str()) => Kind::Control,
            kind => kind,
        };
        let id = u32::try_from(at).unwrap_or(u32::MAX);
        vocabulary.bytes.extend(bytes_of(token, kind, spelling, at)?);
        vocabulary.ends.push(vocabulary.bytes.len());
        vocabulary.kinds.push(kind);
        if matches!(kind, Kind::Control | Kind::UserDefined) {
            specials.push((token.as_bytes().into(), id));
        }
        if matches!(kind, Kind::Text | Kind::UserDefined) {
            ids.insert(token.as_str(), id);
        }
        if !seen.insert(token.as_str()) {
            return Err(TokenizerError::Duplicate(token.clone()));
        }
    }
    vocabulary.specials = Prefixes::new(specials.into_iter());
    Ok((vocabulary, ids))
}

/// The kind behind a number. "Unknown" and "unused" tokens are marks as control tokens are, and
/// only pieces of text have bytes beside them.
const fn kind(id: usize, number: i32, spelling: &Spelling) -> Result<Kind, TokenizerError> {
    match (number, spelling) {
        (1, _) => Ok(Kind::Text),
        (2 | 3 | 5, _) => Ok(Kind::Control),
        (4, _) => Ok(Kind::UserDefined),
        (6, Spelling::Pieces) => Ok(Kind::Byte),
        (kind, _) => Err(TokenizerError::Kind { id, kind }),
    }
}

/// The bytes that a token stands for.
fn bytes_of(
    token: &str,
    kind: Kind,
    spelling: &Spelling,
    id: usize,
) -> Result<Vec<u8>, TokenizerError> {
    let bytes = token.len();
    match (kind, spelling) {
        (Kind::Text, Spelling::Bytes(alphabet)) => {
            alphabet.bytes(token).ok_or(TokenizerError::NotBytes { id })
        }
        (Kind::Text, Spelling::Pieces) if bytes > PIECE_BYTES_MAX => {
            Err(TokenizerError::PieceTooLong { id, bytes })
        }
        (Kind::Text, Spelling::Pieces) => Ok(token.replace(BLANK, " ").into_bytes()),
        (Kind::Byte, _) => {
            byte(token).map(|byte| vec![byte]).ok_or(TokenizerError::NotBytes { id })
        }
        (Kind::Control | Kind::UserDefined, _) if bytes > SPECIAL_BYTES_MAX => {
            Err(TokenizerError::SpecialTooLong { id, bytes })
        }
        (Kind::Control | Kind::UserDefined, _) => Ok(token.as_bytes().to_vec()),
    }
}

/// The byte that a token spells as `<0x0A>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
}

impl Vocabulary {
    /// Adds the tokens that end an answer: those ids, and special tokens of those spellings.
    pub(super) fn with_endings(
        mut self,
        ids: impl Iterator<Item = u32>,
        spellings: &[&str],
    ) -> Self {
        let spelled = self.specials.spellings();
        let spelled =
            spelled.filter(|(text, _)| spellings.iter().any(|ending| ending.as_bytes() == *text));
        self.endings = ids.chain(spelled.map(|(_, id)| id)).collect();
        self
    }

    /// The control tokens but for those of some spellings.
    pub(super) fn controls(&self, but: &[&str]) -> HashSet<u32> {
        let specials = self.specials.spellings();
        let others = specials.filter(|(text, _)| !but.iter().any(|but| but.as_bytes() == *text));
        others.map(|(_, id)| id).filter(|&id| self.kind(id) == Some(Kind::Control)).collect()
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

    /// The tokens that stand for one byte each, by that byte.
    pub(super) fn byte_ids(&self, kind: Kind) -> [Option<u32>; 256] {
        let mut ids = [None; 256];
        for id in (0..self.len()).filter_map(|id| u32::try_from(id).ok()) {
            if let (Some([byte]), true) = (self.bytes(id), self.kind(id) == Some(kind)) {
                ids[usize::from(*byte)] = Some(id);
            }
        }
        ids
    }

    /// The length and the id of the longest special token that `text` starts with. Control tokens
    /// count only when asked for; user-defined ones are text and always do.
    pub(super) fn special_at(&self, text: &str, special: Special) -> Option<(usize, u32)> {
        self.specials
            .of(text.as_bytes())
            .filter(|&(_, id)| {
                special == Special::Token || self.kind(id) == Some(Kind::UserDefined)
            })
            .last()
    }

    /// Whether `text` is a special token and nothing else.
    pub(super) fn is_special(&self, text: &str) -> bool {
        self.special_at(text, Special::Token).is_some_and(|(len, _)| len == text.len())
    }

    /// Cuts `text` at its first special token.
    pub(super) fn split_special<'t>(
        &self,
        text: &'t str,
        special: Special,
    ) -> Option<(&'t str, u32, &'t str)> {
        text.char_indices().find_map(|(at, _)| {
            let (len, id) = self.special_at(&text[at..], special)?;
            Some((&text[..at], id, &text[at + len..]))
        })
    }
}
