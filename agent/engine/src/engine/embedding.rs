//! A call with texts, from what a stranger sends to the vectors that go back.

use std::{sync::Arc, time::Instant};

use realm_core::{
    books::Way,
    embed::{
        EmbedError, EmbedInfo, Embedded, EmbeddedReply, NUMBERS_MAX, TEXTS_MAX, TOKENS_MAX, Text,
        TextBatch,
    },
    engine::{Milestones, TextError, Usage},
    name::TenantName,
    refusal::Refusal,
};
use tokio::sync::oneshot;

use super::figures::Figures;
use crate::tokenizer::Tokenizer;

/// Reads texts for a model that embeds them.
pub(super) struct Reader<'a> {
    pub(super) info: EmbedInfo,
    pub(super) tokenizer: &'a Tokenizer,
}

/// A call's texts, each of which can be computed.
pub(super) struct Read {
    pub(super) texts: Vec<Vec<u32>>,
    /// Of all texts.
    pub(super) tokens: usize,
    wanted: Wanted,
}

/// What is wanted of each vector.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Its first numbers.
    dimensions: usize,
    normalize: bool,
}

impl Reader<'_> {
    pub(super) fn read(&self, batch: &TextBatch) -> Result<Read, EmbedError> {
        let texts = batch.texts.len();
        if texts == 0 {
            return Err(EmbedError::NoTexts);
        }
        if texts > TEXTS_MAX {
            return Err(EmbedError::TooManyTexts { texts, texts_max: TEXTS_MAX });
        }
        let dimensions = self.dimensions(batch.dimensions)?;
        check_numbers(texts, dimensions)?;
        // What comes after the last token that fits is not even read.
        let (mut read, mut all) = (Vec::with_capacity(texts), 0);
        for (at, text) in batch.texts.iter().enumerate() {
            let ids = self.ids(at, text)?;
            all += ids.len();
            if all > TOKENS_MAX {
                return Err(EmbedError::TooManyTokens { tokens: all, tokens_max: TOKENS_MAX });
            }
            read.push(ids);
        }
        let wanted = Wanted { dimensions, normalize: batch.normalize };
        Ok(Read { texts: read, tokens: all, wanted })
    }

    fn dimensions(&self, asked: Option<usize>) -> Result<usize, EmbedError> {
        let dimensions = self.info.dimensions;
        match asked {
            None => Ok(dimensions),
            Some(asked) if asked == dimensions => Ok(asked),
            Some(asked) if asked == 0 || asked > dimensions => {
                Err(EmbedError::Dimensions { asked, dimensions })
            }
            Some(asked) if self.info.shortens => Ok(asked),
            Some(asked) => Err(EmbedError::NotShortened { asked, dimensions }),
        }
    }

    fn ids(&self, at: usize, text: &Text) -> Result<Vec<u32>, EmbedError> {
        let unreadable = |source| EmbedError::Text { at, source };
        let ids = match text {
            Text::Words(words) => self.tokenizer.encode_whole(words).map_err(unreadable)?,
            Text::Tokens(ids) => {
                let vocabulary = u32::try_from(self.tokenizer.len()).unwrap_or(u32::MAX);
                if let Some(&id) = ids.iter().find(|&&id| id >= vocabulary) {
                    return Err(unreadable(TextError::UnknownToken { id, vocabulary }));
                }
                ids.clone()
            }
        };
        let (tokens, tokens_max) = (ids.len(), self.info.tokens_max);
        match tokens {
            0 => Err(EmbedError::Empty { at }),
            tokens if tokens > tokens_max => Err(EmbedError::TooLong { at, tokens, tokens_max }),
            _ => Ok(ids),
        }
    }
}

/// Refuses what could be computed and not be answered.
const fn check_numbers(texts: usize, dimensions: usize) -> Result<(), EmbedError> {
    if texts.saturating_mul(dimensions) <= NUMBERS_MAX {
        return Ok(());
    }
    Err(EmbedError::TooManyNumbers { texts, dimensions, numbers_max: NUMBERS_MAX })
}

/// A call in the thread's care.
pub(super) struct Embedding {
    tenant: TenantName,
    way: Way,
    reply: oneshot::Sender<Result<Embedded, Refusal>>,
    /// What is there of the answer; vectors that are not computed yet are empty.
    embedded: Embedded,
    left: usize,
    wanted: Wanted,
    figures: Arc<Figures>,
    milestones: Option<Arc<Milestones>>,
    submitted_at: Instant,
}

/// A vector that has no direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoDirection;

impl Embedding {
    pub(super) fn new(
        (tenant, way): (TenantName, Way),
        read: &Read,
        (figures, milestones): (Arc<Figures>, Option<Arc<Milestones>>),
        submitted_at: Instant,
    ) -> (Self, EmbeddedReply) {
        let (sender, reply) = oneshot::channel();
        let count = |text: &Vec<u32>| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let tokens: Vec<u32> = read.texts.iter().map(count).collect();
        let left = tokens.len();
        let embedded = Embedded { vectors: vec![Vec::new(); left], tokens };
        let wanted = read.wanted;
        let embedding = Self {
            tenant,
            way,
            reply: sender,
            embedded,
            left,
            wanted,
            figures,
            milestones,
            submitted_at,
        };
        (embedding, reply)
    }

    pub(super) const fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    pub(super) const fn way(&self) -> &Way {
        &self.way
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }

    /// Counts the first step, at `now`.
    pub(super) fn count_start(&self, usage: Usage, now: Instant) {
        self.figures.started(now.saturating_duration_since(self.submitted_at));
        if let Some(milestones) = &self.milestones {
            milestones.started.get_or_init(|| (now, usage.cached_tokens));
        }
    }

    /// Takes the vector of text number `at`; `true` if it was the last one.
    pub(super) fn put(&mut self, at: usize, vector: &[f32]) -> Result<bool, NoDirection> {
        let Wanted { dimensions, normalize } = self.wanted;
        let wanted = vector.get(..dimensions).ok_or(NoDirection)?;
        if let Some(place) = self.embedded.vectors.get_mut(at) {
            let scaled = scaled(wanted).ok_or(NoDirection)?;
            *place = if normalize { scaled } else { wanted.to_vec() };
            self.left = self.left.saturating_sub(1);
        }
        Ok(self.left == 0)
    }

    /// Sends the vectors, or why there are none.
    pub(super) fn end(self, refusal: Option<Refusal>) {
        if let Some(milestones) = &self.milestones {
            milestones.ended.get_or_init(Instant::now);
        }
        // Whoever waited may be gone.
        let _ = self.reply.send(refusal.map_or(Ok(self.embedded), Err));
    }
}

/// `vector` with the length 1, if it has any.
fn scaled(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    let scaled = vector.iter().map(|&x| (f64::from(x) / length) as f32);
    Some(scaled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_no_message_holds_are_refused() {
        check_numbers(TEXTS_MAX, NUMBERS_MAX / TEXTS_MAX).unwrap();
        let refused = check_numbers(TEXTS_MAX, 768).unwrap_err();
        let told = "2048 vectors of 768 numbers; 1500000 numbers are the most of a call";
        assert_eq!(refused.to_string(), told);
        assert!(matches!(refused.refusal(), Refusal::Invalid(_)));
    }

    #[test]
    fn a_vector_is_scaled_to_length_one_and_one_without_direction_is_none() {
        assert_eq!(scaled(&[3.0, 4.0]).unwrap(), [0.6, 0.8]);
        // Whose square f32 does not hold.
        assert_eq!(scaled(&[1e30, 0.0]).unwrap(), [1.0, 0.0]);
        for none in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert_eq!(scaled(&none), None);
        }
    }
}
