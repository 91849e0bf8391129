//! How long to wait before the next round. Pure: randomness is an argument.

use std::time::Duration;

/// The longest wait after a stream that was good. All agents lose their operator at the same
/// moment; a thousand of them come back at a rate of one a millisecond.
const BASE: Duration = Duration::from_secs(1);

/// The longest wait: what a person who has just mended the operator is willing to wait.
const MAX: Duration = Duration::from_secs(30);

/// A wait anywhere between nothing and a bound that doubles with each failure: full jitter, so
/// that agents which failed together do not come back together.
pub(crate) fn backoff(failures: u32, random: u64) -> Duration {
    let bound = BASE.saturating_mul(1 << failures.min(31)).min(MAX);
    // The upper 32 bits as a fraction of one.
    let fraction = random >> 32;
    Duration::from_nanos_u128((bound.as_nanos() * u128::from(fraction)) >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_within_its_bound(failures: u32, random: u64) {
            prop_assert!(backoff(failures, random) < MAX);
            prop_assert!(backoff(0, random) < BASE);
        }

        #[test]
        fn more_failures_never_shorten_a_wait(failures in 0_u32..40, random: u64) {
            prop_assert!(backoff(failures, random) <= backoff(failures + 1, random));
        }
    }

    #[test]
    fn waits_are_spread_over_the_whole_bound() {
        assert_eq!(backoff(9, 0), Duration::ZERO);
        assert_eq!(backoff(9, 1 << 63), MAX / 2);
        assert!(backoff(9, u64::MAX) > MAX * 99 / 100);
    }
}
