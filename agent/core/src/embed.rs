//! Texts to vectors: what a call asks of an engine, and why it may not have it.

use std::{sync::Arc, time::Instant};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    books::Way,
    engine::{Milestones, TextError},
    name::ModelName,
    refusal::Refusal,
};

/// Texts in one call: as many as clients of the usual HTTP interface send at once, whose own service
/// takes no more. At a vector of 768 floats each they are answered by 6 MiB.
pub const TEXTS_MAX: usize = 2048;

/// Tokens in one call, of all its texts: a quarter of a minute of a small model on two cores, which
/// computes two thousand a second.
pub const TOKENS_MAX: usize = 32_768;

/// Numbers in one call's vectors: as base64, in which three bytes are four characters, they take
/// 8,000,000 of the 8 MiB of a server's message, and the rest holds what is around that many texts.
pub const NUMBERS_MAX: usize = 1_500_000;

/// Texts to turn into vectors, all of one call.
#[derive(Clone, Debug)]
pub struct TextBatch {
    pub texts: Vec<Text>,
    /// How long each vector is to be: its first numbers, scaled anew. `None` takes all there are.
    pub dimensions: Option<usize>,
    /// Whether each vector is scaled to the length 1. Otherwise it is as long as the model makes it.
    pub normalize: bool,
    pub deadline: Option<Instant>,
    /// What they are booked under, besides their caller.
    pub way: Way,
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

/// One vector for each text, in the order of the texts, and how many tokens that took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// Of each text, with what begins and ends it.
    pub tokens: Vec<u32>,
}

/// Where the vectors come. Dropping it cancels the call.
pub type EmbeddedReply = oneshot::Receiver<Result<Embedded, Refusal>>;

/// Texts that an engine has taken: they have been read, and wait for their turn or are computed.
#[derive(Debug)]
pub struct TakenTexts {
    /// Of all texts, with what begins and ends each.
    pub tokens: u32,
    pub reply: EmbeddedReply,
}

/// What a model makes of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedInfo {
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Tokens that one text may have.
    pub tokens_max: usize,
    /// Whether the first numbers of a vector are one themselves: models are trained for that, or
    /// are not.
    pub shortens: bool,
}

/// What a model can be asked for. Every one takes texts apart into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it goes on from a prompt.
    pub generates: bool,
    /// Whether it answers a conversation.
    pub chats: bool,
    pub embeds: Option<EmbedInfo>,
}

impl Abilities {
    /// The functions that a call may name this model for.
    pub fn functions(&self) -> Vec<&'static str> {
        let all =
            [("generate", self.generates), ("chat", self.chats), ("embed", self.embeds.is_some())];
        all.into_iter().filter_map(|(name, can)| can.then_some(name)).collect()
    }

    /// The same for a tenant whose texts may have so many tokens.
    #[must_use]
    pub fn within(self, context_max: u32) -> Self {
        let context_max = usize::try_from(context_max).unwrap_or(usize::MAX);
        let embeds = self
            .embeds
            .map(|info| EmbedInfo { tokens_max: info.tokens_max.min(context_max), ..info });
        Self { embeds, ..self }
    }

    /// Why a model does not do what it is asked for, and what it does.
    pub fn lacks(&self, model: &str, function: &'static str) -> Refusal {
        let can = self.functions().join("` and `");
        let can =
            if can.is_empty() { "only take texts apart".to_owned() } else { format!("`{can}`") };
        Refusal::Unsupported(format!("model `{model}` cannot `{function}`; it can {can}"))
    }
}

/// Why texts are not embedded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EmbedError {
    /// The model's file does not say how to make one vector of a text.
    #[error("model `{model}` embeds no texts")]
    NoPooling { model: ModelName, abilities: Abilities },
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
    #[error(
        "{texts} vectors of {dimensions} numbers; {numbers_max} numbers are the most of a call"
    )]
    TooManyNumbers { texts: usize, dimensions: usize, numbers_max: usize },
    #[error("vectors of {asked} numbers; the model makes {dimensions}")]
    Dimensions { asked: usize, dimensions: usize },
    #[error(
        "vectors of {asked} numbers; the model makes {dimensions} and was not trained for fewer"
    )]
    NotShortened { asked: usize, dimensions: usize },
    #[error("the engine takes no more")]
    Refused(#[source] Refusal),
}

impl EmbedError {
    /// What the caller is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::NoPooling { model, abilities } => abilities.lacks(model.as_str(), "embed"),
            Self::TooLong { at, tokens, tokens_max } => {
                Refusal::TextTooLong { at, tokens, tokens_max }
            }
            Self::Text { at, source } => Refusal::Invalid(format!("text {at}: {source}")),
            error @ (Self::NoTexts
            | Self::TooManyTexts { .. }
            | Self::Empty { .. }
            | Self::TooManyTokens { .. }
            | Self::TooManyNumbers { .. }
            | Self::Dimensions { .. }
            | Self::NotShortened { .. }) => Refusal::Invalid(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMBEDS: EmbedInfo = EmbedInfo { dimensions: 4, tokens_max: 8, shortens: false };

    #[test]
    fn a_model_that_is_asked_for_what_it_cannot_do_says_what_it_can() {
        let reads = Abilities { generates: false, chats: false, embeds: Some(EMBEDS) };
        let told = reads.lacks("m", "chat").to_string();
        assert_eq!(told, "model `m` cannot `chat`; it can `embed`");
        let writes = Abilities { generates: true, chats: true, embeds: None };
        let told = writes.lacks("m", "embed").to_string();
        assert_eq!(told, "model `m` cannot `embed`; it can `generate` and `chat`");
        let neither = Abilities { generates: false, chats: false, embeds: None };
        assert!(neither.lacks("m", "chat").to_string().ends_with("it can only take texts apart"));
    }

    #[test]
    fn a_text_that_is_too_long_is_named_by_its_place() {
        let error = EmbedError::TooLong { at: 3, tokens: 9, tokens_max: 8 };
        let refusal = error.refusal();
        assert_eq!(refusal, Refusal::TextTooLong { at: 3, tokens: 9, tokens_max: 8 });
        assert_eq!(refusal.code(), "too_long");
        assert!(refusal.to_string().starts_with("text 3 has 9 tokens"), "{refusal}");
    }
}
