//! SentencePiece's pair encoding: neighbours merge where they are a piece, the likeliest first, and
//! what is no piece goes out byte by byte. Text is not cut into words before.

use std::collections::HashMap;

use realm_core::engine::TextError;

use super::{
    TokenizerError,
    merge::{Merge, Merger},
    vocabulary::{BLANK, Ids, Kind, Vocabulary},
};
use crate::gguf::{Gguf, GgufError, required};

pub(super) struct Spm {
    pieces: HashMap<Box<str>, Merge>,
    /// Bytes of the longest piece.
    longest: usize,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// Whether a text, and what follows a special token, begins with a blank of its own.
    pub(super) adds_blank: bool,
}

impl Spm {
    pub(super) fn new(
        gguf: &Gguf,
        (vocabulary, ids): (&Vocabulary, &Ids<'_>),
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let key = "tokenizer.ggml.add_space_prefix";
        let ranks = ranks(scores(gguf, vocabulary.len())?);
        let pieces = ids.iter().filter_map(|(piece, &id)| {
            let rank = *ranks.get(id as usize)?;
            Some(((*piece).into(), Merge { rank, id }))
        });
        Ok(Self {
            pieces: pieces.collect(),
            longest: ids.keys().map(|piece| piece.len()).max().unwrap_or(0),
            bytes: vocabulary.byte_ids(Kind::Byte),
            unknown,
            adds_blank: gguf.boolean(key).map_err(TokenizerError::Metadata)?.unwrap_or(true),
        })
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let blank = Some(BLANK).filter(|_| self.adds_blank);
        let characters = text.chars().map(|c| if c == ' ' { BLANK } else { c });
        let text: String = blank.into_iter().chain(characters).collect();
        let piece = |piece: &str| self.pieces.get(piece).copied();
        let mut merger = Merger::default();
        for (at, c) in text.char_indices() {
            let range = at..at + c.len_utf8();
            let id = piece(&text[range.clone()]).map(|piece| piece.id);
            merger.push(range, id);
        }
        merger.merge(|left, right| {
            let range = left.range.start..right.range.end;
            if range.len() <= self.longest { piece(&text[range]) } else { None }
        });
        for symbol in merger.symbols() {
            match symbol.id {
                Some(id) => ids.push(id),
                None => self.encode_bytes(&text[symbol.range.clone()], ids)?,
            }
        }
        Ok(())
    }

    /// The tokens of each byte of a character that is no piece.
    fn encode_bytes(&self, character: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        for byte in character.bytes() {
            let id = self.bytes[usize::from(byte)].or(self.unknown);
            ids.push(id.ok_or_else(|| {
                TextError::Tokenizer(format!("the vocabulary has no token for {character:?}"))
            })?);
        }
        Ok(())
    }
}

/// How likely each token is; one number for each.
pub(super) fn scores(gguf: &Gguf, tokens: usize) -> Result<&[f32], TokenizerError> {
    let key = "tokenizer.ggml.scores";
    let metadata = TokenizerError::Metadata;
    let value = required(key, gguf.get(key)).map_err(metadata)?;
    let wanted = "an array of 32-bit floats";
    let scores =
        value.as_f32s().ok_or_else(|| metadata(GgufError::Type { key: key.to_owned(), wanted }))?;
    if scores.len() != tokens {
        return Err(TokenizerError::Scores { tokens, scores: scores.len() });
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(TokenizerError::Score { id }),
        None => Ok(scores),
    }
}

/// The place of each score from the highest down; equal scores have equal places.
fn ranks(scores: &[f32]) -> Vec<u32> {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted.dedup();
    let place = |score: &f32| sorted.partition_point(|other| other > score);
    scores.iter().map(|score| u32::try_from(place(score)).unwrap_or(u32::MAX)).collect()
}
