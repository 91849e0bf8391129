//! What the engine's thread books: every moment of its time once, and who it was for.

use std::time::{Duration, Instant};

use realm_core::{
    books::{Used, divide, nanoseconds},
    engine::Usage,
};

use super::Worker;
use crate::batch::SequenceId;

/// The thread's time, as far as it is not booked.
pub(super) struct Unbooked {
    since: Instant,
}

impl Unbooked {
    pub(super) const fn since(now: Instant) -> Self {
        Self { since: now }
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
        let (ids, costs): (Vec<SequenceId>, Vec<u64>) =
            self.scheduler.costs().iter().map(|(id, cost)| (*id, cost.picoseconds())).unzip();
        for (id, device_ns) in ids.into_iter().zip(divide(took_ns, &costs)) {
            self.book(id, Used { device_ns, ..Used::default() });
        }
        Duration::from_nanos(took_ns)
    }

    /// Books how long sequences held blocks when that has just been charged, before any of them
    /// ends.
    pub(super) fn book_blocks(&mut self) {
        for (id, block_ns) in self.scheduler.held_blocks().to_vec() {
            self.book(id, Used { block_ns: block_ns.into(), ..Used::default() });
        }
    }

    pub(super) fn book_start(&mut self, id: SequenceId, usage: Usage) {
        let Usage { prompt_tokens, cached_tokens, completion_tokens: _ } = usage;
        let (prompt_tokens, cached_tokens) = (prompt_tokens.into(), cached_tokens.into());
        self.book(id, Used { prompt_tokens, cached_tokens, ..Used::default() });
    }

    fn book(&mut self, id: SequenceId, used: Used) {
        let payer = self.open.get(&id).map(|open| (&open.tenant, &open.way));
        let payer = payer.or_else(|| self.calls.get(&id).map(|call| (call.tenant(), call.way())));
        if let Some((tenant, way)) = payer {
            self.news.books.add(tenant, way, used);
        }
    }
}
