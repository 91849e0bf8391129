//! What one tenant has had, and what it waits for.

use std::collections::VecDeque;

use super::{sequence::Sequence, texts::TextCall};
use crate::batch::SequenceId;

/// Units in which service is counted: one token for a tenant of weight 1. Large, so that dividing
/// by a weight loses nothing that matters.
const UNITS_PER_TOKEN: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Account {
    pub(super) weight: u32,
    /// Tokens computed for the tenant, divided by its weight.
    pub(super) served: u64,
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) running: usize,
    /// Calls with texts that are not computed yet, the oldest first.
    pub(super) calls: VecDeque<TextCall>,
}

impl Default for Account {
    fn default() -> Self {
        Self { weight: 1, served: 0, waiting: VecDeque::new(), running: 0, calls: VecDeque::new() }
    }
}

impl Account {
    /// Whether the tenant has sequences to run, for which it is owed places and blocks.
    pub(super) fn is_active(&self) -> bool {
        self.running > 0 || self.is_waiting()
    }

    /// Whether the tenant has anything to do.
    pub(super) fn is_busy(&self) -> bool {
        self.is_active() || !self.calls.is_empty()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lifts a tenant that comes back to the least served of the others: idleness banks nothing,
    /// and what it had before it left is not forgotten.
    pub(super) fn wake(&mut self, least_served: Option<u64>) {
        self.served = self.served.max(least_served.unwrap_or(0));
    }

    fn units(&self, tokens: usize) -> u64 {
        (tokens as u64).saturating_mul(UNITS_PER_TOKEN) / u64::from(self.weight.max(1))
    }

    pub(super) fn charge(&mut self, tokens: usize) {
        self.served = self.served.saturating_add(self.units(tokens));
    }

    /// Gives back what was charged for rows that are not computed after all.
    pub(super) fn refund(&mut self, tokens: usize) {
        self.served = self.served.saturating_sub(self.units(tokens));
    }

    pub(super) fn drop_call(&mut self, id: SequenceId) {
        self.calls.retain(|call| call.id() != id);
    }

    pub(super) fn take_waiting(&mut self, id: SequenceId) -> Option<Sequence> {
        let at = self.waiting.iter().position(|sequence| sequence.id == id)?;
        self.waiting.remove(at)
    }
}
