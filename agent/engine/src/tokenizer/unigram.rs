//! SentencePiece's unigram model: of all ways to write a text in pieces, the likeliest.

use realm_core::engine::TextError;

use super::{
    TokenizerError,
    charsmap::Charsmap,
    prefixes::Prefixes,
    spm::scores,
    vocabulary::{BLANK, Ids, Vocabulary},
};
use crate::gguf::{Array, Gguf, GgufError, Value};

/// How much less likely than the least likely piece a character is that is none, as a logarithm.
const UNKNOWN_PENALTY: f64 = 10.0;

pub(super) struct Unigram {
    pieces: Prefixes,
    /// By id, of pieces and others.
    scores: Vec<f32>,
    unknown: u32,
    unknown_score: f64,
    charsmap: Option<Charsmap>,
    /// Whether a text, and what follows a special token, begins with a blank of its own.
    pub(super) adds_blank: bool,
    /// Whether several blanks are read as one, and those at the ends as none.
    joins_blanks: bool,
}

/// The likeliest way to write a text up to some place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// The last piece, and where it starts.
    id: u32,
    start: usize,
}

impl Unigram {
    pub(super) fn new(
        gguf: &Gguf,
        (vocabulary, ids): (&Vocabulary, &Ids<'_>),
        unknown: u32,
    ) -> Result<Self, TokenizerError> {
        let flag = |key: &str, default| {
            let value = gguf.boolean(key).map_err(TokenizerError::Metadata)?;
            Ok(value.unwrap_or(default))
        };
        let scores = scores(gguf, vocabulary.len())?.to_vec();
        let of_pieces = ids.values().filter_map(|&id| scores.get(id as usize));
        let least = of_pieces.copied().fold(f32::INFINITY, f32::min);
        Ok(Self {
            pieces: Prefixes::new(ids.iter().map(|(piece, &id)| (piece.as_bytes().into(), id))),
            unknown,
            unknown_score: f64::from(least) - UNKNOWN_PENALTY,
            charsmap: charsmap(gguf)?,
            adds_blank: flag("tokenizer.ggml.add_space_prefix", true)?,
            joins_blanks: flag("tokenizer.ggml.remove_extra_whitespaces", false)?,
            scores,
        })
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let text = self.normalised(text);
        let nothing = Best { score: f64::NEG_INFINITY, id: self.unknown, start: 0 };
        let mut best = vec![nothing; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            let before = best[start].score;
            let mut reach = |len: usize, id: u32, score: f64| {
                let score = before + score;
                let end = &mut best[start + len];
                if score > end.score {
                    *end = Best { score, id, start };
                }
            };
            let mut is_piece = false;
            for (len, id) in self.pieces.of(&text.as_bytes()[start..]) {
                is_piece |= len == c.len_utf8();
                reach(len, id, self.scores.get(id as usize).map_or(0.0, |&score| score.into()));
            }
            if !is_piece {
                reach(c.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        let first = ids.len();
        let mut end = text.len();
        while end > 0 {
            let Best { id, start, .. } = best[end];
            if start >= end {
                // Scores of minus infinity: a file may hold them, and nothing is likelier then.
                return Err(TextError::Tokenizer("no way to write it has a likelihood".to_owned()));
            }
            // Neighbours that are no pieces are one unknown token.
            if id != self.unknown || ids[first..].last() != Some(&id) {
                ids.push(id);
            }
            end = start;
        }
        ids[first..].reverse();
        Ok(())
    }

    /// The text in the one spelling that pieces have, with [`BLANK`] for blanks.
    fn normalised(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + BLANK.len_utf8());
        let mut in_word = false;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let mut itself = [0; 4];
            let found = self.charsmap.as_ref().and_then(|map| map.replaced(rest.as_bytes()));
            // A table may name a sequence that ends within a character; that one is left alone.
            let (len, becomes) = found
                .filter(|&(len, _)| rest.is_char_boundary(len))
                .unwrap_or_else(|| (first.len_utf8(), first.encode_utf8(&mut itself)));
            for c in becomes.chars() {
                let starts = c != ' ' && !in_word;
                if starts && (self.joins_blanks || (self.adds_blank && out.is_empty())) {
                    out.push(BLANK);
                }
                in_word = c != ' ';
                if in_word {
                    out.push(c);
                } else if !self.joins_blanks {
                    out.push(BLANK);
                }
            }
            rest = &rest[len..];
        }
        out
    }
}

/// The table of the file, if it has one.
fn charsmap(gguf: &Gguf) -> Result<Option<Charsmap>, TokenizerError> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let bytes = match gguf.get(key) {
        None => return Ok(None),
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => {
            bytes.iter().map(|byte| byte.cast_unsigned()).collect()
        }
        Some(_) => {
            let wanted = "an array of bytes";
            return Err(TokenizerError::Metadata(GgufError::Type { key: key.to_owned(), wanted }));
        }
    };
    Charsmap::new(&bytes).map(Some).ok_or(TokenizerError::Charsmap)
}
