//! Calls that wait at the door for a model to be loaded somewhere.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use realm_core::{
    name::{ModelName, TenantName},
    refusal::Refusal,
};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};
use tokio::sync::watch;

/// Calls held at once. Each keeps its parameters, a message of 1 MiB at most.
const HELD_MAX: usize = 128;

/// Calls of one tenant held at once: three quarters stay for others, whoever wakes what.
const HELD_PER_TENANT_MAX: usize = HELD_MAX / 4;

/// What a client should wait when no more calls are held: those that are go within a minute, and
/// most within the seconds that a model takes to load.
const HELD_RETRY_MS: u64 = 5000;

/// The calls that wait here. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<State>);

#[derive(Debug, Default)]
struct State {
    tenants: Mutex<HashMap<TenantName, usize>>,
    models: watch::Sender<BTreeMap<ModelName, u32>>,
}

impl Hold {
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<ModelName, u32>> {
        self.0.models.subscribe()
    }

    /// A place to wait in for `model`, given back when it is dropped.
    pub(super) fn take(&self, tenant: &TenantName, model: &ModelName) -> Result<Held, Refusal> {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tenants.get(tenant).copied().unwrap_or(0);
        if own >= HELD_PER_TENANT_MAX || tenants.values().sum::<usize>() >= HELD_MAX {
            return Err(Refusal::Busy { retry_after_ms: HELD_RETRY_MS });
        }
        tenants.insert(tenant.clone(), own.saturating_add(1));
        drop(tenants);
        self.0.models.send_modify(|models| {
            let count = models.entry(model.clone()).or_default();
            *count = count.saturating_add(1);
        });
        Ok(Held { hold: self.clone(), tenant: tenant.clone(), model: model.clone() })
    }

    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let family = Family {
            name: "realm_relay_calls_held",
            help: "Calls that wait at this door for a model that nobody serves yet.",
            kind: FamilyKind::Gauge,
            labels: &["model"],
        };
        let held = self.subscribe();
        let read = move || {
            let held = held.borrow();
            let sample = |(model, calls): (&ModelName, &u32)| {
                Sample::new([model.to_string()], f64::from(*calls))
            };
            held.iter().map(sample).collect()
        };
        metrics.register(family, read)
    }
}

/// One call's place. Not `Clone`: one call, one place.
#[derive(Debug)]
pub(super) struct Held {
    hold: Hold,
    tenant: TenantName,
    model: ModelName,
}

impl Drop for Held {
    fn drop(&mut self) {
        let State { tenants, models } = &*self.hold.0;
        let mut tenants = tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = tenants.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                tenants.remove(&self.tenant);
            }
        }
        drop(tenants);
        models.send_modify(|models| {
            if let Some(count) = models.get_mut(&self.model) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    models.remove(&self.model);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::look::tests::name;

    fn tenant(index: usize) -> TenantName {
        TenantName::new("default", &format!("t{index}")).unwrap()
    }

    #[test]
    fn what_waits_is_told_by_model_while_it_waits() {
        let hold = Hold::default();
        let told = hold.subscribe();
        let one = hold.take(&tenant(0), &name("a")).unwrap();
        let two = hold.take(&tenant(1), &name("a")).unwrap();
        assert_eq!(*told.borrow(), BTreeMap::from([(name("a"), 2)]));
        drop((one, two));
        assert!(told.borrow().is_empty());
        assert!(hold.0.tenants.lock().unwrap().is_empty());
    }

    #[test]
    fn one_tenant_cannot_take_the_places_of_all() {
        let hold = Hold::default();
        let take = |index| hold.take(&tenant(index), &name("a"));
        let own: Vec<_> = (0..HELD_PER_TENANT_MAX).map(|_| take(0).unwrap()).collect();
        assert_eq!(take(0).unwrap_err(), Refusal::Busy { retry_after_ms: HELD_RETRY_MS });
        take(1).unwrap();
        drop(own);
        take(0).unwrap();
    }

    #[test]
    fn no_more_calls_wait_than_there_are_places() {
        let hold = Hold::default();
        let places: Vec<_> =
            (0..HELD_MAX).map(|index| hold.take(&tenant(index), &name("a")).unwrap()).collect();
        hold.take(&tenant(HELD_MAX), &name("b")).unwrap_err();
        drop(places);
        hold.take(&tenant(HELD_MAX), &name("b")).unwrap();
    }
}
