//! Whose keys open the door: the one owner of the snapshot that every connection reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use realm_core::{auth::Roster, desired::DesiredTenant, limit::Limiter, name::TenantName};
use tokio::sync::watch;

/// The tenants that may call now.
#[derive(Debug)]
pub(crate) struct Tenants {
    /// The lock is held over the publication too, so that snapshots appear in order.
    known: Mutex<Known>,
    roster: watch::Sender<Arc<Roster>>,
    limiter: Limiter,
}

#[derive(Debug, Default)]
struct Known {
    tenants: BTreeMap<TenantName, Arc<DesiredTenant>>,
    /// Whether every tenant that there was at the start has been tried.
    is_all: bool,
}

impl Tenants {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::default(),
            roster: watch::Sender::new(Arc::new(Roster::partial([]))),
            limiter: Limiter::default(),
        }
    }

    pub(crate) fn limiter(&self) -> Limiter {
        self.limiter.clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    pub(crate) fn put(&self, tenant: Arc<DesiredTenant>) {
        self.change(|known| drop(known.tenants.insert(tenant.name.clone(), tenant)));
    }

    pub(crate) fn remove(&self, name: &TenantName) {
        self.change(|known| drop(known.tenants.remove(name)));
    }

    /// Whether the tenant may be one of those at the start that have not been tried.
    pub(crate) fn is_yet_to_come(&self, name: &TenantName) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !known.is_all && !known.tenants.contains_key(name)
    }

    pub(crate) fn knows(&self, name: &TenantName) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.tenants.contains_key(name)
    }

    /// From now on a key of none of these tenants is a wrong one.
    pub(crate) fn are_all(&self) {
        self.change(|known| known.is_all = true);
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        let tenants = known.tenants.values().cloned();
        let roster = if known.is_all { Roster::new(tenants) } else { Roster::partial(tenants) };
        self.roster.send_replace(Arc::new(roster));
        self.limiter.retain(|name| known.tenants.contains_key(name));
    }
}

#[cfg(test)]
mod tests {
    use realm_core::{
        auth::{self, Credential},
        refusal::Refusal,
    };

    use super::*;
    use crate::residents::tests::tenant;

    #[test]
    fn every_tenant_is_yet_to_come_until_it_has_been_put_or_all_have_been_tried() {
        let (tenants, acme, zeta) = (Tenants::new(), tenant("acme"), tenant("zeta"));
        assert!(tenants.is_yet_to_come(&acme.name));
        tenants.put(acme.clone());
        assert!(!tenants.is_yet_to_come(&acme.name), "a change of it takes effect at once");
        assert!(tenants.is_yet_to_come(&zeta.name));
        tenants.are_all();
        assert!(!tenants.is_yet_to_come(&zeta.name), "it is new, and nobody waits for it");
    }

    #[test]
    fn an_unknown_key_is_a_wrong_one_once_all_tenants_have_been_tried() {
        let tenants = Tenants::new();
        let verify = || auth::verify(&tenants.subscribe().borrow(), Credential::of("key"), 0);
        assert_eq!(verify().err(), Some(Refusal::Starting));
        tenants.are_all();
        assert_eq!(verify().err(), Some(Refusal::Unauthenticated));
        tenants.put(tenant("acme"));
        assert!(verify().is_ok());
    }
}
