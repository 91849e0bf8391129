//! Text to token ids and back, from the vocabulary in a model file.
//!
//! The file names the kind of tokenizer and how text is cut before merging; kinds and cuts that are
//! not known are refused, for a guess would change what the model reads.

mod alphabet;
mod detokenizer;
mod vocabulary;

use realm_core::engine::TextError;
use thiserror::Error;
use tokenizers::{
    Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    models::bpe::{BPE, BpeBuilder, Vocab},
    pre_tokenizers::{
        PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence,
    },
};

use self::alphabet::Alphabet;
pub(crate) use self::detokenizer::Detokenizer;
use self::vocabulary::{Kind, SPECIAL_BYTES_MAX, Vocabulary};
use crate::gguf::{Gguf, GgufError, required};

/// Bytes of text one call may tokenize: a context of 128 Ki tokens at four bytes a token.
///
/// It also keeps the regular expression that cuts text below its limit of a million backtracks,
/// which are at most one for each byte.
pub const TEXT_BYTES_MAX: usize = 512 << 10;

/// Values of `tokenizer.ggml.model` that are read.
const MODELS: &[&str] = &["gpt2"];
/// Values of `tokenizer.ggml.pre` that are read.
const PRE_TOKENIZERS: &[&str] = &["smollm"];

/// Spellings of control tokens that end an answer, besides those the file names by id.
const ENDINGS: &[&str] = &[
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    // A model of code that starts the next repository has ended this one.
    "<reponame>",
];

/// Why a file's tokenizer cannot be built.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error("reading the tokenizer's metadata")]
    Metadata(#[source] GgufError),
    #[error("the tokenizer is of the kind `{found}`; known are {MODELS:?}")]
    Model { found: String },
    #[error("the text is cut in the way `{found}`; known are {PRE_TOKENIZERS:?}")]
    PreTokenizer { found: String },
    #[error("the vocabulary has {tokens} tokens and {kinds} token types")]
    Kinds { tokens: usize, kinds: usize },
    #[error("token {id} has the unknown type {kind}")]
    Kind { id: usize, kind: i32 },
    #[error("the token `{0}` comes twice")]
    Duplicate(String),
    #[error("token {id} has a character that stands for no byte")]
    NotBytes { id: usize },
    #[error("the special token {id} has {bytes} bytes; at most {SPECIAL_BYTES_MAX} are read")]
    SpecialTooLong { id: usize, bytes: usize },
    #[error("`{0}` is not a merge of two tokens")]
    Merge(String),
    #[error("`{key}` is {id}, outside of the vocabulary of {vocabulary}")]
    Id { key: &'static str, id: u32, vocabulary: usize },
    #[error("building the merges: {0}")]
    Build(String),
}

/// How text that spells a special token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// As text: what strangers send.
    Text,
    /// As the token it spells.
    Token,
}

/// A model's tokenizer.
pub struct Tokenizer {
    bpe: BPE,
    cut: Sequence,
    vocabulary: Vocabulary,
    /// Which bytes have a token: a vocabulary may lack some that its training text never held.
    has_byte: [bool; 256],
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that `gguf` describes.
    pub fn of(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let metadata = TokenizerError::Metadata;
        let text = |key: &str| required(key, gguf.text(key).map_err(metadata)?).map_err(metadata);
        let model = text("tokenizer.ggml.model")?;
        if !MODELS.contains(&model) {
            return Err(TokenizerError::Model { found: model.to_owned() });
        }
        let pre = text("tokenizer.ggml.pre")?;
        if !PRE_TOKENIZERS.contains(&pre) {
            return Err(TokenizerError::PreTokenizer { found: pre.to_owned() });
        }
        let alphabet = Alphabet::new();
        let (vocabulary, ids) = vocabulary::read(gguf, &alphabet)?;
        let has_byte = std::array::from_fn(|byte| ids.contains_key(alphabet.spelling(byte)));
        let bpe = build(gguf, ids)?;
        let id = |key: &'static str| {
            let id = gguf.unsigned(key).map_err(metadata)?;
            if let Some(id) = id.filter(|&id| id as usize >= vocabulary.len()) {
                return Err(TokenizerError::Id { key, id, vocabulary: vocabulary.len() });
            }
            Ok(id)
        };
        let flag = |key: &str| Ok(gguf.boolean(key).map_err(metadata)?.unwrap_or(false));
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let endings = [eos, id("tokenizer.ggml.eot_token_id")?];
        Ok(Self {
            bos: id("tokenizer.ggml.bos_token_id")?,
            adds_bos: flag("tokenizer.ggml.add_bos_token")?,
            adds_eos: flag("tokenizer.ggml.add_eos_token")?,
            vocabulary: vocabulary.with_endings(endings.into_iter().flatten(), ENDINGS),
            eos,
            bpe,
            cut: cut_smollm(),
            has_byte,
        })
    }

    /// Tokens in the vocabulary.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of the token that begins a text, and of the one that ends it.
    pub(crate) fn bos_and_eos(&self) -> [Option<String>; 2] {
        [self.bos, self.eos].map(|id| {
            let bytes = self.vocabulary.bytes(id?)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        })
    }

    /// Whether `id` ends an answer.
    pub fn is_ending(&self, id: u32) -> bool {
        self.vocabulary.is_ending(id)
    }

    /// The ids of `text`. With [`Special::Token`], begun and ended as the file asks.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TextError> {
        let whole = special == Special::Token;
        let mut ids = Vec::new();
        ids.extend(self.bos.filter(|_| whole && self.adds_bos));
        self.encode_into(text, special, None, &mut ids)?;
        ids.extend(self.eos.filter(|_| whole && self.adds_eos));
        Ok(ids)
    }

    /// The ids of `text` in which each `mark` was put only to keep a spelling from being read as a
    /// special token. Begun and ended by nothing: a template has done that.
    pub(crate) fn encode_marked(&self, text: &str, mark: char) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        self.encode_into(text, Special::Token, Some(mark), &mut ids)?;
        Ok(ids)
    }

    /// Puts `mark` into every spelling of a control token in `text`.
    pub(crate) fn mark(&self, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (head, tail) = rest.split_at(first.len_utf8());
            marked.push_str(head);
            if self.vocabulary.special_at(rest, Special::Token).is_some() {
                marked.push(mark);
            }
            rest = tail;
        }
        marked
    }

    fn encode_into(
        &self,
        text: &str,
        special: Special,
        mark: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        if text.len() > TEXT_BYTES_MAX {
            let (bytes, bytes_max) = (text.len(), TEXT_BYTES_MAX);
            return Err(TextError::TooLong { bytes, bytes_max });
        }
        let mut rest = text;
        loop {
            let Some((before, id, after)) = self.vocabulary.split_special(rest, special) else {
                return self.encode_plain(rest, mark, ids);
            };
            self.encode_plain(before, mark, ids)?;
            ids.push(id);
            rest = after;
        }
    }

    fn encode_plain(
        &self,
        text: &str,
        mark: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let failed = |error: tokenizers::Error| TextError::Tokenizer(error.to_string());
        let unmarked = mark.filter(|&mark| text.contains(mark)).map(|mark| text.replace(mark, ""));
        let text = unmarked.as_deref().unwrap_or(text);
        if let Some(byte) = text.bytes().find(|&byte| !self.has_byte[usize::from(byte)]) {
            let reason = format!("the vocabulary has no token for the byte {byte:#04x}");
            return Err(TextError::Tokenizer(reason));
        }
        let mut pieces = PreTokenizedString::from(text);
        self.cut.pre_tokenize(&mut pieces).map_err(failed)?;
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            ids.extend(self.bpe.tokenize(piece).map_err(failed)?.into_iter().map(|token| token.id));
        }
        Ok(())
    }

    /// The bytes of `ids`; control tokens are spelled out.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        let vocabulary = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        for &id in ids {
            let unknown = TextError::UnknownToken { id, vocabulary };
            bytes.extend(self.vocabulary.bytes(id).ok_or(unknown)?);
        }
        Ok(bytes)
    }

    /// The bytes that a generated token adds to an answer: a control token adds none.
    pub(crate) fn answer_bytes(&self, id: u32) -> &[u8] {
        match self.vocabulary.kind(id) {
            Some(Kind::Text | Kind::UserDefined) => self.vocabulary.bytes(id).unwrap_or_default(),
            Some(Kind::Control) | None => &[],
        }
    }
}

/// Single digits, then the words, numbers, signs and blanks of GPT-2, in its alphabet of bytes.
fn cut_smollm() -> Sequence {
    Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, true)),
    ])
}

fn build(gguf: &Gguf, ids: Vocab) -> Result<BPE, TokenizerError> {
    let key = "tokenizer.ggml.merges";
    let merges = gguf
        .texts(key)
        .and_then(|merges| required(key, merges))
        .map_err(TokenizerError::Metadata)?
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(TokenizerError::Merge(merge.clone())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    BpeBuilder::new()
        .vocab_and_merges(ids, merges)
        // A cache of words would be shared by all tenants and tell by its speed what others wrote.
        .cache_capacity(0)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))
}

#[cfg(test)]
mod tests;
