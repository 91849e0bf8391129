//! How long a step takes in which somebody waits for the next token of an answer.

use std::cmp::Reverse;

use realm_core::{desired::Priority, name::TenantName};

use super::{
    PREFILL_PAST, Scheduler,
    cost::{Cost, Service},
    sequence::{Running, Sequence},
    share::Terms,
};
use crate::batch::SequenceId;

/// How long a step may take in which anybody decodes, unless decoding itself takes two thirds of it
/// or more: whoever reads an answer waits for each token as long as the step takes that it comes of,
/// and it matters more to readers that steps are alike than that they are long.
pub(super) const STEP_TARGET: Cost = Cost::from_millis(60);
/// How long decoding may take when several tenants do. Where it would take longer, those that have
/// most to decode have it in turns, so that a step takes a quarter more at the most than one in which
/// each has as much as the one that has least.
pub(super) const DECODE_TARGET: Cost = Cost::from_millis(30);
/// How much more than its part a tenant may have had before its answers wait a step for a prompt
/// that lacked time in the last one. So the target costs shares nothing that lasts. Never two steps
/// in a row, however far ahead it is: a pause of one is not felt.
pub(super) const LEAD_MAX: Cost = Cost::from_millis(250);

/// Who gets its next token in a step, and memory to choose them in.
#[derive(Debug, Default)]
pub(super) struct Decoding {
    /// By tenant, and of each those first that have waited longest.
    ready: Vec<Ready>,
    tenants: Vec<OfTenant>,
    chosen: Vec<SequenceId>,
}

/// A sequence that lacks nothing but its turn.
#[derive(Debug)]
struct Ready {
    tenant: TenantName,
    turn: u64,
    id: SequenceId,
    cost: Cost,
}

/// What one tenant could decode.
#[derive(Debug)]
struct OfTenant {
    terms: Terms,
    /// What the tenant has had until now, for its weight.
    served: u128,
    /// Which of `ready` are its next and its last.
    next: usize,
    end: usize,
    /// What all of them cost, and those that were chosen.
    all: Cost,
    had: Cost,
}

impl OfTenant {
    const fn class(&self) -> Reverse<Priority> {
        Reverse(self.terms.priority)
    }

    /// Where its next sequence comes among those of all.
    fn turn(&self) -> (Reverse<Priority>, u128) {
        (self.class(), self.served.saturating_add(self.terms.divide(self.had)))
    }
}

impl Decoding {
    /// In the order of their turns.
    pub(super) fn chosen(&mut self) -> impl Iterator<Item = SequenceId> {
        self.chosen.drain(..)
    }

    /// Chooses among what is ready, in a step that takes `step` whatever is in it.
    fn choose(&mut self, step: Cost) {
        let mut left = self.longest(step).without(step);
        let Self { ready, tenants, chosen } = self;
        let waiting = |of: &&mut OfTenant| of.next < of.end;
        while let Some(next) = tenants.iter_mut().filter(waiting).min_by_key(|of| of.turn()) {
            let Some(row) = ready.get(next.next) else { return };
            // One of each, whatever there is time for: nobody waits for ever.
            if next.had > Cost::default() && left < row.cost {
                next.next = next.end;
                continue;
            }
            chosen.push(row.id);
            next.next += 1;
            next.had += row.cost;
            left = left.without(row.cost);
        }
    }

    /// How long the step may take.
    fn longest(&self, step: Cost) -> Cost {
        let Some(class) = self.tenants.iter().map(OfTenant::class).min() else { return step };
        let of_class = || self.tenants.iter().filter(move |of| of.class() == class);
        let least = of_class().min_by_key(|of| of.terms.divide(of.all));
        let Some(least) = least.filter(|_| self.tenants.len() > 1) else {
            // Nobody else waits for it.
            return Cost::MAX;
        };
        let mut fair = step;
        for of in of_class() {
            fair += of.all.min(least.all.for_weight(of.terms.weight, least.terms.weight));
        }
        fair.and_a_quarter().max(DECODE_TARGET)
    }
}

impl Scheduler {
    /// Chooses the sequences that get their next token in the step: all that lack nothing else, but
    /// for those whose tenants have had far more than `owed`, and for those that would make it too
    /// long. Gives how many the former are.
    pub(super) fn who_decodes(&self, owed: Option<&TenantName>, decoding: &mut Decoding) -> usize {
        let is_ahead = |sequence: &Sequence| {
            let tenant = &sequence.owner.tenant;
            owed.is_some_and(|owed| self.share.is_ahead(tenant, owed, LEAD_MAX))
        };
        let total = self.pool.in_all_layers();
        let mut waiting = 0;
        decoding.ready.clear();
        for running in self.running.values().filter(|running| running.left() == 1) {
            let Running { sequence, turn, .. } = running;
            if is_ahead(sequence) {
                waiting += 1;
                continue;
            }
            decoding.ready.push(Ready {
                tenant: sequence.owner.tenant.clone(),
                turn: *turn,
                id: sequence.id,
                cost: self.prices.cost(Service::decode(sequence.computed), total),
            });
        }
        self.group(decoding);
        decoding.choose(self.prices.step);
        waiting
    }

    /// Orders what is ready by tenants.
    fn group(&self, Decoding { ready, tenants, .. }: &mut Decoding) {
        let order = |a: &Ready| (a.turn, a.id);
        ready.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant).then(order(a).cmp(&order(b))));
        tenants.clear();
        let mut next = 0;
        for own in ready.chunk_by(|a, b| a.tenant == b.tenant) {
            let Some(Ready { tenant, .. }) = own.first() else { continue };
            let mut all = Cost::default();
            for row in own {
                all += row.cost;
            }
            let end = next + own.len();
            if let Some((terms, served)) = self.share.served(tenant) {
                tenants.push(OfTenant { terms, served, next, end, all, had: Cost::default() });
            }
            next = end;
        }
    }

    /// What prompts may cost in a step that has so many rows left for them: what is left of the
    /// target, or half as much as all the rest where that is more.
    pub(super) fn time_for_prompts(&self, rows: usize) -> Cost {
        let total = self.pool.in_all_layers();
        let most = self.prices.cost(Service::prefill(rows, PREFILL_PAST), total);
        let mut decodes = Service::default();
        for running in self.running.values() {
            decodes += running.service;
        }
        if decodes == Service::default() {
            return most;
        }
        let mut others = self.prices.cost(decodes, total);
        others += self.prices.step;
        most.min(STEP_TARGET.without(others).max(others.part(2)))
    }
}
