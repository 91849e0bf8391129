//! The orders that shares are compared with: first come first served, and virtual token counters
//! as they were published, with weights: they decide who is admitted and nothing after that.
//!
//! Steps are as the engine's: decodes first, then chunks of prompts, the oldest first. Where blocks
//! run out, the newest sequence of all is put back.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use realm_core::name::TenantName;

use super::{
    Order,
    planner::{Planner, Row},
};
use crate::{
    batch::SequenceId,
    kv::{BlockPool, BlockTable, Owner},
    scheduler::{Limits, Submission},
};

/// What a token of an answer counts, where one of a prompt counts 1.
const ANSWER_TOKEN: u64 = 2;

/// Parts of a token that counters are kept in, so that they can be divided by a weight.
const FINE: u64 = 1 << 20;

struct Call {
    id: SequenceId,
    tenant: TenantName,
    weight: u32,
    tokens: Vec<u32>,
    computed: usize,
    len_max: usize,
}

struct Running {
    call: Call,
    table: BlockTable,
    planned: usize,
}

impl Running {
    fn left(&self) -> usize {
        self.call.tokens.len() - self.call.computed - self.planned
    }
}

pub(super) struct Baseline {
    order: Order,
    limits: Limits,
    pool: BlockPool,
    running: BTreeMap<SequenceId, Running>,
    /// None of them empty.
    queues: BTreeMap<TenantName, VecDeque<Call>>,
    counters: BTreeMap<TenantName, u64>,
    /// The counter of the tenant whose queue was emptied last.
    left: u64,
}

impl Baseline {
    pub(super) const fn new(order: Order, limits: Limits, pool: BlockPool) -> Self {
        Self {
            order,
            limits,
            pool,
            running: BTreeMap::new(),
            queues: BTreeMap::new(),
            counters: BTreeMap::new(),
            left: 0,
        }
    }

    fn counter(&self, tenant: &TenantName) -> u64 {
        self.counters.get(tenant).copied().unwrap_or(0)
    }

    fn count(&mut self, (tenant, weight): (&TenantName, u32), tokens: u64) {
        let counter = self.counters.entry(tenant.clone()).or_default();
        *counter += tokens * FINE / u64::from(weight.max(1));
    }

    /// Lifts a tenant whose queue was empty.
    fn lift(&mut self, tenant: &TenantName) {
        if self.queues.contains_key(tenant) {
            return;
        }
        let least = self.queues.keys().map(|other| self.counter(other)).min();
        let lifted = self.counter(tenant).max(least.unwrap_or(self.left));
        self.counters.insert(tenant.clone(), lifted);
    }

    /// Whose oldest call is admitted next.
    fn next(&self) -> Option<TenantName> {
        let first = |queue: &VecDeque<Call>| queue.front().map(|call| call.id);
        let by = |(tenant, queue): &(&TenantName, &VecDeque<Call>)| match self.order {
            Order::Arrival => (0, first(queue)),
            Order::TokenCounters | Order::Shares => (self.counter(tenant), first(queue)),
        };
        self.queues.iter().min_by_key(by).map(|(tenant, _)| tenant.clone())
    }

    fn admit(&mut self) -> Option<SequenceId> {
        if self.running.len() >= self.limits.running {
            return None;
        }
        let tenant = self.next()?;
        let tokens = self.queues.get(&tenant)?.front()?.tokens.len();
        if self.pool.layout().blocks_for(tokens) > self.pool.available() {
            return None;
        }
        let mut call = self.take(&tenant)?;
        let mut table = self.pool.open(&Owner::alone(&tenant), &call.tokens);
        call.computed = table.sealed_tokens(self.pool.layout());
        if self.pool.grow(&mut table, tokens, usize::MAX).is_err() {
            self.pool.release(table);
            self.put_back(call);
            return None;
        }
        self.count((&tenant, call.weight), tokens as u64);
        let id = call.id;
        self.running.insert(id, Running { call, table, planned: 0 });
        Some(id)
    }

    fn take(&mut self, tenant: &TenantName) -> Option<Call> {
        let queue = self.queues.get_mut(tenant)?;
        let call = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(tenant);
            self.left = self.counter(tenant);
        }
        call
    }

    fn put_back(&mut self, mut call: Call) {
        call.computed = 0;
        self.queues.entry(call.tenant.clone()).or_default().push_front(call);
    }

    fn preempt_newest(&mut self) {
        if let Some((_, Running { call, table, .. })) = self.running.pop_last() {
            self.pool.release(table);
            self.put_back(call);
        }
    }

    fn plan_decodes(&mut self) {
        let decoding: Vec<SequenceId> =
            self.running.values().filter(|r| r.left() == 1).map(|r| r.call.id).collect();
        for id in decoding {
            while let Some(Running { call, table, planned }) = self.running.get_mut(&id) {
                if self.pool.grow(table, call.tokens.len(), usize::MAX).is_ok() {
                    *planned = 1;
                    break;
                }
                self.preempt_newest();
            }
        }
    }

    fn plan_prefills(&mut self) {
        let decodes: usize = self.running.values().map(|running| running.planned).sum();
        let mut budget = self.limits.batch_tokens - decodes;
        while budget > 0 {
            let unfinished = self.running.values().find(|running| running.left() > 0);
            let unfinished = unfinished.map(|running| running.call.id);
            let Some(id) = unfinished.or_else(|| self.admit()) else { return };
            let Some(running) = self.running.get_mut(&id) else { return };
            let rows = running.left().min(budget);
            running.planned += rows;
            budget -= rows;
        }
    }
}

impl Planner for Baseline {
    fn submit(&mut self, submission: Submission) {
        let Submission { id, tenant, terms, prompt, tokens_max, .. } = submission;
        self.lift(&tenant);
        let len_max = prompt.len() + tokens_max.map_or(0, |tokens| tokens as usize);
        let call = Call {
            id,
            tenant: tenant.clone(),
            weight: terms.weight,
            tokens: prompt,
            computed: 0,
            len_max,
        };
        self.queues.entry(tenant).or_default().push_back(call);
    }

    fn plan(&mut self, _now: Instant, rows: &mut Vec<Row>) {
        self.plan_decodes();
        self.plan_prefills();
        let planned = self.running.values().filter(|running| running.planned > 0);
        rows.extend(planned.map(|running| Row {
            call: running.call.id,
            count: running.planned,
            past: running.call.computed,
            gives_token: running.left() == 0,
        }));
    }

    fn commit(&mut self) {
        for Running { call, table, planned } in self.running.values_mut() {
            call.computed += std::mem::take(planned);
            self.pool.seal(table, &call.tokens, call.computed);
        }
    }

    fn advance(&mut self, id: SequenceId) -> bool {
        let Some(running) = self.running.get_mut(&id) else { return false };
        running.call.tokens.push(0);
        let is_over = running.call.tokens.len() >= running.call.len_max;
        let (tenant, weight) = (running.call.tenant.clone(), running.call.weight);
        self.count((&tenant, weight), ANSWER_TOKEN);
        if is_over && let Some(Running { table, .. }) = self.running.remove(&id) {
            self.pool.release(table);
        }
        is_over
    }

    fn pool(&self) -> &BlockPool {
        &self.pool
    }
}
