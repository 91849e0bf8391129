//! What is charged for a step and for the time until the next one, and whom that is for.

use std::{collections::BTreeMap, time::Instant};

use realm_core::{
    books::{divide, nanoseconds},
    name::TenantName,
};

use super::{
    Scheduler,
    cost::{Cost, Service},
};
use crate::batch::SequenceId;

impl Scheduler {
    /// Charges for the blocks that were held since the last time.
    pub(crate) fn charge_blocks(&mut self, now: Instant) {
        let before = self.charged_at.replace(now).unwrap_or(now);
        let ns = nanoseconds(now.saturating_duration_since(before));
        self.totals.block_ns += u128::from(ns) * self.pool.used() as u128;
        self.held.clear();
        let mut own = BTreeMap::<&TenantName, (Vec<SequenceId>, Vec<u64>)>::new();
        for running in self.running.values() {
            let (ids, blocks) = own.entry(&running.sequence.owner.tenant).or_default();
            ids.push(running.sequence.id);
            blocks.push(running.table.held_count());
        }
        let total = self.pool.total();
        // What members of a group use together is divided among them first.
        let held_in = self.pool.held_in(ns);
        for (tenant, (ids, blocks)) in own {
            let held = Service::holding(held_in.get(tenant).copied().unwrap_or(0));
            self.share.charge(tenant, self.prices.cost(held, total));
            // A block that several of the tenant's sequences use is held once.
            self.held.extend(ids.into_iter().zip(divide(held.block_ns, &blocks)));
        }
    }

    /// How long each sequence held blocks, in nanoseconds, until they were last charged for and
    /// since the time before.
    pub(crate) fn held_blocks(&self) -> &[(SequenceId, u64)] {
        &self.held
    }

    /// Charges what a step costs whatever is in it to all sequences that are in it alike.
    pub(super) fn charge_step(&mut self) {
        let planned = || self.running.values().filter(|running| running.planned > 0);
        let part = self.prices.step.part(planned().count());
        let total = self.pool.total();
        for running in planned() {
            self.share.charge(&running.sequence.owner.tenant, part);
            self.step += running.service;
            let mut cost = self.prices.cost(running.service, total);
            cost += part;
            self.costs.push((running.sequence.id, cost));
        }
    }

    /// What each sequence or call costs that the planned step has something of, by which the time
    /// is divided that the step turns out to take. A call is there once for each of its texts.
    pub(crate) fn costs(&self) -> &[(SequenceId, Cost)] {
        &self.costs
    }
}
