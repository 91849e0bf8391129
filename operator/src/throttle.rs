//! How often one object's status is written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

/// The least pause between two writes of one status in which no condition turned: bytes that
/// arrive are news once in a while. A turn is written at once.
const PAUSE: Duration = Duration::from_secs(2);

/// When each object's status was last written.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<(Kind, Name), Instant>>);

impl Throttle {
    /// How long to wait before the next write, if at all.
    pub(crate) fn wait(
        &self,
        kind: Kind,
        name: &Name,
        is_turn: bool,
        now: Instant,
    ) -> Option<Duration> {
        let last = *self.lock().get(&(kind, name.clone()))?;
        let wait = (last + PAUSE).saturating_duration_since(now);
        (!is_turn && !wait.is_zero()).then_some(wait)
    }

    pub(crate) fn wrote(&self, kind: Kind, name: &Name, now: Instant) {
        self.lock().insert((kind, name.clone()), now);
    }

    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().remove(&(kind, name.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Kind, Name), Instant>> {
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
        assert_eq!(throttle.wait(Kind::Model, &name, false, now), None);
        throttle.wrote(Kind::Model, &name, now);
        assert_eq!(throttle.wait(Kind::Model, &name, false, now), Some(PAUSE));
        assert_eq!(throttle.wait(Kind::Model, &name, true, now), None);
        assert_eq!(throttle.wait(Kind::Model, &name, false, now + PAUSE), None);
    }
}
