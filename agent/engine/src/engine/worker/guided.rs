//! What the engine's thread does with masks: it takes them as they come, and lets logits wait for
//! theirs, or for their hook.

use std::time::{Duration, Instant};

use super::{MASKS_WAIT, Worker};
use crate::{
    batch::{Batch, SequenceId},
    constraint::{self, guide::Guide, masks::Computed},
};

impl Worker {
    /// Waits a moment for masks that this step's logits need.
    pub(super) fn expect_masks(&mut self, batch: &Batch) {
        let lacks_mask = |id: SequenceId| {
            let guide = self.open.get(&id).and_then(|open| open.guide.as_ref());
            guide.is_some_and(|guide| guide.mask().is_none())
        };
        let mut lacking = batch.finished().filter(|(id, _)| lacks_mask(*id)).count();
        let until = Instant::now() + MASKS_WAIT;
        while lacking > 0 {
            let left = until.saturating_duration_since(Instant::now());
            let Some(computed) = self.masks.take(left) else { return };
            lacking -= usize::from(batch.finished().any(|(id, _)| id == computed.id));
            self.guide(computed);
        }
    }

    /// Takes the masks that are there, and one that comes within `wait`. Sequences whose logits
    /// were waiting for theirs get their next token.
    pub(super) fn take_masks(&mut self, wait: Duration) {
        let mut wait = wait;
        while let Some(computed) = self.masks.take(wait) {
            wait = Duration::ZERO;
            self.guide(computed);
        }
    }

    pub(super) fn guide(&mut self, computed: Computed) {
        let Computed { id, progress, mask } = computed;
        // Otherwise the sequence has ended meanwhile.
        let Some(guide) = self.guide_of(id) else { return };
        match mask {
            Ok(mask) => guide.set(progress, mask),
            Err(error) => {
                self.fail(id, constraint::refusal(&error));
                return;
            }
        }
        self.choose_held(id, Instant::now());
    }

    pub(super) fn guide_of(&mut self, id: SequenceId) -> Option<&mut Guide> {
        self.open.get_mut(&id)?.guide.as_mut()
    }

    /// Chooses a token by logits that have waited, once there is all that decides about it.
    pub(super) fn choose_held(&mut self, id: SequenceId, now: Instant) {
        let Some(open) = self.open.get_mut(&id).filter(|open| open.is_ready(now)) else { return };
        let Some(mut logits) = open.held.take() else { return };
        // Otherwise it was preempted, and what they were computed of is computed again.
        if self.scheduler.lacks_token(id) {
            let position = self.scheduler.position(id);
            let chosen = open.choose(&mut logits, position, &mut self.scratch, &self.tokenizer);
            self.give(id, chosen, now);
        }
        if let Some(open) = self.open.get_mut(&id) {
            open.held.reuse(logits);
        }
    }
}
