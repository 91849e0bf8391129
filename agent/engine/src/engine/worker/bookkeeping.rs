//! What the engine's thread books: every moment of its time once, and who it was for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use realm_core::{
    books::{Books, Divider, Used, nanoseconds},
    engine::Usage,
};

use super::{Worker, open::Open};
use crate::{batch::SequenceId, engine::embedding::Embedding};

/// The thread's time, as far as it is not booked.
pub(super) struct Unbooked {
    since: Instant,
    /// Memory to divide a step in.
    costs: Vec<u64>,
    divider: Divider,
}

impl Unbooked {
    pub(super) fn since(now: Instant) -> Self {
        Self { since: now, costs: Vec::new(), divider: Divider::default() }
    }

    /// The time until `now`, in nanoseconds, which is booked from here on.
    fn take(&mut self, now: Instant) -> u64 {
        let time = now.saturating_duration_since(self.since);
        self.since = self.since.max(now);
        nanoseconds(time)
    }
}

impl Worker {
    /// Books the time until `now` as nobody's in particular.
    pub(super) fn book_overhead(&mut self, now: Instant) {
        let time = &mut self.news.books.time;
        time.overhead_ns = time.overhead_ns.saturating_add(self.unbooked.take(now));
    }

    /// Books the time until `now` as time in which nobody wanted anything, where everybody sees it
    /// at once: it was shown as it went by.
    pub(super) fn book_idle(&mut self, now: Instant) {
        self.board.wake(self.unbooked.take(now));
    }

    /// Books the step that has ended at `now`: its time goes to those that it had something of, as
    /// its costs do. Gives how long it took.
    pub(super) fn book_step(&mut self, now: Instant) -> Duration {
        let took_ns = self.unbooked.take(now);
        let time = &mut self.news.books.time;
        time.computing_ns = time.computing_ns.saturating_add(took_ns);
        let Self { scheduler, unbooked, open, calls, news, .. } = self;
        let Unbooked { costs, divider, .. } = unbooked;
        costs.clear();
        costs.extend(scheduler.costs().iter().map(|(_, cost)| cost.picoseconds()));
        let pieces = divider.divide(took_ns, costs);
        for ((id, _), &device_ns) in scheduler.costs().iter().zip(pieces) {
            let used = Used { device_ns, ..Used::default() };
            book(&mut news.books, (open, calls), *id, used);
        }
        Duration::from_nanos(took_ns)
    }

    /// Books how long sequences and prefixes held blocks when that has just been charged, before any
    /// of them ends.
    pub(super) fn book_blocks(&mut self) {
        let Self { scheduler, open, calls, kept, news, .. } = self;
        for &(id, block_ns) in scheduler.held_blocks() {
            let used = Used { block_ns: block_ns.into(), ..Used::default() };
            match kept.get(&id) {
                Some(pinned) => news.books.add(pinned.tenant(), &pinned.way, used),
                None => book(&mut news.books, (open, calls), id, used),
            }
        }
    }

    /// Charges and books, until `now`, what was kept while the thread slept: before anybody begins to
    /// wait, for until then nobody lacked it.
    pub(super) fn charge_kept(&mut self, now: Instant) {
        self.scheduler.charge_blocks(now);
        self.book_blocks();
    }

    pub(super) fn book_start(&mut self, id: SequenceId, usage: Usage) {
        let Usage { prompt_tokens, cached_tokens, completion_tokens: _ } = usage;
        let (prompt_tokens, cached_tokens) = (prompt_tokens.into(), cached_tokens.into());
        let used = Used { prompt_tokens, cached_tokens, ..Used::default() };
        book(&mut self.news.books, (&self.open, &self.calls), id, used);
    }
}

/// Books what a sequence or a call with texts has used, for whoever it is of.
fn book(
    books: &mut Books,
    (open, calls): (&HashMap<SequenceId, Open>, &HashMap<SequenceId, Embedding>),
    id: SequenceId,
    used: Used,
) {
    let payer = open.get(&id).map(|open| (&open.tenant, &open.way));
    let payer = payer.or_else(|| calls.get(&id).map(|call| (call.tenant(), call.way())));
    if let Some((tenant, way)) = payer {
        books.add(tenant, way, used);
    }
}
