//! Looking things up in many sorted maps along one sorted list of names.
//!
//! A thousand tenants at a hundred doors are a hundred thousand looks, each of which would go down
//! a tree of strings; along the list each map is read once.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    iter::Peekable,
};

use super::{CALLS, Door, Each, Kind, Slices, Use, most};
use crate::name::Name;

/// A map that is asked for names in ascending order, the same one as often as one likes.
#[derive(Debug)]
pub(super) struct Along<'a, K, V> {
    rest: Peekable<btree_map::Iter<'a, K, V>>,
}

impl<'a, K: Ord, V> Along<'a, K, V> {
    pub(super) fn new(map: &'a BTreeMap<K, V>) -> Self {
        Self { rest: map.iter().peekable() }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&'a V> {
        while self.rest.next_if(|(next, _)| *next < key).is_some() {}
        self.rest.peek().filter(|(next, _)| *next == key).map(|(_, value)| *value)
    }
}

/// Slices, along names of tenants.
#[derive(Debug)]
pub(super) struct AlongSlices<'a> {
    share: u32,
    tenants: Along<'a, Name, Each<u32>>,
}

impl<'a> AlongSlices<'a> {
    pub(super) fn new(slices: &'a Slices) -> Self {
        Self { share: slices.share, tenants: Along::new(&slices.tenants) }
    }

    pub(super) fn of(&mut self, tenant: &Name) -> Each<u32> {
        self.tenants.get(tenant).copied().unwrap_or([self.share; 4])
    }
}

/// What a door has and uses, along names of tenants.
#[derive(Debug)]
pub(super) struct AlongDoor<'a> {
    held: Option<AlongSlices<'a>>,
    left: Option<AlongSlices<'a>>,
    spends: Along<'a, Name, Use>,
    /// Of every limit, where it is of an older release.
    even: Option<u32>,
}

impl Door {
    /// `even` is what a door of an older release takes.
    pub(super) fn along(&self, even: u32) -> AlongDoor<'_> {
        let (held, even) = match &self.kind {
            Kind::Unheard => (None, None),
            Kind::Even => (None, Some(even)),
            Kind::Sliced { held, .. } => (Some(AlongSlices::new(held)), None),
        };
        AlongDoor {
            held,
            left: self.unanswered().map(|left| AlongSlices::new(left)),
            spends: Along::new(&self.spends.tenants),
            even,
        }
    }
}

impl AlongDoor<'_> {
    /// The most that it may spend of a tenant's limits.
    pub(super) fn parts(&mut self, tenant: &Name) -> Each<u32> {
        let left = self.left.as_mut().map_or([0; 4], |left| left.of(tenant));
        let mut parts = most(self.held(tenant), left);
        parts[CALLS] = parts[CALLS].max(self.uses(tenant).calls_over);
        parts
    }

    /// What it spends by now.
    pub(super) fn held(&mut self, tenant: &Name) -> Each<u32> {
        let even = [self.even.unwrap_or(0); 4];
        self.held.as_mut().map_or(even, |held| held.of(tenant))
    }

    pub(super) fn uses(&mut self, tenant: &Name) -> Use {
        self.spends.get(tenant).copied().unwrap_or_default()
    }
}

/// The most that all of these doors may spend of a tenant's limits.
pub(super) fn sum_of_parts<'a, 'b: 'a>(
    doors: impl Iterator<Item = &'a mut AlongDoor<'b>>,
    tenant: &Name,
) -> Each<u32> {
    doors.map(|door| door.parts(tenant)).fold([0; 4], |all: Each<u32>, parts| {
        std::array::from_fn(|limit| all[limit].saturating_add(parts[limit]))
    })
}

/// Adds `names`, which come in ascending order, and most of which are there.
pub(super) fn join<'a>(all: &mut BTreeSet<&'a Name>, names: impl Iterator<Item = &'a Name>) {
    let mut known = all.iter().copied().peekable();
    let is_new = |name: &&Name| {
        while known.next_if(|known| known < name).is_some() {}
        known.peek() != Some(name)
    };
    let new: Vec<&Name> = names.filter(is_new).collect();
    all.extend(new);
}
