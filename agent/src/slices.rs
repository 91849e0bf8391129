//! By what this door spends: the slices that are leased to it, or an even part without any; and what
//! it tells of that, and of the limits that tenants have reached here.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    desired::Desired,
    limit::Limiter,
    name::TenantName,
    slices::{Division, Slices, Spends},
};
use realm_link::slices::SliceStore;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::metrics::Engines;

/// How often it is told what tenants use: the operator divides every five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// For how long it is told that sequences waited for blocks: as long as of calls that were refused.
const WAITED_FOR: Duration = Duration::from_mins(1);

/// Lets the limiter begin with what was leased last. Before the first call: a door that has been
/// started again does not know what it had let in.
pub(crate) fn begin(limiter: &Limiter, store: &SliceStore, desired: &Desired) {
    let now = Instant::now();
    if desired.generation > 0 {
        limiter.start_again(now);
    }
    limiter.divide(division(store.held(), desired), now);
}

/// Whose sequences waited for blocks that their own tenant holds, and when they were seen last.
#[derive(Debug, Default)]
struct Waited(BTreeMap<TenantName, Instant>);

impl Waited {
    /// Takes in who waits now, and forgets who did a minute ago.
    fn see(&mut self, waiting: impl Iterator<Item = TenantName>, now: Instant) {
        self.0.retain(|_, last| now.saturating_duration_since(*last) < WAITED_FOR);
        self.0.extend(waiting.map(|tenant| (tenant, now)));
    }

    fn tell(&self, spends: &mut Spends) {
        for tenant in self.0.keys() {
            spends.reached.entry(tenant.clone()).or_default().kv_blocks = true;
        }
    }
}

/// Keeps the limiter to what is leased, and tells what is used of it and which limits are reached,
/// for as long as anybody hears.
pub(crate) async fn follow(
    (limiter, engines): (Limiter, Engines),
    store: SliceStore,
    mut desired: watch::Receiver<Arc<Desired>>,
    spends: watch::Sender<Spends>,
) {
    let mut held = store.subscribe();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    let mut waited = Waited::default();
    while !spends.is_closed() {
        let next = {
            let held = held.borrow_and_update().clone();
            division(held, &desired.borrow_and_update())
        };
        let now = Instant::now();
        if last.as_ref() != Some(&next) {
            limiter.divide(next.clone(), now);
            last = Some(next);
        }
        let mut used = limiter.spends(now);
        waited.see(engines.waiting_for_own_blocks().into_iter(), now);
        waited.tell(&mut used);
        spends.send_if_modified(|last| {
            let is_new = *last != used;
            *last = used;
            is_new
        });
        tokio::select! {
            _ = look.tick() => {}
            Ok(()) = held.changed() => {}
            Ok(()) = desired.changed() => {}
        }
    }
}

fn division(held: Option<Arc<Slices>>, desired: &Desired) -> Division {
    match held {
        Some(slices) => Division::Sliced(slices),
        None => Division::Even { doors: desired.doors },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_tenant_waited_for_its_own_blocks_is_told_for_a_minute() {
        let (mut waited, now) = (Waited::default(), Instant::now());
        let acme = TenantName::new("default", "acme").unwrap();
        let told = |waited: &Waited| {
            let mut spends = Spends::default();
            waited.tell(&mut spends);
            spends.reached.get(&acme).is_some_and(|reached| reached.kv_blocks)
        };
        assert!(!told(&waited));
        waited.see([acme.clone()].into_iter(), now);
        let early = now + WAITED_FOR.saturating_sub(Duration::from_secs(1));
        waited.see([].into_iter(), early);
        assert!(told(&waited));
        waited.see([].into_iter(), now + WAITED_FOR);
        assert!(!told(&waited));
    }
}
