//! How often one object's status is written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

/// The least pause between two writes of one status in which no condition turned: bytes that
/// arrive are news once in a while. A turn is written at once.
const PAUSE: Duration = Duration::from_secs(2);

/// When each object's status was last written, and what version that made of it.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<(Kind, Name), Written>>);

#[derive(Debug)]
struct Written {
    /// Later ones are larger (KEP-5504).
    version: Option<u64>,
    at: Instant,
}

impl Throttle {
    /// How long to wait before the next write to an object in this version, if at all.
    ///
    /// An older version than the last write made does not show what was written, so that the same
    /// turn would be written and told twice. What was written is on its way.
    pub(crate) fn wait(
        &self,
        (kind, name): (Kind, &Name),
        version: Option<u64>,
        is_turn: bool,
        now: Instant,
    ) -> Option<Duration> {
        let all = self.lock();
        let last = all.get(&(kind, name.clone()))?;
        let wait = (last.at + PAUSE).saturating_duration_since(now);
        let is_seen = version.zip(last.version).is_none_or(|(now, last)| last <= now);
        let is_due = wait.is_zero() || (is_turn && is_seen);
        (!is_due).then_some(wait)
    }

    pub(crate) fn wrote(&self, kind: Kind, name: &Name, version: Option<u64>, at: Instant) {
        self.lock().insert((kind, name.clone()), Written { version, at });
    }

    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().remove(&(kind, name.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, Name), Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_waits_and_a_turn_does_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "tiny").unwrap();
        let wait = |is_turn, now| throttle.wait((Kind::Model, &name), Some(3), is_turn, now);
        assert_eq!(wait(false, now), None);
        throttle.wrote(Kind::Model, &name, Some(3), now);
        assert_eq!(wait(false, now), Some(PAUSE));
        assert_eq!(wait(true, now), None);
        assert_eq!(wait(false, now + PAUSE), None);
    }

    #[test]
    fn what_was_written_is_waited_for_before_anything_is_written_upon_it() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "tiny").unwrap();
        throttle.wrote(Kind::Model, &name, Some(3), now);
        let wait = |now| throttle.wait((Kind::Model, &name), Some(2), true, now);
        assert_eq!(wait(now), Some(PAUSE));
        assert_eq!(wait(now + PAUSE), None, "whatever became of it");
    }
}
