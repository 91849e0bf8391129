//! How many replicas a model should have, by how much it is used.
//!
//! Up at once, for calls wait. Down only after a lower need has lasted for [`DOWN_AFTER`], and to
//! none only after `idleAfterSeconds` without a call, so that a load is not thrown away between
//! two bursts.

use std::time::Duration;

use crate::validate::Scaling;

/// How long fewer replicas must have been enough before there are fewer: longer than the pauses
/// within a burst, and than it takes to load most models again.
pub(super) const DOWN_AFTER: Duration = Duration::from_mins(2);

/// How much a model is used now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Calls in hand over all replicas, and held at doors.
    pub(super) calls: u64,
    /// Whether every replica has been loaded, or has failed to. While one is on its way nobody
    /// can use it, so that idleness says nothing.
    pub(super) is_settled: bool,
}

/// How many replicas one model has, and since when fewer would do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    replicas: u32,
    /// When the model was last in use; `None` is long ago.
    active_at: Option<Duration>,
    low: Option<Low>,
}

/// A time in which fewer replicas were enough.
#[derive(Clone, Copy, Debug)]
struct Low {
    since: Duration,
    /// The most that were needed in it.
    peak: u32,
}

impl Scale {
    /// Begins with the replicas that are there.
    pub(super) fn new(scaling: &Scaling, held: u32, now: Duration) -> Self {
        let replicas = held.clamp(scaling.min, scaling.max);
        Self { replicas, active_at: (held > 0).then_some(now), low: None }
    }

    /// The replicas from now on.
    pub(super) fn step(&mut self, scaling: &Scaling, usage: Usage, now: Duration) -> u32 {
        if usage.calls > 0 || !usage.is_settled {
            self.active_at = Some(now);
        }
        let is_idle = self.active_at.is_none_or(|at| scaling.idle_after <= now.saturating_sub(at));
        if scaling.min == 0 && is_idle {
            self.replicas = 0;
            self.low = None;
            return 0;
        }
        let calls = usage.calls.div_ceil(u64::from(scaling.target_queue.max(1)));
        let needed = u32::try_from(calls).unwrap_or(u32::MAX).max(1).max(scaling.min);
        let needed = needed.min(scaling.max);
        self.replicas = self.replicas.min(scaling.max);
        if self.replicas <= needed {
            self.replicas = needed;
            self.low = None;
            return needed;
        }
        let low = self.low.get_or_insert(Low { since: now, peak: needed });
        low.peak = low.peak.max(needed);
        if DOWN_AFTER <= now.saturating_sub(low.since) {
            self.replicas = low.peak;
            self.low = None;
        }
        self.replicas
    }

    /// When time alone may change the replicas.
    pub(super) fn due(&self, scaling: &Scaling) -> Option<Duration> {
        let down = self.low.map(|low| low.since.saturating_add(DOWN_AFTER));
        let is_held = scaling.min == 0 && self.replicas > 0;
        let idle = self.active_at.filter(|_| is_held);
        let idle = idle.map(|at| at.saturating_add(scaling.idle_after));
        down.into_iter().chain(idle).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn scaling(min: u32, max: u32) -> Scaling {
        Scaling { min, max, target_queue: 10, idle_after: 300 * SECOND }
    }

    /// The replicas after each of these seconds with so many calls in hand.
    fn check(scaling: &Scaling, held: u32, uses: &[(u32, u64)], expected: &[u32]) {
        let mut scale = Scale::new(scaling, held, Duration::ZERO);
        let step = |&(at, calls): &(u32, u64)| {
            scale.step(scaling, Usage { calls, is_settled: true }, at * SECOND)
        };
        assert_eq!(uses.iter().map(step).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn calls_beyond_the_target_add_replicas_at_once_up_to_the_most() {
        check(&scaling(1, 4), 1, &[(0, 0), (1, 10), (2, 11), (3, 1000)], &[1, 1, 2, 4]);
    }

    #[test]
    fn fewer_calls_take_replicas_away_only_after_they_have_lasted() {
        check(&scaling(1, 4), 4, &[(0, 5), (119, 5), (120, 5)], &[4, 4, 1]);
        check(&scaling(2, 4), 4, &[(0, 0), (120, 0)], &[4, 2]);
    }

    #[test]
    fn what_was_needed_meanwhile_stays() {
        check(&scaling(1, 4), 4, &[(0, 5), (60, 25), (120, 5), (240, 5)], &[4, 4, 3, 3]);
        // A burst that needs them all begins the wait anew.
        check(
            &scaling(1, 4),
            4,
            &[(0, 5), (60, 40), (120, 5), (180, 5), (240, 5)],
            &[4, 4, 4, 4, 1],
        );
    }

    #[test]
    fn an_idle_model_goes_and_a_waiting_call_brings_it_back() {
        let scaling = scaling(0, 2);
        check(&scaling, 1, &[(0, 1), (299, 0), (300, 0)], &[1, 1, 0]);
        let mut scale = Scale::new(&scaling, 0, Duration::ZERO);
        let idle = Usage { calls: 0, is_settled: true };
        assert_eq!(scale.step(&scaling, idle, SECOND), 0);
        assert_eq!(scale.due(&scaling), None);
        let held = Usage { calls: 11, is_settled: true };
        assert_eq!(scale.step(&scaling, held, 2 * SECOND), 2);
        // While it loads nobody can use it, and it does not count as idle.
        let loading = Usage { calls: 0, is_settled: false };
        assert_eq!(scale.step(&scaling, loading, 500 * SECOND), 2);
        assert_eq!(scale.step(&scaling, loading, 1000 * SECOND), 1);
        assert_eq!(scale.step(&scaling, idle, 1299 * SECOND), 1);
        assert_eq!(scale.due(&scaling), Some(1300 * SECOND));
        assert_eq!(scale.step(&scaling, idle, 1300 * SECOND), 0);
    }

    #[test]
    fn a_model_without_calls_keeps_its_least() {
        check(&scaling(2, 3), 0, &[(0, 0), (10_000, 0)], &[2, 2]);
    }

    proptest! {
        #[test]
        fn replicas_stay_between_least_and_most_and_fall_no_oftener_than_once_a_wait(
            min in 0..3_u32,
            more in 1..4_u32,
            calls in prop::collection::vec(0..100_u64, 1..200),
        ) {
            let scaling = scaling(min, min + more);
            let mut scale = Scale::new(&scaling, min, Duration::ZERO);
            let mut last = (min, None::<u32>);
            for (at, calls) in (0_u32..).step_by(7).zip(calls) {
                let usage = Usage { calls, is_settled: true };
                let replicas = scale.step(&scaling, usage, at * SECOND);
                prop_assert!(min <= replicas && replicas <= scaling.max);
                if replicas > 0 {
                    let enough = u64::from(replicas) * 10 >= calls || replicas == scaling.max;
                    prop_assert!(enough, "{replicas} for {calls}");
                }
                if replicas < last.0 {
                    prop_assert!(last.1.is_none_or(|fell| 120 <= at - fell || replicas == 0));
                    last.1 = Some(at);
                }
                last.0 = replicas;
            }
        }
    }
}
