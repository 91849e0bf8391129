//! By what this door spends: the slices that are leased to it, or an even part without any; and what
//! it tells of that, and of what tenants have come up against here.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    desired::{Desired, DesiredTenant, Priority},
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

/// What a tenant waits by: what was under other terms says nothing of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    weight: u32,
    priority: Priority,
    kv_blocks_max: u32,
}

impl Terms {
    fn of(tenant: &DesiredTenant) -> Self {
        let DesiredTenant { weight, priority, limits, .. } = tenant;
        let (weight, priority) = (*weight, *priority);
        Self { weight, priority, kv_blocks_max: limits.kv_blocks_max }
    }

    /// By what its turn comes.
    const fn turn(self) -> (u32, Priority) {
        (self.weight, self.priority)
    }
}

/// Whose calls waited, and when that was seen last.
#[derive(Debug, Default)]
struct Waited {
    /// Of all tenants that there are.
    terms: BTreeMap<TenantName, Terms>,
    for_own_blocks: BTreeMap<TenantName, Instant>,
    behind_others: BTreeMap<TenantName, Instant>,
}

impl Waited {
    /// Forgets who is gone, and whose terms are others than when it waited.
    fn hold_to(&mut self, terms: BTreeMap<TenantName, Terms>) {
        let both = |tenant: &TenantName| terms.get(tenant).zip(self.terms.get(tenant));
        self.for_own_blocks.retain(|tenant, _| {
            both(tenant).is_some_and(|(now, before)| now.kv_blocks_max == before.kv_blocks_max)
        });
        self.behind_others.retain(|tenant, _| {
            both(tenant).is_some_and(|(now, before)| now.turn() == before.turn())
        });
        self.terms = terms;
    }

    /// Takes in who waits now, and forgets who did long ago.
    fn see(&mut self, waits: Vec<(TenantName, Wait)>, now: Instant) {
        for (seen, told_for) in [
            (&mut self.for_own_blocks, TOLD_OWN_BLOCKS_FOR),
            (&mut self.behind_others, TOLD_BEHIND_FOR),
        ] {
            seen.retain(|_, last| now.saturating_duration_since(*last) < told_for);
        }
        let waits = waits.into_iter().filter(|(tenant, _)| self.terms.contains_key(tenant));
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
    let (mut waited, mut seen) = (Waited::default(), None::<Arc<Desired>>);
    while !spends.is_closed() {
        let now = Instant::now();
        // By the terms that held until now.
        waited.see(engines.take_waits(), now);
        let newest = desired.borrow_and_update().clone();
        if seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &newest)) {
            waited.hold_to(terms(&newest));
            seen = Some(newest.clone());
        }
        let next = division(held.borrow_and_update().clone(), &newest);
        if last.as_ref() != Some(&next) {
            limiter.divide(next.clone(), now);
            last = Some(next);
        }
        let mut used = limiter.spends(now);
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

fn terms(desired: &Desired) -> BTreeMap<TenantName, Terms> {
    desired.tenants.iter().map(|tenant| (tenant.name.clone(), Terms::of(tenant))).collect()
}

fn division(held: Option<Arc<Slices>>, desired: &Desired) -> Division {
    match held {
        Some(slices) => Division::Sliced(slices),
        None => Division::Even { doors: desired.doors },
    }
}

#[cfg(test)]
mod tests {
    use realm_core::slices::{Each, Reached};

    use super::*;

    fn name(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    const TERMS: Terms = Terms { weight: 1, priority: Priority::Normal, kv_blocks_max: 8 };

    fn tenants(terms: &[(&str, Terms)]) -> BTreeMap<TenantName, Terms> {
        terms.iter().map(|(tenant, terms)| (name(tenant), *terms)).collect()
    }

    fn told(waited: &Waited) -> BTreeMap<TenantName, Reached> {
        let mut spends = Spends::default();
        waited.tell(&mut spends);
        spends.reached
    }

    const BEHIND: Reached = Reached {
        refused: Each { requests: false, input_tokens: false, output_tokens: false, calls: false },
        kv_blocks: false,
        behind_others: true,
    };

    #[test]
    fn that_a_tenant_waited_is_told_for_a_while_and_for_what() {
        let (mut waited, now) = (Waited::default(), Instant::now());
        let (acme, zeta) = (name("acme"), name("zeta"));
        waited.hold_to(tenants(&[("acme", TERMS), ("zeta", TERMS)]));
        assert!(told(&waited).is_empty());
        waited.see(vec![(acme.clone(), Wait::OwnBlocks), (zeta.clone(), Wait::Others)], now);
        let early = now + TOLD_OWN_BLOCKS_FOR.saturating_sub(Duration::from_secs(1));
        // It waits for one thing at one model, and for another at another.
        waited.see(vec![(acme.clone(), Wait::Others), (acme.clone(), Wait::Others)], early);
        let both = Reached { kv_blocks: true, ..BEHIND };
        assert_eq!(told(&waited), [(acme.clone(), both), (zeta.clone(), BEHIND)].into());
        waited.see(Vec::new(), now + TOLD_OWN_BLOCKS_FOR);
        assert_eq!(told(&waited), [(acme.clone(), BEHIND), (zeta, BEHIND)].into());
        waited.see(Vec::new(), now + TOLD_BEHIND_FOR);
        assert_eq!(told(&waited), [(acme, BEHIND)].into());
        waited.see(Vec::new(), early + TOLD_BEHIND_FOR);
        assert!(told(&waited).is_empty());
    }

    #[test]
    fn who_waited_by_other_terms_or_is_gone_is_not_told_of() {
        let (mut waited, now) = (Waited::default(), Instant::now());
        let before = ["same", "raised", "wider", "gone"].map(|tenant| (tenant, TERMS));
        waited.hold_to(tenants(&before));
        let all = ["same", "raised", "wider", "gone", "never"].map(name);
        let waits = [Wait::Others, Wait::OwnBlocks];
        let of = |tenant: &TenantName| waits.map(|wait| (tenant.clone(), wait));
        waited.see(all.iter().flat_map(of).collect(), now);
        waited.hold_to(tenants(&[
            ("same", TERMS),
            ("raised", Terms { weight: 2, ..TERMS }),
            ("wider", Terms { kv_blocks_max: 9, ..TERMS }),
        ]));
        let both = Reached { kv_blocks: true, ..BEHIND };
        let own_blocks = Reached { behind_others: false, ..both };
        let expected = [("raised", own_blocks), ("same", both), ("wider", BEHIND)];
        assert_eq!(told(&waited), expected.map(|(tenant, reached)| (name(tenant), reached)).into());
    }
}
