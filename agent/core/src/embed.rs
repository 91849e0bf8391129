//! Texts to vectors: what a call asks of an engine, and why it may not have it.

use std::{sync::Arc, time::Instant};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    engine::{Milestones, TextError},
    refusal::Refusal,
};

/// Texts in one call: as many as clients of the usual HTTP interface send at once, whose own service
/// takes no more. At a vector of 768 floats each they are answered by 6 MiB.
pub const TEXTS_MAX: usize = 2048;

/// Tokens in one call, of all its texts: a quarter of a minute of a small model on two cores, which
/// computes two thousand a second.
pub const TOKENS_MAX: usize = 32_768;

/// Texts to turn into vectors, all of one call.
#[derive(Clone, Debug)]
pub struct TextBatch {
    pub texts: Vec<Text>,
    /// How long each vector is to be: its first numbers, scaled anew. `None` takes all there are.
    pub dimensions: Option<usize>,
    pub deadline: Option<Instant>,
    /// Where the engine notes how far it is, for whoever wants to know.
    pub milestones: Option<Arc<Milestones>>,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Read as text, whatever it spells, and begun and ended as the model wants it.
    Words(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
}

/// One vector of length 1 for each text, and how many tokens that took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// Of each text, with what begins and ends it.
    pub tokens: Vec<u32>,
}

/// Where the vectors come. Dropping it cancels the call.
pub type EmbeddedReply = oneshot::Receiver<Result<Embedded, Refusal>>;

/// What a model makes of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedInfo {
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Tokens that one text may have.
    pub tokens_max: usize,
}

/// Why texts are not embedded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EmbedError {
    #[error("model `{model}` embeds no texts: its file does not say how to make one vector of one")]
    NoPooling { model: String },
    #[error("a call without a text")]
    NoTexts,
    #[error("{texts} texts; {texts_max} are the most")]
    TooManyTexts { texts: usize, texts_max: usize },
    #[error("text {at} has no tokens")]
    Empty { at: usize },
    #[error("text {at} cannot be read")]
    Text { at: usize, source: TextError },
    #[error("text {at} has {tokens} tokens and {tokens_max} are the most; none is cut")]
    TooLong { at: usize, tokens: usize, tokens_max: usize },
    #[error("the texts have {tokens} tokens or more; {tokens_max} are the most")]
    TooManyTokens { tokens: usize, tokens_max: usize },
    #[error("vectors of {asked} numbers; the model makes {dimensions}")]
    Dimensions { asked: usize, dimensions: usize },
    #[error("the engine takes no more")]
    Refused(#[source] Refusal),
}

impl EmbedError {
    /// What the caller is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::TooLong { at: _, tokens, tokens_max } => Refusal::TooLong { tokens, tokens_max },
            Self::Text { at, source } => Refusal::Invalid(format!("text {at}: {source}")),
            error @ (Self::NoPooling { .. }
            | Self::NoTexts
            | Self::TooManyTexts { .. }
            | Self::Empty { .. }
            | Self::TooManyTokens { .. }
            | Self::Dimensions { .. }) => Refusal::Invalid(error.to_string()),
        }
    }
}
