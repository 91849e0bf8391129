//! How often one object's status is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

use self::News::{Absence, Change, Progress, Turn};

/// The least pause between two writes of one status in which no condition turned: bytes that
/// arrive are news once in a while. A turn is written at once, as long as there are not many.
const PAUSE: Duration = Duration::from_secs(2);

/// Writes at once that a status has in hand; each pause gives one back. A model goes from nothing to
/// serving by fewer turns.
const AT_ONCE_MAX: u32 = 8;

/// How long a change of what is served waits for all agents to answer, when mostly that is all that
/// there is to say of it: the next state of an agent that does not answer waits five seconds, a
/// report takes one, and a hundred of them on few cores take their time.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How long an object that was ready is not said to miss a model which is on its way: for as long
/// as doors hold the calls of one.
const COMING_WAIT: Duration = Duration::from_mins(1);

/// The least pause between two writes of what nobody waits for, whatever they are of: progress, and
/// changes whose time is over, such as that one model of a thousand tenants has gone. Each agent
/// that comes or goes is news in the numbers of every tenant: a thousand of them are told within
/// fifty seconds, by twenty writes a second, which an API server does not feel.
const PROGRESS_GAP: Duration = Duration::from_millis(50);

/// What is new in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A condition came, went, or turned.
    Turn,
    /// Something is on its way, to be told of when its agents have answered or have had their time.
    Change { is_answered: bool },
    /// What was ready misses its models, which are on their way.
    Absence,
    /// Messages and numbers.
    Progress,
}

/// When each object's status was last written, and what version that made of it.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<Paces>);

#[derive(Debug, Default)]
struct Paces {
    of: BTreeMap<(Kind, Name), Pace>,
    /// The first moment at which nobody has a turn.
    free_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Pace {
    written: Option<Written>,
    /// When all writes at once are in hand again.
    whole_at: Option<Instant>,
    /// Since when a change is to be told.
    change: Option<Instant>,
    /// When it has its turn to say what nobody waits for.
    turn_at: Option<Instant>,
}

impl Pace {
    /// When a change can be told that waits since now or before: when its time is over, by turns.
    fn overdue(
        &mut self,
        wait: Duration,
        free_at: &mut Option<Instant>,
        last: Instant,
        now: Instant,
    ) -> Instant {
        let over_at = *self.change.get_or_insert(now) + wait;
        if now < over_at { over_at } else { self.turn(free_at, last, now) }
    }

    /// When it has its turn; the first that is free, if it has none.
    fn turn(&mut self, free_at: &mut Option<Instant>, last: Instant, now: Instant) -> Instant {
        *self.turn_at.get_or_insert_with(|| {
            let turn_at = free_at.map_or(now, |free_at| free_at.clamp(now, last));
            *free_at = Some(turn_at + PROGRESS_GAP);
            turn_at
        })
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
        let Paces { of, free_at } = &mut *self.lock();
        // Whoever has a turn, nobody waits for more than all the others.
        let others = u32::try_from(of.len()).unwrap_or(u32::MAX);
        let last_turn = now + PROGRESS_GAP.saturating_mul(others);
        let pace = of.entry((kind, name.clone())).or_default();
        let last = pace.written;
        let paused = last.map_or(now, |last| last.at + PAUSE);
        let seen = last.and_then(|last| last.version).zip(version);
        let is_seen = seen.is_none_or(|(last, now)| last <= now);
        // When one is in hand again.
        let allowed = pace.whole_at.and_then(|at| at.checked_sub(PAUSE * (AT_ONCE_MAX - 1)));
        let allowed = allowed.unwrap_or(now);
        if !matches!(news, Change { .. } | Absence) {
            // What was on its way has come, or is told with this.
            pace.change = None;
        }
        let due = match news {
            Turn | Change { is_answered: true } if is_seen => allowed,
            Change { is_answered: false } if is_seen => {
                allowed.max(pace.overdue(ANSWER_WAIT, free_at, last_turn, now))
            }
            Absence if is_seen => allowed.max(pace.overdue(COMING_WAIT, free_at, last_turn, now)),
            Turn | Change { .. } | Absence => paused,
            Progress => paused.max(pace.turn(free_at, last_turn, now)),
        };
        Some(due.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    pub(crate) fn wrote(&self, kind: Kind, name: &Name, version: Option<u64>, at: Instant) {
        let mut all = self.lock();
        let pace = all.of.entry((kind, name.clone())).or_default();
        let whole_at = pace.whole_at.map_or(at, |whole_at| whole_at.max(at)) + PAUSE;
        let written = Some(Written { version, at });
        *pace = Pace { written, whole_at: Some(whole_at), change: None, turn_at: None };
    }

    /// Notes that an object shows all that there is to say of it.
    pub(crate) fn settle(&self, kind: Kind, name: &Name) {
        if let Some(pace) = self.lock().of.get_mut(&(kind, name.clone())) {
            (pace.change, pace.turn_at) = (None, None);
        }
    }

    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().of.remove(&(kind, name.clone()));
    }

    /// Forgets every object of the kind that is not among `names`.
    pub(crate) fn retain(&self, kind: Kind, names: &BTreeSet<Name>) {
        self.lock().of.retain(|(of, name), _| *of != kind || names.contains(name));
    }

    fn lock(&self) -> MutexGuard<'_, Paces> {
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
    fn a_change_waits_for_its_agents_and_no_longer_than_they_have() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "acme").unwrap();
        let wait = |news, now| throttle.wait((Kind::Tenant, &name), Some(3), news, now);
        let change = |is_answered| Change { is_answered };
        assert_eq!(wait(change(false), now), Some(ANSWER_WAIT));
        assert_eq!(wait(change(true), now), None);
        // One change after the other puts it off no longer.
        let half = ANSWER_WAIT / 2;
        assert_eq!(wait(change(false), now + half), Some(half));
        assert_eq!(wait(change(false), now + ANSWER_WAIT), None);
        throttle.wrote(Kind::Tenant, &name, Some(3), now + half);
        assert_eq!(wait(change(false), now + half), Some(ANSWER_WAIT));
    }

    #[test]
    fn a_change_that_went_by_untold_does_not_hasten_the_next() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = Name::new("default", "acme").unwrap();
        let wait = |news, now| throttle.wait((Kind::Tenant, &name), Some(3), news, now);
        let change = Change { is_answered: false };
        assert_eq!(wait(change, now), Some(ANSWER_WAIT));
        throttle.settle(Kind::Tenant, &name);
        assert_eq!(wait(change, now + ANSWER_WAIT), Some(ANSWER_WAIT));
        // It came, and only numbers are left to tell, when the next one begins.
        wait(Progress, now + ANSWER_WAIT);
        assert_eq!(wait(change, now + ANSWER_WAIT * 2), Some(ANSWER_WAIT));
    }

    #[test]
    fn the_progress_of_many_is_written_one_after_the_other() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = |n: u32| Name::new("default", &format!("t{n}")).unwrap();
        let wait = |n, now| throttle.wait((Kind::Tenant, &name(n)), Some(3), Progress, now);
        for n in 0..1000 {
            let turn = PROGRESS_GAP * n;
            assert_eq!(wait(n, now), Some(turn).filter(|turn| !turn.is_zero()));
            assert_eq!(wait(n, now + turn), None, "its turn is kept for it");
        }
        assert_eq!(throttle.wait((Kind::Tenant, &name(1000)), Some(3), Turn, now), None);
        // Whoever has said something else meanwhile waits for another turn, however often.
        for _ in 0..9 {
            throttle.wrote(Kind::Tenant, &name(7), Some(3), now);
            let turn = wait(7, now).unwrap();
            assert!(turn > PROGRESS_GAP * 999 && turn <= PROGRESS_GAP * 1001, "{turn:?}");
        }
    }

    #[test]
    fn a_model_that_is_on_its_way_has_a_minute_and_then_a_thousand_tenants_are_told_by_turns() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let name = |n: u32| Name::new("default", &format!("t{n}")).unwrap();
        let wait = |n, now| throttle.wait((Kind::Tenant, &name(n)), Some(3), Absence, now);
        for n in 0..1000 {
            assert_eq!(wait(n, now), Some(COMING_WAIT));
        }
        let over = now + COMING_WAIT;
        for n in 0..1000 {
            let turn = PROGRESS_GAP * n;
            assert_eq!(wait(n, over), Some(turn).filter(|turn| !turn.is_zero()));
            assert_eq!(wait(n, over + turn), None, "its turn is kept for it");
        }
        let turn = throttle.wait((Kind::Tenant, &name(1000)), Some(3), Turn, over);
        assert_eq!(turn, None, "what somebody has to mend is told at once");
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
