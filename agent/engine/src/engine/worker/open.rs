//! A sequence in the care of the engine's thread.

use std::{sync::Arc, time::Instant};

use realm_core::{
    books::Way,
    engine::{Logprobs, Milestones, Usage},
    name::TenantName,
    refusal::Refusal,
};

use super::held::Held;
use crate::{
    constraint::guide::Guide,
    engine::{Interest, figures::Figures},
    hook::beside::Beside,
    output::Output,
    sampler::{NoToken, Scratch},
    tokenizer::Tokenizer,
};

/// What the thread keeps of one sequence.
pub(super) struct Open {
    pub(super) tenant: TenantName,
    pub(super) way: Way,
    pub(super) output: Output,
    /// Of a constrained one.
    pub(super) guide: Option<Guide>,
    /// Keeps the adapter that it is computed with.
    pub(super) _adapter: Option<Arc<Interest>>,
    /// Of one with a hook.
    pub(super) beside: Option<Beside>,
    pub(super) held: Held,
    pub(super) figures: Arc<Figures>,
    /// Each is noted once; nothing of it grows with the tokens.
    pub(super) milestones: Option<Arc<Milestones>>,
    pub(super) submitted_at: Instant,
    pub(super) token_at: Option<Instant>,
}

impl Open {
    /// Counts a token of `now`.
    pub(super) fn count_token(&mut self, now: Instant) {
        if let Some(before) = self.token_at.replace(now) {
            self.figures.next_token(now.saturating_duration_since(before));
            return;
        }
        self.figures.first_token(now.saturating_duration_since(self.submitted_at));
        if let Some(milestones) = &self.milestones {
            milestones.first_token.get_or_init(|| now);
        }
    }

    /// Whether there is all besides logits that decides about the next token.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.guide.as_ref().is_none_or(|guide| guide.mask().is_some())
            && self.beside.as_ref().is_none_or(|beside| beside.is_ready(now))
    }

    /// The token at `position` that these logits lead to, and what is told of it. The logits are
    /// spent.
    pub(super) fn choose(
        &self,
        logits: &mut [f32],
        position: usize,
        scratch: &mut Scratch,
        tokenizer: &Tokenizer,
    ) -> Result<Chosen, Refusal> {
        let mask = self.guide.as_ref().and_then(Guide::mask);
        let steer = self.beside.as_ref().and_then(Beside::steer);
        let picked = self.output.sampler.pick(logits, (mask, steer), position, scratch);
        let id = picked.map_err(|none| match none {
            NoToken::OfHook => {
                let message = "its hook leaves no token that may come next";
                Refusal::ProgramFailed(message.to_owned())
            }
            NoToken::OfLogits => {
                tracing::warn!("a forward pass gave logits from which no token can be picked");
                Refusal::Internal
            }
        })?;
        if let Some(beside) = &self.beside {
            beside.count_choice();
        }
        Ok(Chosen { id, logprobs: self.output.logprobs(id, scratch, tokenizer) })
    }

    /// Counts the first step, at `now`.
    pub(super) fn count_start(&self, usage: Usage, now: Instant) {
        self.figures.started(now.saturating_duration_since(self.submitted_at));
        if let Some(milestones) = &self.milestones {
            milestones.started.get_or_init(|| (now, usage.cached_tokens));
        }
    }
}

/// A token that was chosen.
pub(super) struct Chosen {
    pub(super) id: u32,
    pub(super) logprobs: Option<Logprobs>,
}
