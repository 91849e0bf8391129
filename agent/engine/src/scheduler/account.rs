//! What one tenant waits for, and in which order it wants it.

use std::collections::VecDeque;

use super::{sequence::Sequence, texts::TextCall};
use crate::batch::SequenceId;

/// Of a tenant's queue, the sequences whose cached prefixes are looked at before one starts: a look
/// costs some microseconds, and whoever sends more calls at once that begin alike has the first of
/// them computed by then.
const LOOKED_AT_MAX: usize = 8;

/// How many younger sequences of its own tenant may start before one that waits. With as many calls
/// as a tenant may have running by default, the last comes at most one answer's time later than it
/// would in order.
pub(super) const OVERTAKEN_MAX: u32 = 16;

#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) weight: u32,
    /// In the order in which they start, as far as nothing better is found in the cache.
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) running: usize,
    /// Calls with texts that are not computed yet, the oldest first.
    pub(super) calls: VecDeque<TextCall>,
    /// Prefixes that it wants kept, and pays for.
    pub(super) kept: usize,
}

impl Account {
    /// Whether the tenant has sequences to run, for which it is owed places and blocks.
    pub(super) fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }

    /// Whether the tenant has anything to do, or to pay for.
    pub(super) fn is_busy(&self) -> bool {
        self.is_active() || !self.calls.is_empty() || self.kept > 0
    }

    /// How many sequences it has, running or not, beside those of a tenant of weight `by`.
    pub(super) fn calls_for(&self, by: u32) -> u64 {
        ((self.running + self.waiting.len()) as u64).saturating_mul(u64::from(by))
    }

    /// Whether the sequence or call is one of those that wait.
    pub(super) fn waits_for(&self, id: SequenceId) -> bool {
        self.waiting.iter().any(|sequence| sequence.id == id)
            || self.calls.iter().any(|call| call.id() == id)
    }

    /// Whether one of its calls with texts has begun, behind which the others come.
    pub(super) fn has_begun_call(&self) -> bool {
        self.calls.front().is_some_and(TextCall::has_begun)
    }

    /// Sequences that do not run, those among them that were preempted, and calls that have not begun;
    /// each with whether it is a call.
    pub(super) fn kept_back(&self) -> impl Iterator<Item = (SequenceId, bool)> {
        let sequences = self.waiting.iter().map(|sequence| (sequence.id, false));
        let calls = self.calls.iter().filter(|call| !call.has_begun());
        sequences.chain(calls.map(|call| (call.id(), true)))
    }

    pub(super) fn drop_call(&mut self, id: SequenceId) {
        self.calls.retain(|call| call.id() != id);
    }

    pub(super) fn take_waiting(&mut self, id: SequenceId) -> Option<Sequence> {
        let at = self.waiting.iter().position(|sequence| sequence.id == id)?;
        self.waiting.remove(at)
    }

    /// Brings the sequence to the front that starts next: one that had started before, else one
    /// that has been overtaken often enough, else the one of which most is `cached`, and of several
    /// such the one that came first.
    pub(super) fn prefer(&mut self, mut cached: impl FnMut(&mut Sequence) -> usize) {
        if self.waiting.len() < 2 || self.waiting.front().is_some_and(Sequence::was_started) {
            return;
        }
        let is_due = |sequence: &Sequence| sequence.overtaken >= OVERTAKEN_MAX;
        let at = self.waiting.iter().position(is_due).or_else(|| {
            let looked_at = self.waiting.iter_mut().take(LOOKED_AT_MAX).map(|sequence| {
                let blocks = cached(sequence);
                (blocks, std::cmp::Reverse(sequence.id))
            });
            looked_at.enumerate().max_by_key(|(_, rank)| *rank).map(|(at, _)| at)
        });
        if let Some(sequence) = at.and_then(|at| self.waiting.remove(at)) {
            self.waiting.push_front(sequence);
        }
    }

    /// Takes the sequence at the front, which starts.
    pub(super) fn take_next(&mut self) -> Option<Sequence> {
        let next = self.waiting.pop_front()?;
        for older in self.waiting.iter_mut().filter(|sequence| sequence.id < next.id) {
            older.overtaken += 1;
        }
        Some(next)
    }
}
