//! WordPiece: text is stripped of capitals and accents and cut at blanks and signs; each word becomes
//! the longest pieces it goes on with, or one unknown token if a part of it is no piece.

use regex::Regex;
use unicode_normalization::UnicodeNormalization as _;

use super::{
    TokenizerError,
    prefixes::Prefixes,
    vocabulary::{BLANK, Ids},
};
use crate::gguf::Gguf;

/// Controls that are no blanks, and characters that stand for lost ones.
const CONTROLS: &str = r"[\p{Cc}\p{Cf}\p{Co}\u{FFFD}--\s]";
/// The same, and the accents of a text that has been decomposed.
const CONTROLS_AND_ACCENTS: &str = r"[\p{Mn}\p{Cc}\p{Cf}\p{Co}\u{FFFD}--\s]";

/// A word: a sign or an ideograph alone, or what stands between such and blanks.
const WORDS: &str = concat!(
    r"[\p{P}$+<=>^`|~\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
    r"\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]",
    r"|[^\s\p{P}$+<=>^`|\u{7E}\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}",
    r"\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}",
    r"\u{2F800}-\u{2FA1F}]+"
);

pub(super) struct WordPiece {
    pieces: Prefixes,
    unknown: u32,
    left_out: Regex,
    words: Regex,
    lowercase: bool,
    strip_accents: bool,
}

impl WordPiece {
    pub(super) fn new(gguf: &Gguf, ids: &Ids<'_>, unknown: u32) -> Result<Self, TokenizerError> {
        let flag = |key: &str| {
            let value = gguf.boolean(key).map_err(TokenizerError::Metadata)?;
            Ok(value.unwrap_or(true))
        };
        let regex = |pattern| Regex::new(pattern).expect("a test compiles it");
        let pieces = ids.iter().map(|(piece, &id)| (piece.as_bytes().into(), id));
        let strip_accents = flag("tokenizer.ggml.normalizer.strip_accents")?;
        Ok(Self {
            pieces: Prefixes::new(pieces),
            unknown,
            left_out: regex(if strip_accents { CONTROLS_AND_ACCENTS } else { CONTROLS }),
            words: regex(WORDS),
            lowercase: flag("tokenizer.ggml.normalizer.lowercase")?,
            strip_accents,
        })
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let decomposed: Option<String> = self.strip_accents.then(|| text.nfd().collect());
        let text = self.left_out.replace_all(decomposed.as_deref().unwrap_or(text), "");
        let mut word = String::new();
        for found in self.words.find_iter(&text) {
            word.clear();
            word.push(BLANK);
            let characters = found.as_str().chars();
            if self.lowercase {
                word.extend(characters.flat_map(char::to_lowercase));
            } else {
                word.extend(characters);
            }
            self.encode_word(&word, ids);
        }
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            let Some((len, id)) = self.pieces.of(rest).last() else {
                ids.truncate(before);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            rest = &rest[len..];
        }
    }
}

/// Text of pieces as people write it: no blank before a mark that ends a phrase or a clause, nor
/// within a short form, nor around an apostrophe.
pub(super) fn tidied(bytes: &[u8]) -> Vec<u8> {
    let marks = without_blanks(bytes, |rest| matches!(rest, [b'?' | b'!' | b'.' | b',', ..]));
    let mut apostrophes = Vec::with_capacity(marks.len());
    let mut rest = marks.as_slice();
    while let [first, after @ ..] = rest {
        // What is at the very start has no blank before it.
        if let ([b' ', b'\'', b' ', beyond @ ..], false) = (rest, apostrophes.is_empty()) {
            apostrophes.push(b'\'');
            rest = beyond;
        } else {
            apostrophes.push(*first);
            rest = after;
        }
    }
    without_blanks(&apostrophes, |rest| {
        matches!(rest, [b'\'', b's' | b'm', ..] | [b'\'', b'r' | b'v', b'e', ..])
    })
}

/// Leaves out each blank before something.
fn without_blanks(bytes: &[u8], before: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let kept = bytes
        .iter()
        .enumerate()
        .filter(|&(at, &byte)| byte != b' ' || !before(bytes.get(at + 1..).unwrap_or_default()));
    kept.map(|(_, &byte)| byte).collect()
}
