//! By what this door spends: the slices that are leased to it, or an even part without any; and what
//! it tells of that, and of what tenants have come up against here.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    desired::Desired,
    engine::Wait,
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
const TOLD_OWN_BLOCKS_FOR: Duration = Duration::from_mins(1);

/// For how long it is told that calls waited behind others. Where many share a model that comes and
/// goes, and not every time is worth a word.
const TOLD_BEHIND_FOR: Duration = Duration::from_mins(5);

/// Lets the limiter begin with what was leased last. Before the first call: a door that has been
/// started again does not know what it had let in.
pub(crate) fn begin(limiter: &Limiter, store: &SliceStore, desired: &Desired) {
    let now = Instant::now();
    if desired.generation > 0 {
        limiter.start_again(now);
    }
    limiter.divide(division(store.held(), desired), now);
}

/// Whose calls waited, and when that was seen last.
#[derive(Debug, Default)]
struct Waited {
    for_own_blocks: BTreeMap<TenantName, Instant>,
    behind_others: BTreeMap<TenantName, Instant>,
}

impl Waited {
    /// Takes in who waits now, and forgets who did long ago.
    fn see(&mut self, waits: Vec<(TenantName, Wait)>, now: Instant) {
        for (seen, told_for) in [
            (&mut self.for_own_blocks, TOLD_OWN_BLOCKS_FOR),
            (&mut self.behind_others, TOLD_BEHIND_FOR),
        ] {
            seen.retain(|_, last| now.saturating_duration_since(*last) < told_for);
        }
        for (tenant, wait) in waits {
            match wait {
                Wait::OwnBlocks => self.for_own_blocks.insert(tenant, now),
                Wait::Others => self.behind_others.insert(tenant, now),
            };
        }
    }

    fn tell(&self, spends: &mut Spends) {
        for tenant in self.for_own_blocks.keys() {
            spends.reached.entry(tenant.clone()).or_default().kv_blocks = true;
        }
        for tenant in self.behind_others.keys() {
            spends.reached.entry(tenant.clone()).or_default().behind_others = true;
        }
    }
}

/// Keeps the limiter to what is leased, and tells what is used of it and what tenants have come up
/// against, for as long as anybody hears.
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
        waited.see(engines.take_waits(), now);
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
    use realm_core::slices::Reached;

    use super::*;

    #[test]
    fn that_a_tenant_waited_is_told_for_a_while_and_for_what() {
        let (mut waited, now) = (Waited::default(), Instant::now());
        let name = |name| TenantName::new("default", name).unwrap();
        let (acme, zeta) = (name("acme"), name("zeta"));
        let told = |waited: &Waited| {
            let mut spends = Spends::default();
            waited.tell(&mut spends);
            spends.reached
        };
        assert!(told(&waited).is_empty());
        waited.see(vec![(acme.clone(), Wait::OwnBlocks), (zeta.clone(), Wait::Others)], now);
        let early = now + TOLD_OWN_BLOCKS_FOR.saturating_sub(Duration::from_secs(1));
        // It waits for one thing at one model, and for another at another.
        waited.see(vec![(acme.clone(), Wait::Others), (acme.clone(), Wait::Others)], early);
        let kept = Reached { kv_blocks: true, behind_others: true, ..Reached::default() };
        let behind = Reached { behind_others: true, ..Reached::default() };
        assert_eq!(told(&waited), [(acme.clone(), kept), (zeta.clone(), behind)].into());
        waited.see(Vec::new(), now + TOLD_OWN_BLOCKS_FOR);
        assert_eq!(told(&waited), [(acme.clone(), behind), (zeta, behind)].into());
        waited.see(Vec::new(), now + TOLD_BEHIND_FOR);
        assert_eq!(told(&waited), [(acme, behind)].into());
        waited.see(Vec::new(), early + TOLD_BEHIND_FOR);
        assert!(told(&waited).is_empty());
    }
}
