//! Text to token ids and back, from the vocabulary in a model file.
//!
//! The file names the kind of tokenizer and how text is cut before merging; kinds and cuts that are
//! not known are refused, for a guess would change what the model reads. Special tokens are found
//! first, and the text between them goes to the algorithm of the kind: [`bpe`], [`spm`], [`unigram`]
//! or [`wordpiece`].

mod alphabet;
mod vocabulary;

mod cut;
mod merge;
mod prefixes;

mod bpe;
mod charsmap;
mod spm;
mod unigram;
mod wordpiece;

mod detokenizer;

use std::collections::HashSet;

use realm_core::engine::TextError;
use thiserror::Error;

pub(crate) use self::detokenizer::Detokenizer;
use self::{
    alphabet::Alphabet,
    bpe::Bpe,
    cut::Cut,
    spm::Spm,
    unigram::Unigram,
    vocabulary::{Kind, PIECE_BYTES_MAX, SPECIAL_BYTES_MAX, Spelling, Vocabulary},
    wordpiece::WordPiece,
};
use crate::gguf::{Gguf, GgufError, required};

/// Bytes of text one call may tokenize: a context of 128 Ki tokens at four bytes a token.
///
/// Merging takes up to a quarter of a kilobyte of memory for each, so at most 128 MiB while it runs.
pub const TEXT_BYTES_MAX: usize = 512 << 10;

/// Values of `tokenizer.ggml.model` that are read.
const MODELS: &[&str] = &["gpt2", "llama", "t5", "bert"];

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

/// Phi 3 was trained on texts in which blanks behind a control token are left out, but for these.
/// Its files do not say so.
const KEEPING_BLANKS: &[&str] = &["<s>", "<unk>", "<|endoftext|>"];

/// Why a file's tokenizer cannot be built.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error("reading the tokenizer's metadata")]
    Metadata(#[source] GgufError),
    #[error("the tokenizer is of the kind `{found}`; known are {MODELS:?}")]
    Model { found: String },
    #[error("the text is cut in the way `{found}`; known are {known:?}")]
    PreTokenizer { found: String, known: Vec<&'static str> },
    #[error("the vocabulary has {tokens} tokens and {kinds} token types")]
    Kinds { tokens: usize, kinds: usize },
    #[error("token {id} has the unknown type {kind}")]
    Kind { id: usize, kind: i32 },
    #[error("the token `{0}` comes twice")]
    Duplicate(String),
    #[error("token {id} does not stand for bytes")]
    NotBytes { id: usize },
    #[error("the special token {id} has {bytes} bytes; at most {SPECIAL_BYTES_MAX} are read")]
    SpecialTooLong { id: usize, bytes: usize },
    #[error("the piece {id} has {bytes} bytes; at most {PIECE_BYTES_MAX} are read")]
    PieceTooLong { id: usize, bytes: usize },
    #[error("`{0}` is not a merge of two tokens to a third")]
    Merge(String),
    #[error("the vocabulary has {tokens} tokens and {scores} scores")]
    Scores { tokens: usize, scores: usize },
    #[error("the score of token {id} is no number")]
    Score { id: usize },
    #[error("the table of spellings is none")]
    Charsmap,
    #[error("`{key}` is {id}, outside of the vocabulary of {vocabulary}")]
    Id { key: &'static str, id: u32, vocabulary: usize },
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
    algorithm: Algorithm,
    vocabulary: Vocabulary,
    bos: Option<u32>,
    eos: Option<u32>,
    /// What a whole text begins and ends with.
    frame: [Option<u32>; 2],
    /// Special tokens behind which blanks are no text.
    swallowing: HashSet<u32>,
}

/// How text between special tokens becomes ids.
enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    Unigram(Box<Unigram>),
    WordPiece(Box<WordPiece>),
}

impl Tokenizer {
    /// Builds the tokenizer that `gguf` describes.
    pub fn of(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let metadata = TokenizerError::Metadata;
        let key = "tokenizer.ggml.model";
        let model = required(key, gguf.text(key).map_err(metadata)?).map_err(metadata)?;
        let (spelling, adds) = match model {
            "gpt2" => (Spelling::Bytes(Alphabet::new()), [false, false]),
            "llama" => (Spelling::Pieces, [true, false]),
            "t5" => (Spelling::Pieces, [false, true]),
            "bert" => (Spelling::Pieces, [true, true]),
            found => return Err(TokenizerError::Model { found: found.to_owned() }),
        };
        let (vocabulary, ids) = vocabulary::read(gguf, &spelling, ENDINGS)?;
        let tokens = (&vocabulary, &ids);
        let header = Header { gguf, vocabulary: vocabulary.len() };
        let (algorithm, adds) = match (model, &spelling) {
            (_, Spelling::Bytes(alphabet)) => {
                let cut = cut(gguf)?;
                let adds = [cut.adds_bos, false];
                (Algorithm::Bpe(Box::new(Bpe::new(gguf, cut, alphabet, tokens)?)), adds)
            }
            ("t5", _) => {
                let pieces = Unigram::new(gguf, tokens, header.unknown()?)?;
                (Algorithm::Unigram(Box::new(pieces)), adds)
            }
            ("bert", _) => {
                let words = WordPiece::new(gguf, &ids, header.unknown()?)?;
                (Algorithm::WordPiece(Box::new(words)), adds)
            }
            (_, Spelling::Pieces) => {
                let unknown = header.id("tokenizer.ggml.unknown_token_id")?;
                (Algorithm::Spm(Box::new(Spm::new(gguf, tokens, unknown)?)), adds)
            }
        };
        let [bos, eos] = header.ends(matches!(algorithm, Algorithm::WordPiece(_)))?;
        let endings = [eos, header.id("tokenizer.ggml.eot_token_id")?];
        let adds_bos = header.flag("tokenizer.ggml.add_bos_token", adds[0])?;
        let adds_eos = header.flag("tokenizer.ggml.add_eos_token", adds[1])?;
        let frame = [bos.filter(|_| adds_bos), eos.filter(|_| adds_eos)];
        let vocabulary = vocabulary.with_endings(endings.into_iter().flatten(), ENDINGS);
        let architecture = gguf.text("general.architecture").map_err(metadata)?;
        let swallowing = match (architecture, &algorithm) {
            (Some("phi3"), Algorithm::Spm(_)) => vocabulary.controls(KEEPING_BLANKS),
            _ => HashSet::new(),
        };
        Ok(Self { algorithm, vocabulary, bos, eos, frame, swallowing })
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
        self.encode_framed(text, special, special == Special::Token)
    }

    /// The ids of a whole text of a stranger: read as text, begun and ended as the file asks.
    pub(crate) fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_framed(text, Special::Text, true)
    }

    fn encode_framed(
        &self,
        text: &str,
        special: Special,
        is_framed: bool,
    ) -> Result<Vec<u32>, TextError> {
        let [begin, end] = self.frame.map(|id| id.filter(|_| is_framed));
        let mut ids = Vec::from_iter(begin);
        self.encode_into(text, special, None, &mut ids)?;
        ids.extend(end);
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
            rest = if self.swallowing.contains(&id) { after.trim_start() } else { after };
        }
    }

    fn encode_plain(
        &self,
        text: &str,
        mark: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let unmarked = mark.filter(|&mark| text.contains(mark)).map(|mark| text.replace(mark, ""));
        let text = unmarked.as_deref().unwrap_or(text);
        if text.is_empty() {
            return Ok(());
        }
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(text, ids),
            Algorithm::Spm(spm) => spm.encode(text, ids),
            Algorithm::Unigram(unigram) => unigram.encode(text, ids),
            Algorithm::WordPiece(words) => {
                words.encode(text, ids);
                Ok(())
            }
        }
    }

    /// The text of `ids` in bytes; control tokens are spelled out, and a blank that the tokenizer
    /// puts before every text is left out.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        let vocabulary = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        for &id in ids {
            let unknown = TextError::UnknownToken { id, vocabulary };
            bytes.extend(self.vocabulary.bytes(id).ok_or(unknown)?);
        }
        let adds_blank = match &self.algorithm {
            Algorithm::Spm(spm) => spm.adds_blank,
            Algorithm::Unigram(unigram) => unigram.adds_blank,
            Algorithm::WordPiece(_) => return Ok(wordpiece::tidied(&bytes)),
            Algorithm::Bpe(_) => false,
        };
        if adds_blank && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        Ok(bytes)
    }

    /// The bytes of one token, whatever stands beside it; none outside of the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id).unwrap_or_default()
    }

    /// The bytes that a generated token adds to an answer: a control token adds none.
    pub(crate) fn answer_bytes(&self, id: u32) -> &[u8] {
        match self.vocabulary.kind(id) {
            Some(Kind::Text | Kind::Byte | Kind::UserDefined) => self.piece(id),
            Some(Kind::Control) | None => &[],
        }
    }
}

/// The way of cutting that the file names.
fn cut(gguf: &Gguf) -> Result<Cut, TokenizerError> {
    let key = "tokenizer.ggml.pre";
    let name = gguf.text(key).and_then(|name| required(key, name));
    let name = name.map_err(TokenizerError::Metadata)?;
    Cut::named(name)
        .ok_or_else(|| TokenizerError::PreTokenizer { found: name.to_owned(), known: cut::known() })
}

/// The single values among a file's description of its tokenizer.
struct Header<'a> {
    gguf: &'a Gguf,
    vocabulary: usize,
}

impl Header<'_> {
    /// A token's id, if the file names it.
    fn id(&self, key: &'static str) -> Result<Option<u32>, TokenizerError> {
        let id = self.gguf.unsigned(key).map_err(TokenizerError::Metadata)?;
        let vocabulary = self.vocabulary;
        match id.filter(|&id| id as usize >= vocabulary) {
            Some(id) => Err(TokenizerError::Id { key, id, vocabulary }),
            None => Ok(id),
        }
    }

    /// The token for what no piece spells.
    fn unknown(&self) -> Result<u32, TokenizerError> {
        let key = "tokenizer.ggml.unknown_token_id";
        required(key, self.id(key)?).map_err(TokenizerError::Metadata)
    }

    /// The tokens that begin and end a text, which models of sentences name by another word.
    fn ends(&self, of_sentences: bool) -> Result<[Option<u32>; 2], TokenizerError> {
        let (bos, eos) = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id");
        if !of_sentences {
            return Ok([self.id(bos)?, self.id(eos)?]);
        }
        // The key is misspelled in every file there is.
        let sep = self.id("tokenizer.ggml.seperator_token_id")?;
        Ok([self.id("tokenizer.ggml.cls_token_id")?.or(self.id(bos)?), sep.or(self.id(eos)?)])
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, TokenizerError> {
        Ok(self.gguf.boolean(key).map_err(TokenizerError::Metadata)?.unwrap_or(default))
    }
}

#[cfg(test)]
mod tests;
