//! Places counted by who takes them, so that nobody takes all there are.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many places each taker holds. Clones share the count.
///
/// There is an entry for a taker only while it holds a place, so there are never more than there
/// are connections.
#[derive(Clone, Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    each_max: usize,
}

/// One place of its taker's. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    taker: K,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(crate) fn new(each_max: usize) -> Self {
        Self { taken: Arc::default(), each_max }
    }

    /// A place for `taker`, unless it holds as many as it may.
    pub(crate) fn take(&self, taker: K) -> Option<Place<K>> {
        let mut taken = lock(&self.taken);
        match taken.entry(taker.clone()) {
            Entry::Occupied(entry) if *entry.get() >= self.each_max => return None,
            Entry::Occupied(mut entry) => *entry.get_mut() += 1,
            Entry::Vacant(entry) => drop(entry.insert(1)),
        }
        drop(taken);
        Some(Place { taken: self.taken.clone(), taker })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(places) = taken.get_mut(&self.taker) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                taken.remove(&self.taker);
            }
        }
    }
}

fn lock<K>(taken: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom an address counts for. Whoever has one IPv6 address has the 64 bits below its network.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_taker_finds_its_places_taken_while_another_has_its_own() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        let _other = places.take("b").unwrap();
        drop(first);
        assert!(places.take("a").is_some());
    }

    #[test]
    fn those_who_hold_no_place_are_forgotten() {
        let places = Places::new(2);
        drop((places.take("a"), places.take("a"), places.take("b")));
        assert!(lock(&places.taken).is_empty());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_a_mapped_ipv4_address_as_itself() {
        let check = |one: &str, other: &str, same: bool| {
            let [one, other] = [one, other].map(|text| neighbourhood(text.parse().unwrap()));
            assert_eq!(one == other, same, "{one} {other}");
        };
        check("2001:db8::1", "2001:db8::ffff:0:0:2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("::ffff:192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
    }
}
