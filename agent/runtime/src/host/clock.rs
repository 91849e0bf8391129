//! `realm:tenant/clock`: the time, too coarse to measure by.

use std::time::{Duration, SystemTime};

use super::Host;
use crate::bindings::realm::tenant::clock;

/// What all times are rounded down to, in milliseconds. Longer than anything that a neighbour's
/// cache or batch could make a difference of, and short enough for dates and timeouts.
const STEP_MS: u64 = 100;

/// The time in whole steps, as milliseconds.
fn coarse(time: Duration) -> u64 {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ms - ms % STEP_MS
}

impl clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.enter()?;
        // A machine whose clock is before the epoch says that it is there.
        Ok(coarse(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()))
    }

    fn elapsed(&mut self) -> wasmtime::Result<u64> {
        Ok(coarse(self.enter()?.own.allowance.begun_at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_whole_steps() {
        for (ms, said) in [(0, 0), (99, 0), (100, 100), (1234, 1200)] {
            assert_eq!(coarse(Duration::from_millis(ms)), said);
        }
    }
}
