//! Who gets how much of an engine, on a clock of its own and without a model: the scheduler plans,
//! and a step takes what its prices say.
//!
//! Crowds of tenants ([`load`]) call, an order of service plans ([`Order`]), and what everybody got
//! is counted here, not by what is looked at ([`outcome`]). Two orders that others serve in are
//! beside the scheduler's own, with the same batch, blocks and prices ([`baseline`]).
//! The example `fairness` writes what comes of it; the tests hold the scheduler to it.

mod baseline;
mod load;
mod outcome;
mod planner;
mod random;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use realm_core::{books::nanoseconds, name::TenantName};

use self::{
    load::Calls,
    planner::{Planner, Row},
};
pub use self::{
    load::{Arrivals, Crowd},
    outcome::{Had, Outcome, jain, percentile},
};
use crate::{
    batch::SequenceId,
    kv::HeldTimes,
    load::{BATCH_TOKENS, RUNNING_MAX},
    scheduler::{Limits, Prices, Service, Submission},
};

/// Blocks of the cache: as many as 64 sequences of 512 tokens hold.
const BLOCKS: u32 = 1024;

/// In which order calls are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First come, first served.
    Arrival,
    /// By virtual token counters, at admission alone: a token of an answer counts as two of a prompt.
    TokenCounters,
    /// As an engine does.
    Shares,
}

/// Lets `crowds` call for `seconds`, of which the first `warm_up` are not counted.
///
/// The same `seed` gives the same calls, whatever the order; who waits for an answer before the
/// next call calls later where it is served later.
pub fn run(crowds: &[Crowd], order: Order, (warm_up, seconds): (f64, f64), seed: u64) -> Outcome {
    run_at(Prices::MEASURED, crowds, order, (warm_up, seconds), seed)
}

/// The same, where steps take what `prices` say.
fn run_at(
    prices: Prices,
    crowds: &[Crowd],
    order: Order,
    (warm_up, seconds): (f64, f64),
    seed: u64,
) -> Outcome {
    let mut world = World::new(prices, crowds, order, seed);
    world.counts_from = warm_up;
    while world.now < seconds && world.go_on() {}
    world.outcome.seconds = world.now.min(seconds) - warm_up;
    world.outcome
}

/// A call that has come.
struct Open {
    tenant: usize,
    crowd: usize,
    came: f64,
    token_at: Option<f64>,
}

struct World {
    prices: Prices,
    planner: Box<dyn Planner>,
    calls: Calls,
    names: Vec<TenantName>,
    /// The places of names.
    numbers: HashMap<TenantName, usize>,
    /// By their numbers; what has ended stays, which a simulation has room for.
    open: Vec<Open>,
    outcome: Outcome,
    rows: Vec<Row>,
    start: Instant,
    now: f64,
    counts_from: f64,
}

impl World {
    fn new(prices: Prices, crowds: &[Crowd], order: Order, seed: u64) -> Self {
        let limits = Limits {
            context: 8192,
            batch_tokens: BATCH_TOKENS,
            running: RUNNING_MAX,
            queued: usize::MAX,
        };
        let calls = Calls::new(crowds, seed);
        let name = |n: usize| {
            TenantName::new("simulation", &format!("t{n}"))
                .expect("a letter and digits are a label")
        };
        let tenants = calls.tenants();
        let names: Vec<TenantName> = (0..tenants).map(name).collect();
        Self {
            prices,
            planner: planner::of(order, limits, BLOCKS, prices),
            calls,
            numbers: names.iter().cloned().zip(0..).collect(),
            names,
            open: Vec::new(),
            outcome: Outcome::new(tenants),
            rows: Vec::new(),
            start: Instant::now(),
            now: 0.0,
            counts_from: 0.0,
        }
    }

    /// One step, or the time until somebody calls. `false` once nobody will.
    fn go_on(&mut self) -> bool {
        self.take_calls();
        self.rows.clear();
        let now = self.start + Duration::from_secs_f64(self.now);
        self.planner.plan(now, &mut self.rows);
        if self.rows.is_empty() {
            let Some(next) = self.calls.next_at() else { return false };
            self.now = next.max(self.now);
            return true;
        }
        let took = self.account();
        self.now += took;
        self.give_tokens();
        true
    }

    fn take_calls(&mut self) {
        while let Some(call) = self.calls.next_before(self.now) {
            let number = self.open.len() as u64;
            let Some(tenant) = self.names.get(call.tenant) else { continue };
            let submission = Submission {
                id: SequenceId(number),
                tenant: tenant.clone(),
                public: None,
                adapter: None,
                terms: call.terms,
                kv_blocks_max: u32::MAX,
                context_max: u32::MAX,
                prompt: call.prompt(number),
                resumed: 0,
                tokens_max: Some(call.answer),
                deadline: None,
            };
            self.open.push(Open {
                tenant: call.tenant,
                crowd: call.crowd,
                came: call.at,
                token_at: None,
            });
            self.planner.submit(submission);
        }
    }

    /// Puts the step on its tenants' accounts; how long it takes.
    fn account(&mut self) -> f64 {
        let prices = self.prices;
        let mut took = prices.step.as_secs_f64();
        let part = took / self.rows.len() as f64;
        for &row in &self.rows.clone() {
            let service = if row.count == 1 {
                Service::decode(row.past)
            } else {
                Service::prefill(row.count, row.past)
            };
            let cost = prices.cost(service, BLOCKS as usize).as_secs_f64();
            took += cost;
            if let Some(had) = self.had(row.call) {
                had.cost_s += cost + part;
                had.prefill_tokens += service.prefill_tokens;
            }
        }
        self.account_blocks(took);
        took
    }

    /// Whoever holds blocks pays for the time, whether or not the step has anything of its own.
    fn account_blocks(&mut self, took: f64) {
        if self.now >= self.counts_from {
            let time = nanoseconds(Duration::from_secs_f64(took));
            let mut times = HeldTimes::default();
            self.planner.pool().held_in(time, &mut times);
            for (name, block_ns) in times.iter() {
                let cost = self.prices.cost(Service::holding(block_ns), BLOCKS as usize);
                let tenant = self.numbers.get(name);
                if let Some(had) = tenant.and_then(|at| self.outcome.tenants.get_mut(*at)) {
                    had.cost_s += cost.as_secs_f64();
                }
            }
        }
        self.outcome.note(self.now);
    }

    fn tenant(&self, call: SequenceId) -> usize {
        let at = usize::try_from(call.0).unwrap_or(usize::MAX);
        self.open.get(at).map_or(usize::MAX, |open| open.tenant)
    }

    /// Whose account a call is on, once it is counted.
    fn had(&mut self, call: SequenceId) -> Option<&mut Had> {
        let tenant = self.tenant(call);
        (self.now >= self.counts_from).then(|| self.outcome.tenants.get_mut(tenant)).flatten()
    }

    fn give_tokens(&mut self) {
        self.planner.commit();
        for row in std::mem::take(&mut self.rows).into_iter().filter(|row| row.gives_token) {
            let at = usize::try_from(row.call.0).unwrap_or(usize::MAX);
            let Some(open) = self.open.get_mut(at) else { continue };
            let before = open.token_at.replace(self.now);
            let after = self.now - before.unwrap_or(open.came);
            let (crowd, tenant) = (open.crowd, open.tenant);
            if let Some(had) = self.had(row.call) {
                let times = if before.is_some() { &mut had.gaps_s } else { &mut had.first_s };
                times.push(after);
                had.tokens += 1;
            }
            if self.planner.advance(row.call) {
                self.calls.ended(crowd, tenant, self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
