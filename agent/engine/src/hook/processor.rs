//! How long a thread has had a processor: what a busy machine, on which others have it meanwhile,
//! does not lengthen.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long the thread that asks has had one since it began.
pub(super) fn time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever below zero, and there are less nanoseconds than a second has.
    let (seconds, nanoseconds) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}
