//! Byte-level pair encoding: text is cut into words, and the bytes of each merge by a list.

use std::collections::HashMap;

use realm_core::engine::TextError;

use super::{
    TokenizerError,
    alphabet::Alphabet,
    cut::Cut,
    merge::{Merge, Merger},
    vocabulary::{Ids, Kind, Vocabulary},
};
use crate::gguf::{Gguf, required};

pub(super) struct Bpe {
    cut: Cut,
    /// The tokens of single bytes: a vocabulary may lack some that its training text never held.
    bytes: [Option<u32>; 256],
    merges: HashMap<(u32, u32), Merge>,
    /// Words that are tokens whatever merges would make of them, where the cut says so.
    words: HashMap<Box<[u8]>, u32>,
}

impl Bpe {
    pub(super) fn new(
        gguf: &Gguf,
        cut: Cut,
        alphabet: &Alphabet,
        (vocabulary, ids): (&Vocabulary, &Ids<'_>),
    ) -> Result<Self, TokenizerError> {
        let words = ids.iter().filter(|_| cut.whole_words);
        let words = words.filter_map(|(word, id)| Some((alphabet.bytes(word)?.into(), *id)));
        Ok(Self {
            words: words.collect(),
            bytes: vocabulary.byte_ids(Kind::Text),
            merges: merges(gguf, (vocabulary, ids))?,
            cut,
        })
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let token_of = |byte: u8| self.bytes[usize::from(byte)];
        if let Some(byte) = text.bytes().find(|&byte| token_of(byte).is_none()) {
            let reason = format!("the vocabulary has no token for the byte {byte:#04x}");
            return Err(TextError::Tokenizer(reason));
        }
        let mut merger = Merger::default();
        for word in self.cut.words(text) {
            if let Some(id) = self.words.get(word.as_bytes()) {
                ids.push(*id);
                continue;
            }
            merger.clear();
            for (at, byte) in word.bytes().enumerate() {
                merger.push(at..at + 1, token_of(byte));
            }
            merger.merge(|left, right| self.merges.get(&(left.id?, right.id?)).copied());
            ids.extend(merger.symbols().filter_map(|symbol| symbol.id));
        }
        Ok(())
    }
}

/// What pairs of tokens merge to; the first in the file merges first. Text never merges to a control
/// token, whatever the file says.
fn merges(
    gguf: &Gguf,
    (vocabulary, ids): (&Vocabulary, &Ids<'_>),
) -> Result<HashMap<(u32, u32), Merge>, TokenizerError> {
    let key = "tokenizer.ggml.merges";
    let list = gguf
        .texts(key)
        .and_then(|merges| required(key, merges))
        .map_err(TokenizerError::Metadata)?;
    let mut merges = HashMap::with_capacity(list.len());
    for (rank, merge) in (0..).zip(list) {
        let pair = merge.split_once(' ').and_then(|(left, right)| {
            let pair = (*ids.get(left)?, *ids.get(right)?);
            Some((pair, [left, right].concat()))
        });
        let (pair, merged) = pair.ok_or_else(|| TokenizerError::Merge(merge.clone()))?;
        match ids.get(merged.as_str()) {
            Some(&id) => {
                merges.entry(pair).or_insert(Merge { rank, id });
            }
            None if vocabulary.is_special(&merged) => {}
            None => return Err(TokenizerError::Merge(merge.clone())),
        }
    }
    Ok(merges)
}
