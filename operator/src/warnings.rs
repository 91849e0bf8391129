//! Warnings that are put off while what they warn of may yet end by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

use crate::fleet::ages::ARRIVES_WITHIN;

/// What is to be warned of, by object: as many as there are objects. A leader that ends takes them
/// along; the conditions say the same.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<BTreeMap<(Kind, Name), Owed>>);

#[derive(Debug)]
struct Owed {
    reason: String,
    at: Instant,
}

/// What a warning that was put off has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// There is none, or no longer.
    Never,
    In(Duration),
    /// It is to be told, and is owed no more.
    Now,
}

impl Warnings {
    /// Owes a warning for `reason`, to be told unless that ends in time.
    pub(crate) fn put_off(&self, kind: Kind, name: &Name, reason: &str, now: Instant) {
        let owed = Owed { reason: reason.to_owned(), at: now + ARRIVES_WITHIN };
        self.lock().insert((kind, name.clone()), owed);
    }

    /// What is due of an object that is stuck for `stuck`, or is not.
    pub(crate) fn due(&self, kind: Kind, name: &Name, stuck: Option<&str>, now: Instant) -> Due {
        let mut all = self.lock();
        let object = (kind, name.clone());
        let Some(owed) = all.get(&object) else { return Due::Never };
        let is_so = stuck == Some(owed.reason.as_str());
        let wait = owed.at.saturating_duration_since(now);
        if is_so && !wait.is_zero() {
            return Due::In(wait);
        }
        all.remove(&object);
        if is_so { Due::Now } else { Due::Never }
    }

    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().remove(&(kind, name.clone()));
    }

    /// Forgets every object of the kind that is not among `names`.
    pub(crate) fn retain(&self, kind: Kind, names: &BTreeSet<Name>) {
        self.lock().retain(|(of, name), _| *of != kind || names.contains(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, Name), Owed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK: Option<&str> = Some("UnknownModel");

    fn owing(now: Instant) -> (Warnings, Name) {
        let (warnings, name) = (Warnings::default(), Name::new("default", "acme").unwrap());
        warnings.put_off(Kind::Tenant, &name, "UnknownModel", now);
        (warnings, name)
    }

    #[test]
    fn a_warning_that_was_put_off_is_told_once_if_what_it_warns_of_lasts() {
        let now = Instant::now();
        let (warnings, name) = owing(now);
        let due = |now| warnings.due(Kind::Tenant, &name, STUCK, now);
        assert_eq!(due(now), Due::In(ARRIVES_WITHIN));
        assert_eq!(due(now + ARRIVES_WITHIN), Due::Now);
        assert_eq!(due(now + ARRIVES_WITHIN), Due::Never);
    }

    #[test]
    fn nobody_is_warned_of_what_ended_or_became_something_else() {
        let now = Instant::now();
        for stuck in [None, Some("UnknownSecret")] {
            let (warnings, name) = owing(now);
            assert_eq!(warnings.due(Kind::Tenant, &name, stuck, now), Due::Never);
            let later = warnings.due(Kind::Tenant, &name, STUCK, now + ARRIVES_WITHIN);
            assert_eq!(later, Due::Never);
        }
        let (warnings, name) = owing(now);
        warnings.retain(Kind::Tenant, &BTreeSet::new());
        assert_eq!(warnings.due(Kind::Tenant, &name, STUCK, now + ARRIVES_WITHIN), Due::Never);
    }
}
