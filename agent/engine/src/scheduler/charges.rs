//! What is charged for a step and for the time until the next one, and whom that is for.

use std::time::{Duration, Instant};

use realm_core::{
    books::{Divider, nanoseconds},
    name::TenantName,
};

use super::{
    Scheduler,
    cost::{Cost, Prices, Service},
    sequence::Running,
};
use crate::{batch::SequenceId, kv::HeldTimes};

/// Steps after which the prices are fitted anew: a second or two of a busy engine, and no work
/// against that of a step.
pub(super) const REFIT_STEPS: u32 = 64;

/// Memory to charge in, so that a step allocates nothing for it.
#[derive(Debug, Default)]
pub(super) struct Charging {
    /// The running sequences and kept prefixes with how many blocks they hold, in the order of their
    /// tenants.
    own: Vec<(TenantName, SequenceId, u64)>,
    /// How many blocks each of one tenant holds.
    blocks: Vec<u64>,
    times: HeldTimes,
    divider: Divider,
}

impl Scheduler {
    /// Charges for the blocks that were held since the last time.
    pub(crate) fn charge_blocks(&mut self, now: Instant) {
        let before = self.charged_at.unwrap_or(now);
        // A block is of one band and takes that part of the time of one of all layers, so time is
        // charged in steps of as many nanoseconds as there are bands.
        let bands = self.pool.layout().bands() as u64;
        let ns = nanoseconds(now.saturating_duration_since(before)) / bands;
        self.charged_at = Some(before + Duration::from_nanos(ns * bands));
        self.totals.block_ns += u128::from(ns) * self.pool.paid() as u128;
        self.held.clear();
        let Charging { own, blocks, times, divider } = &mut self.charging;
        own.clear();
        own.extend(self.running.values().map(|Running { sequence, table, .. }| {
            (sequence.owner.tenant.clone(), sequence.id, table.held_count())
        }));
        let kept = self.kept.iter();
        own.extend(kept.map(|(id, pin)| (pin.tenant().clone(), *id, pin.len() as u64)));
        own.sort_unstable();
        let total = self.pool.in_all_layers();
        // What members of a group use together is divided among them first.
        self.pool.held_in(ns, times);
        for of_tenant in own.chunk_by(|a, b| a.0 == b.0) {
            let Some((tenant, ..)) = of_tenant.first() else { continue };
            let held = Service::holding(times.of(tenant));
            self.share.charge(tenant, self.prices.cost(held, total));
            blocks.clear();
            blocks.extend(of_tenant.iter().map(|(_, _, blocks)| *blocks));
            // A block that several of the tenant's sequences use, or that is kept beside, is held once.
            let pieces = divider.divide(held.block_ns, blocks).iter().copied();
            self.held.extend(of_tenant.iter().map(|(_, id, _)| *id).zip(pieces));
        }
    }

    /// How long each sequence or prefix held blocks, in nanoseconds, until they were last charged for and
    /// since the time before.
    pub(crate) fn held_blocks(&self) -> &[(SequenceId, u64)] {
        &self.held
    }

    /// Charges for how long a hook of the tenant's has had a processor.
    pub(crate) fn charge_hook(&mut self, tenant: &TenantName, worked: Duration) {
        let total = self.pool.in_all_layers();
        let cost = self.prices.cost(Service::hooks(nanoseconds(worked)), total);
        self.share.charge(tenant, cost);
    }

    /// Charges what a step costs whatever is in it to all sequences that are in it alike, and so what
    /// each adapter costs in it to those that have it.
    pub(super) fn charge_step(&mut self) {
        let planned = || self.running.values().filter(|running| running.planned > 0);
        let Prices { step, adapter_pair, .. } = self.prices;
        let of_step = step.part(planned().count());
        let total = self.pool.in_all_layers();
        self.step.adapter_pairs = self.adapters.pairs();
        for running in planned() {
            let mut part = self.adapters.part(running.sequence.owner.adapter, adapter_pair);
            part += of_step;
            self.share.charge(&running.sequence.owner.tenant, part);
            self.step += running.service;
            let mut cost = self.prices.cost(running.service, total);
            cost += part;
            self.costs.push((running.sequence.id, cost));
        }
    }

    /// Takes note of how long the planned step took.
    pub(crate) fn observe(&mut self, took: Duration) {
        if self.step == Service::default() {
            return;
        }
        self.fit.observe(self.step, took);
        self.measured += 1;
        if self.measured >= REFIT_STEPS {
            self.measured = 0;
            self.prices = self.fit.prices();
        }
    }

    /// What is computed in the planned step; nothing where it is one of texts.
    pub(crate) const fn step(&self) -> Service {
        self.step
    }

    /// What each sequence or call costs that the planned step has something of, by which the time
    /// is divided that the step turns out to take. A call is there once for each of its texts.
    pub(crate) fn costs(&self) -> &[(SequenceId, Cost)] {
        &self.costs
    }
}
