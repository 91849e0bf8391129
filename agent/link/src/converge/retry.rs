//! When a failed step may run again. Pure: time and randomness are arguments.

use std::time::Duration;

use realm_core::report::Failure;
use tokio::time::Instant;

use crate::diff::Step;

/// The wait after the first failure: long enough for a restarted server to be back.
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest wait: what a person who has just mended the cause is willing to wait.
const BACKOFF_MAX: Duration = Duration::from_mins(2);

/// A step that failed.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) step: Step,
    pub(super) failures: u32,
    pub(super) due: Instant,
    pub(super) failure: Failure,
}

impl Retry {
    /// Whether `step` may run now. Another step than the one that failed need not wait.
    pub(super) fn is_due(&self, step: &Step, now: Instant) -> bool {
        self.step != *step || self.due <= now
    }
}

/// A model that served well for so long has a new fault, not the old one.
const LOSS_MEMORY: Duration = Duration::from_mins(10);

/// A model that stopped serving by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// How often lately.
    pub(super) count: u32,
    at: Instant,
}

impl Loss {
    /// A loss now, after an earlier one or none.
    pub(super) fn after(last: Option<&Self>, now: Instant) -> Self {
        let lately = last.filter(|last| now.duration_since(last.at) < LOSS_MEMORY);
        Self { count: lately.map_or(1, |last| last.count.saturating_add(1)), at: now }
    }
}

/// How long to wait after so many failures in a row: doubling, and spread by `random` over the
/// upper half, so that items and agents that failed together do not come back together.
pub(super) fn backoff(failures: u32, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let wait = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let half = wait / 2;
    // The upper 32 bits as a fraction of one.
    let fraction = random >> 32;
    let spread = (half.as_nanos() * u128::from(fraction)) >> 32;
    half + Duration::from_nanos_u128(spread)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_half_the_step_nor_longer_than_the_most(
            failures: u32,
            random: u64,
        ) {
            let wait = backoff(failures, random);
            prop_assert!(BACKOFF_MIN / 2 <= wait && wait <= BACKOFF_MAX);
        }

        #[test]
        fn waits_grow_until_they_reach_the_most(failures in 1_u32..7, random: u64) {
            prop_assert!(backoff(failures, random) * 2 <= backoff(failures + 1, random) + Duration::from_nanos(4));
        }
    }

    #[test]
    fn waits_are_spread() {
        assert!(backoff(3, 0) < backoff(3, u64::MAX / 2));
        assert!(backoff(3, u64::MAX / 2) < backoff(3, u64::MAX));
    }
}
