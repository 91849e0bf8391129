//! How often one object's status is written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

use self::News::{Progress, Spec, Turn};

/// The least pause between two writes of one status in which no condition turned: bytes that
/// arrive are news once in a while. A turn is written at once, as long as there are not many.
const PAUSE: Duration = Duration::from_secs(2);

/// Writes at once that a status has in hand; each pause gives one back. A model goes from nothing to
/// serving by fewer turns.
const AT_ONCE_MAX: u32 = 8;

/// How long a new spec in which no condition has turned waits for all agents to answer, when mostly
/// that is all that there is to say of it: the next state of an agent that does not answer waits
/// five seconds, and a report takes less than one.
const ANSWER_WAIT: Duration = Duration::from_secs(6);

/// What is new in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A condition came, went, or turned.
    Turn,
    /// Every condition is as it was, of another generation of the spec.
    Spec { generation: i64, is_answered: bool },
    /// Messages and numbers.
    Progress,
}

/// When each object's status was last written, and what version that made of it.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<(Kind, Name), Pace>>);

#[derive(Debug, Default)]
struct Pace {
    written: Option<Written>,
    /// When all writes at once are in hand again.
    whole_at: Option<Instant>,
    /// The newest spec that is to be told, and since when.
    spec: Option<(i64, Instant)>,
}

impl Pace {
    /// Since when a spec of this generation is to be told.
    fn since(&mut self, generation: i64, now: Instant) -> Instant {
        match self.spec {
            Some((known, since)) if known == generation => since,
            _ => self.spec.insert((generation, now)).1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
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
        news: News,
        now: Instant,
    ) -> Option<Duration> {
        let mut all = self.lock();
        let pace = all.entry((kind, name.clone())).or_default();
        let last = pace.written;
        let paused = last.map_or(now, |last| last.at + PAUSE);
        let seen = last.and_then(|last| last.version).zip(version);
        let is_seen = seen.is_none_or(|(last, now)| last <= now);
        // When one is in hand again.
        let allowed = pace.whole_at.and_then(|at| at.checked_sub(PAUSE * (AT_ONCE_MAX - 1)));
        let allowed = allowed.unwrap_or(now);
        let due = match news {
            Turn | Spec { is_answered: true, .. } if is_seen => allowed,
            Spec { generation, .. } if is_seen => {
                allowed.max(pace.since(generation, now) + ANSWER_WAIT)
            }
            Turn | Spec { .. } | Progress => paused,
        };
        Some(due.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    pub(crate) fn wrote(&self, kind: Kind, name: &Name, version: Option<u64>, at: Instant) {
        let mut all = self.lock();
        let pace = all.entry((kind, name.clone())).or_default();
        let whole_at = pace.whole_at.map_or(at, |whole_at| whole_at.max(at)) + PAUSE;
        let written = Some(Written { version, at });
        *pace = Pace { written, whole_at: Some(whole_at), spec: None };
    }

    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().remove(&(kind, name.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, Name), Pace>> {
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
        let wait = |news, now| throttle.wait((Kind::Model, &name), Some(3), news, now);
        assert_eq!(wait(Progress, now), None);
        throttle.wrote(Kind::Model, &name, Some(3), now);
        assert_eq!(wait(Progress, now), Some(PAUSE));
        assert_eq!(wait(Turn, now), None);
        assert_eq!(wait(Progress, now + PAUSE), None);
    }

    #[test]
    fn a_status_that_turns_and_turns_is_written_at_a_pace() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "tiny").unwrap();
        let wait = |now| throttle.wait((Kind::Model, &name), Some(3), Turn, now);
        for _ in 0..AT_ONCE_MAX {
            assert_eq!(wait(now), None);
            throttle.wrote(Kind::Model, &name, Some(3), now);
        }
        assert_eq!(wait(now), Some(PAUSE));
        assert_eq!(wait(now + PAUSE), None);
        throttle.wrote(Kind::Model, &name, Some(3), now + PAUSE);
        assert_eq!(wait(now + PAUSE), Some(PAUSE));
        assert_eq!(wait(now + PAUSE * AT_ONCE_MAX), None);
    }

    #[test]
    fn a_new_spec_that_turns_nothing_waits_for_its_agents_and_no_longer_than_they_have() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "acme").unwrap();
        let wait = |news, now| throttle.wait((Kind::Tenant, &name), Some(3), news, now);
        let spec = |generation, is_answered| Spec { generation, is_answered };
        assert_eq!(wait(spec(2, false), now), Some(ANSWER_WAIT));
        assert_eq!(wait(Turn, now), None);
        assert_eq!(wait(spec(2, true), now), None);
        let half = ANSWER_WAIT / 2;
        assert_eq!(wait(spec(2, false), now + half), Some(half));
        assert_eq!(wait(spec(2, false), now + ANSWER_WAIT), None);
        // Another one waits anew.
        assert_eq!(wait(spec(3, false), now + half), Some(ANSWER_WAIT));
        throttle.wrote(Kind::Tenant, &name, Some(3), now + half);
        assert_eq!(wait(spec(3, false), now + half), Some(ANSWER_WAIT));
    }

    #[test]
    fn what_was_written_is_waited_for_before_anything_is_written_upon_it() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "tiny").unwrap();
        throttle.wrote(Kind::Model, &name, Some(3), now);
        let wait = |now| throttle.wait((Kind::Model, &name), Some(2), Turn, now);
        assert_eq!(wait(now), Some(PAUSE));
        assert_eq!(wait(now + PAUSE), None, "whatever became of it");
    }
}
