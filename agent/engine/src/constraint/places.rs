//! How many answers keep to constraints at once; how many have hooks, and what is kept of the cache,
//! is counted here too.
//!
//! What grammars take is bounded for each answer, and is no part of the memory that a model is
//! promised when it is loaded: so the answers that may take it are counted, from the constraint
//! that waits to be compiled to the last mask that is computed for nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::{name::TenantName, refusal::Refusal};

use crate::turns::Limits;
use crate::{load::RUNNING_MAX, scheduler::BUSY_RETRY_MS};

/// As many as run at once, and for a tenant as many as it has calls where nobody says otherwise.
///
/// An answer takes nine mebibytes at worst, and a few hundred kilobytes where its constraint is what
/// people write: 576 MiB at worst for an engine, and 144 MiB for a tenant. Beside them there are the
/// grammars that are kept for other answers, two that are being compiled, at 64 MiB each, and the
/// tree of the vocabulary, some fifty.
pub(crate) const PLACES_MAX: Limits = Limits { all: RUNNING_MAX, of_tenant: 16 };

/// The places of one engine for one thing.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    /// How many each tenant has, if any.
    taken: Mutex<HashMap<TenantName, usize>>,
}

/// A place of a tenant's, or several, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantName,
    count: usize,
}

impl Places {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, taken: Mutex::default() }
    }

    /// Takes a place, if there is one left for the tenant.
    pub(crate) fn take(self: &Arc<Self>, tenant: &TenantName) -> Result<Place, Refusal> {
        self.take_many(tenant, 1, self.limits.of_tenant)
    }

    /// Takes `count` places, if the tenant then has `of_tenant` at most, whatever others may have.
    pub(crate) fn take_many(
        self: &Arc<Self>,
        tenant: &TenantName,
        count: usize,
        of_tenant: usize,
    ) -> Result<Place, Refusal> {
        let mut taken = self.taken();
        let (all, own) = (taken.values().sum::<usize>(), taken.get(tenant).copied().unwrap_or(0));
        let fits = |had: usize, max: usize| had.saturating_add(count) <= max;
        if !fits(all, self.limits.all) || !fits(own, of_tenant) {
            return Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        taken.insert(tenant.clone(), own + count);
        Ok(Place { places: self.clone(), tenant: tenant.clone(), count })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<TenantName, usize>> {
        // One number changes at a time.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(crate) const fn tenant(&self) -> &TenantName {
        &self.tenant
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.tenant) {
            *own -= self.count;
            if *own == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    #[test]
    fn no_tenant_has_more_places_than_its_own_and_all_have_no_more_than_there_are() {
        let places = Arc::new(Places::new(PLACES_MAX));
        let busy = Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS });
        let mut taken = Vec::new();
        for number in 0..PLACES_MAX.all / PLACES_MAX.of_tenant {
            let tenant = tenant(&format!("t{number}"));
            taken.extend((0..PLACES_MAX.of_tenant).map(|_| places.take(&tenant).unwrap()));
            assert_eq!(places.take(&tenant).map(drop), busy, "its own are taken");
        }
        assert_eq!(taken.len(), PLACES_MAX.all);
        assert_eq!(places.take(&tenant("late")).map(drop), busy, "all are taken");

        taken.pop();
        taken.push(places.take(&tenant("late")).unwrap());
        taken.clear();
        assert!(places.taken().is_empty(), "names of tenants that have none are kept for nobody");
    }

    #[test]
    fn several_places_are_taken_together_or_none() {
        let places = Arc::new(Places::new(Limits { all: 10, of_tenant: 0 }));
        let busy = Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS });
        let (one, other) = (tenant("one"), tenant("other"));
        let three = places.take_many(&one, 3, 4).unwrap();
        assert_eq!(places.take_many(&one, 2, 4).map(drop), busy);
        let four = places.take_many(&one, 1, 4).unwrap();
        assert_eq!(places.take_many(&other, 7, 8).map(drop), busy, "all are ten");
        drop(three);
        let rest = places.take_many(&other, 8, 8).unwrap();
        drop((four, rest));
        assert!(places.taken().is_empty());
    }
}
