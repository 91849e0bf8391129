//! How one tenant is served by one engine, counted where it happens: on the engine's thread.
//!
//! Only that thread counts, and whoever is asked for the numbers reads them a moment later, so the
//! loads and stores need no order among each other. A sequence counts into its tenant's figures
//! even after the tenant has been forgotten; they go with the last of its sequences.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use realm_core::engine::{Distribution, TenantLoad, Wait};

use crate::{batch::SequenceId, scheduler::KeptBack};

/// Bounds of the waits for a first step. A step takes some tens of milliseconds, and who waits for
/// a minute has left.
const QUEUE_SECONDS: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Bounds of the times to a first token: from a cached prefix on a fast device to a long prompt on
/// a slow one, finest between what feels immediate and what feels slow.
const FIRST_TOKEN_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Bounds of the times between tokens: 200 tokens a second to one, finest around the four to ten
/// that a person reads in one.
const INTER_TOKEN_SECONDS: [f64; 8] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 1.0];

/// How long a call is behind others before that is told: a step or two is what everybody waits for
/// who is not alone.
const BEHIND_FOR: Duration = Duration::from_secs(1);

/// One tenant's account of one engine.
#[derive(Debug, Default)]
pub(super) struct Figures {
    queue: Times<7>,
    first_token: Times<10>,
    inter_token: Times<8>,
    running: AtomicU32,
    kv_blocks_used: AtomicU32,
    kv_blocks_cached: AtomicU32,
    /// Whether one has waited for the tenant's own blocks since somebody took that in.
    waited_for_own_blocks: AtomicBool,
    behind: Behind,
}

/// Whether a tenant's calls wait behind others: one of them is followed, look by look, until it runs.
#[derive(Debug, Default)]
struct Behind {
    /// Its number, and whether there is one.
    followed: AtomicU64,
    is_followed: AtomicBool,
    /// For how long others have kept it back at each look.
    waited_ms: AtomicU32,
    /// Whether one has waited for long since somebody took that in.
    is_told: AtomicBool,
}

impl Behind {
    /// Takes in which one does not run, so long after the last look.
    fn see(&self, kept_back: Option<KeptBack>, since_last: Duration) {
        let was_followed = self.is_followed.swap(kept_back.is_some(), Ordering::Relaxed);
        let Some(KeptBack { id: SequenceId(id), by_others }) = kept_back else { return };
        if self.followed.swap(id, Ordering::Relaxed) != id || !was_followed {
            self.waited_ms.store(0, Ordering::Relaxed);
        } else if by_others {
            let since_ms = u32::try_from(since_last.as_millis()).unwrap_or(u32::MAX);
            let waited_ms = self.waited_ms.load(Ordering::Relaxed).saturating_add(since_ms);
            self.waited_ms.store(waited_ms, Ordering::Relaxed);
            if Duration::from_millis(waited_ms.into()) >= BEHIND_FOR {
                self.is_told.store(true, Ordering::Relaxed);
            }
        }
    }

    fn followed(&self) -> Option<SequenceId> {
        let is_followed = self.is_followed.load(Ordering::Relaxed);
        is_followed.then(|| SequenceId(self.followed.load(Ordering::Relaxed)))
    }

    fn take(&self) -> bool {
        self.is_told.swap(false, Ordering::Relaxed)
    }
}

/// What a tenant holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) running: u32,
    pub(super) kv_blocks_used: u32,
    pub(super) kv_blocks_cached: u32,
    /// Whether a sequence waits because the tenant's own hold all the blocks that it may.
    pub(super) waits_for_own_blocks: bool,
    /// The one that is followed of what does not run.
    pub(super) kept_back: Option<KeptBack>,
}

impl Figures {
    /// Counts a sequence that runs for the first time, after `waited`.
    pub(super) fn started(&self, waited: Duration) {
        self.queue.count(&QUEUE_SECONDS, waited);
    }

    /// Counts a sequence's first token, so long after the call.
    pub(super) fn first_token(&self, after: Duration) {
        self.first_token.count(&FIRST_TOKEN_SECONDS, after);
    }

    /// Counts a token that came so long after the one before it.
    pub(super) fn next_token(&self, after: Duration) {
        self.inter_token.count(&INTER_TOKEN_SECONDS, after);
    }

    /// Shows what it holds, so long after it was shown the last time.
    pub(super) fn show(&self, held: Held, since_last: Duration) {
        let Held { running, kv_blocks_used, kv_blocks_cached, waits_for_own_blocks, kept_back } =
            held;
        self.running.store(running, Ordering::Relaxed);
        self.kv_blocks_used.store(kv_blocks_used, Ordering::Relaxed);
        self.kv_blocks_cached.store(kv_blocks_cached, Ordering::Relaxed);
        if waits_for_own_blocks {
            self.waited_for_own_blocks.store(true, Ordering::Relaxed);
        }
        self.behind.see(kept_back, since_last);
    }

    /// The one of its calls that is followed until it runs.
    pub(super) fn followed(&self) -> Option<SequenceId> {
        self.behind.followed()
    }

    /// What its calls have waited for since this was asked.
    pub(super) fn take_waits(&self) -> impl Iterator<Item = Wait> {
        let waited_for_own_blocks = self.waited_for_own_blocks.swap(false, Ordering::Relaxed);
        let own_blocks = waited_for_own_blocks.then_some(Wait::OwnBlocks);
        let others = self.behind.take().then_some(Wait::Others);
        own_blocks.into_iter().chain(others)
    }

    /// The numbers, of which `open` sequences are waiting or running.
    pub(super) fn load(&self, open: usize) -> TenantLoad {
        let running = self.running.load(Ordering::Relaxed);
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        TenantLoad {
            sequences_queued: open.saturating_sub(running),
            sequences_running: running,
            kv_blocks_used: self.kv_blocks_used.load(Ordering::Relaxed),
            kv_blocks_cached: self.kv_blocks_cached.load(Ordering::Relaxed),
            queue: self.queue.distribution(&QUEUE_SECONDS),
            first_token: self.first_token.distribution(&FIRST_TOKEN_SECONDS),
            inter_token: self.inter_token.distribution(&INTER_TOKEN_SECONDS),
        }
    }
}

/// Times, counted by the first of `N` bounds that holds them, and all of them.
#[derive(Debug)]
struct Times<const N: usize> {
    within: [AtomicU64; N],
    count: AtomicU64,
    nanos_total: AtomicU64,
}

impl<const N: usize> Default for Times<N> {
    fn default() -> Self {
        Self {
            within: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            nanos_total: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Times<N> {
    fn count(&self, bounds: &[f64; N], time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some((_, within)) =
            bounds.iter().zip(&self.within).find(|(bound, _)| seconds <= **bound)
        {
            within.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos_total.fetch_add(nanos, Ordering::Relaxed);
    }

    fn distribution(&self, bounds: &[f64; N]) -> Distribution {
        let mut at_most = 0;
        let buckets = bounds.iter().zip(&self.within).map(|(&bound, within)| {
            at_most += within.load(Ordering::Relaxed);
            (bound, at_most)
        });
        Distribution {
            buckets: buckets.collect(),
            // Read after the parts, and never below their sum, whatever is counted meanwhile.
            count: self.count.load(Ordering::Relaxed).max(at_most),
            seconds_total: Duration::from_nanos(self.nanos_total.load(Ordering::Relaxed))
                .as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_under_the_first_bound_that_holds_them_and_the_rest_in_the_total() {
        let figures = Figures::default();
        for ms in [5, 6, 5000] {
            figures.next_token(Duration::from_millis(ms));
        }
        let TenantLoad { inter_token, .. } = figures.load(0);
        assert_eq!(inter_token.buckets[..2], [(0.005, 1), (0.01, 2)]);
        assert_eq!(inter_token.buckets.last(), Some(&(1.0, 2)));
        assert_eq!((inter_token.count, inter_token.seconds_total), (3, 5.011));
    }

    #[test]
    fn what_is_open_and_does_not_run_waits() {
        let figures = Figures::default();
        let held = Held { running: 2, kv_blocks_used: 5, kv_blocks_cached: 7, ..Held::default() };
        figures.show(held, Duration::ZERO);
        let load = figures.load(3);
        assert_eq!((load.sequences_queued, load.sequences_running), (1, 2));
        assert_eq!((load.kv_blocks_used, load.kv_blocks_cached), (5, 7));
        assert_eq!(figures.load(1).sequences_queued, 0, "shown a moment ago");
    }

    /// Shows that this one does not run, and whether others keep it from that, and takes what is told.
    fn waits(figures: &Figures, kept_back: Option<(u64, bool)>, ms: u64) -> Vec<Wait> {
        let kept_back = kept_back.map(|(id, by_others)| KeptBack { id: SequenceId(id), by_others });
        figures.show(Held { kept_back, ..Held::default() }, Duration::from_millis(ms));
        assert_eq!(figures.followed(), kept_back.map(|it| it.id));
        figures.take_waits().collect()
    }

    #[test]
    fn a_call_that_others_keep_back_for_a_second_is_told_once() {
        let figures = Figures::default();
        let waits = |kept_back, ms| waits(&figures, kept_back, ms);
        assert_eq!(waits(Some((7, true)), 9000), [], "it may have come just now");
        assert_eq!(waits(Some((7, true)), 600), []);
        assert_eq!(waits(None, 200), []);
        assert_eq!(waits(Some((7, true)), 600), [], "it ran in between");
        assert_eq!(waits(Some((7, true)), 600), []);
        assert_eq!(waits(Some((8, true)), 600), [], "it is another one");
        assert_eq!(waits(Some((8, true)), 600), []);
        assert_eq!(waits(Some((8, false)), 900), [], "nobody was in its way");
        assert_eq!(waits(Some((8, true)), 400), [Wait::Others]);
        assert_eq!(waits(Some((8, true)), 200), [Wait::Others], "it still waits");
        assert_eq!(figures.take_waits().collect::<Vec<_>>(), [], "that has been told");
    }

    #[test]
    fn that_a_call_waited_is_told_though_it_does_no_longer() {
        let figures = Figures::default();
        let kept_back = Some(KeptBack { id: SequenceId(1), by_others: true });
        for kept_back in [kept_back, kept_back, None] {
            figures.show(Held { kept_back, ..Held::default() }, Duration::from_secs(2));
        }
        assert_eq!(figures.take_waits().collect::<Vec<_>>(), [Wait::Others]);
    }

    #[test]
    fn a_wait_for_own_blocks_is_told_at_once_and_once() {
        let figures = Figures::default();
        for waits_for_own_blocks in [true, false] {
            figures.show(Held { waits_for_own_blocks, ..Held::default() }, Duration::ZERO);
        }
        assert_eq!(figures.take_waits().collect::<Vec<_>>(), [Wait::OwnBlocks]);
        assert_eq!(figures.take_waits().collect::<Vec<_>>(), []);
    }
}
