//! Which objects are so new that what they refer to may yet be on its way. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use realm_plan::{Kind, Name};
use tokio::time::Instant;

/// How long an object is young: the files of one `kubectl apply` come in any order within seconds,
/// and a person who makes a tenant makes its first key next.
pub(crate) const ARRIVES_WITHIN: Duration = Duration::from_mins(1);

type Object = (Kind, Name);

/// Since when objects are known, by the clock of this leader alone.
#[derive(Debug, Default)]
pub(super) struct Ages {
    known: BTreeSet<Object>,
    /// Until when each is young.
    young: BTreeMap<Object, Instant>,
}

impl Ages {
    /// Notes that an object was told of before this leader, and so is not young.
    pub(super) fn recall(&mut self, object: Object) {
        self.known.insert(object);
    }

    /// Notes an object that is there.
    pub(super) fn see(&mut self, object: Object, now: Instant) {
        if self.known.insert(object.clone()) {
            self.young.insert(object, now + ARRIVES_WITHIN);
        }
    }

    pub(super) fn forget(&mut self, object: &Object) {
        self.known.remove(object);
        self.young.remove(object);
    }

    /// Lets those grow up whose time has come.
    pub(super) fn pass(&mut self, now: Instant) {
        self.young.retain(|_, until| now < *until);
    }

    pub(super) fn is_young(&self, object: &Object) -> bool {
        self.young.contains_key(object)
    }

    /// When the next one is young no more.
    pub(super) fn due(&self) -> Option<Instant> {
        self.young.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Object {
        (Kind::Tenant, Name::new("default", name).unwrap())
    }

    #[test]
    fn an_object_is_young_for_a_minute_from_when_this_leader_first_saw_it() {
        let (mut ages, now) = (Ages::default(), Instant::now());
        ages.see(object("a"), now);
        ages.see(object("a"), now + ARRIVES_WITHIN / 2);
        assert_eq!(ages.due(), Some(now + ARRIVES_WITHIN), "another spec makes it no younger");
        assert!(ages.is_young(&object("a")));
        ages.pass(now + ARRIVES_WITHIN);
        assert!(!ages.is_young(&object("a")) && ages.due().is_none());
    }

    #[test]
    fn what_was_told_of_before_this_leader_is_not_young_and_another_of_its_name_is() {
        let (mut ages, now) = (Ages::default(), Instant::now());
        ages.recall(object("a"));
        ages.see(object("a"), now);
        assert!(!ages.is_young(&object("a")));
        ages.forget(&object("a"));
        ages.see(object("a"), now);
        assert!(ages.is_young(&object("a")));
    }
}
