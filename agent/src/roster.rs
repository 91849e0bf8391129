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
    known: Mutex<BTreeMap<TenantName, Arc<DesiredTenant>>>,
    roster: watch::Sender<Arc<Roster>>,
    limiter: Limiter,
}

impl Tenants {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::default(),
            roster: watch::Sender::new(Arc::default()),
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
        self.change(|tenants| drop(tenants.insert(tenant.name.clone(), tenant)));
    }

    pub(crate) fn remove(&self, name: &TenantName) {
        self.change(|tenants| drop(tenants.remove(name)));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TenantName, Arc<DesiredTenant>>)) {
        let mut tenants = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut tenants);
        self.roster.send_replace(Arc::new(Roster::new(tenants.values().cloned())));
        self.limiter.retain(|name| tenants.contains_key(name));
    }
}
