//! Which rows the next step computes. Pure: time is an argument, nothing waits, nothing is sent.
//!
//! A step is planned in order: sequences past their deadline end, a tenant below its share gets
//! room from the one most above its own, every running sequence decodes its next token, then
//! chunks of prompts fill the rest of the step, always from the tenant that has been served least.
//! Texts to embed have steps of their own ([`texts`]), turn about with those of sequences.

mod account;
mod sequence;
mod texts;

use std::{collections::BTreeMap, time::Instant};

use realm_core::{
    engine::{Finish, Usage},
    name::TenantName,
    refusal::Refusal,
};

use self::{
    account::Account,
    sequence::{Running, Sequence},
};
pub(crate) use self::{
    sequence::{Deadline, Submission},
    texts::TextCall,
};
use crate::{
    batch::{Batch, SequenceId},
    kv::{BlockPool, NoBlock},
};

/// Prompt tokens of one tenant that are planned before the next tenant has its turn.
///
/// Small against a step, so that two tenants' prompts share it, and large enough for the rows of
/// one sequence to be computed together.
const PREFILL_QUANTUM: usize = 64;
/// How long a client is asked to wait when the queue is full: a few answers' time.
pub(crate) const BUSY_RETRY_MS: u64 = 1000;

/// The bounds of an engine's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tokens one sequence may hold.
    pub(crate) context: usize,
    /// Rows of one step; at least `running`, so that every running sequence can decode in it.
    pub(crate) batch_tokens: usize,
    /// Sequences that run at once.
    pub(crate) running: usize,
    /// Sequences that may wait.
    pub(crate) queued: usize,
}

/// Tokens since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) prompt: u64,
    /// Of the prompt tokens, those that the cache held.
    pub(crate) cached: u64,
    pub(crate) generated: u64,
}

/// The one owner of sequences, of their blocks, and of who is served next.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    block_tokens: usize,
    /// In the order of their numbers, which is the order of arrival.
    running: BTreeMap<SequenceId, Running>,
    accounts: BTreeMap<TenantName, Account>,
    totals: Totals,
    /// Sequences that the last plan started for the first time, and what of them was cached.
    started: Vec<(SequenceId, Usage)>,
    /// Whether the last step was one of texts.
    had_texts: bool,
    draining: bool,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, pool: BlockPool) -> Self {
        assert!(limits.batch_tokens >= limits.running, "every sequence decodes in every step");
        Self {
            limits,
            block_tokens: pool.layout().block_tokens,
            pool,
            running: BTreeMap::new(),
            accounts: BTreeMap::new(),
            totals: Totals::default(),
            started: Vec::new(),
            had_texts: false,
            draining: false,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queued() == 0
    }

    pub(crate) const fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Sequences and calls with texts that wait.
    pub(crate) fn queued(&self) -> usize {
        self.accounts.values().map(|account| account.waiting.len() + account.calls.len()).sum()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) const fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }

    /// Sequences that the last plan started for the first time, and what they have cost by then.
    pub(crate) fn started(&self) -> &[(SequenceId, Usage)] {
        &self.started
    }

    /// Sequences of the tenant that run.
    pub(crate) fn running_of(&self, tenant: &TenantName) -> usize {
        self.accounts.get(tenant).map_or(0, |account| account.running)
    }

    /// Refuses what comes from now on; what is there goes on to its end.
    pub(crate) const fn drain(&mut self) {
        self.draining = true;
    }

    /// Queues a sequence; says how it has ended if what was resumed leaves it nothing to do.
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<Option<Finish>, Refusal> {
        self.check_room()?;
        let blocks_max = (submission.kv_blocks_max as usize).min(self.pool.total());
        let tokens_max = self
            .limits
            .context
            .min(submission.context_max as usize)
            .min(self.pool.layout().tokens_max(blocks_max, self.limits.batch_tokens));
        let sequence = Sequence::new(submission, tokens_max)?;
        if sequence.is_full() {
            return Ok(Some(Finish::Length));
        }
        let account = self.wake(&sequence.tenant, sequence.weight);
        account.waiting.push_back(sequence);
        Ok(None)
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.queued() >= self.limits.queued {
            return Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        Ok(())
    }

    /// The account of a tenant that has something to do from now on.
    fn wake(&mut self, tenant: &TenantName, weight: u32) -> &mut Account {
        let least_served = self.accounts.values().filter(|a| a.is_busy()).map(|a| a.served).min();
        let account = self.accounts.entry(tenant.clone()).or_default();
        if !account.is_busy() {
            account.wake(least_served);
        }
        account.weight = weight;
        account
    }

    /// Plans the next step into `batch`. Returns the sequences whose time is over, which are gone.
    pub(crate) fn plan_batch(
        &mut self,
        now: Instant,
        batch: &mut Batch,
    ) -> Vec<(SequenceId, Refusal)> {
        self.started.clear();
        let ended = self.expire(now);
        self.had_texts = self.is_turn_of_texts();
        if self.had_texts {
            self.fill_with_texts(batch);
            return ended;
        }
        self.make_room();
        self.plan_decodes();
        self.plan_prefills();
        self.fill(batch);
        ended
    }

    fn expire(&mut self, now: Instant) -> Vec<(SequenceId, Refusal)> {
        let running = self.running.values().map(|running| &running.sequence);
        let waiting = self.accounts.values().flat_map(|account| &account.waiting);
        let sequences = running.chain(waiting).map(|sequence| (sequence.id, sequence.deadline));
        let calls = self.accounts.values().flat_map(|account| &account.calls);
        let calls = calls.map(|call| (call.id(), call.deadline()));
        let ended: Vec<_> = sequences
            .chain(calls)
            .filter_map(|(id, deadline)| {
                let deadline = deadline.filter(|deadline| deadline.at <= now)?;
                Some((id, Refusal::DeadlineExceeded { deadline_ms: deadline.ms }))
            })
            .collect();
        for (id, _) in &ended {
            self.end(*id);
        }
        ended
    }

    /// Lets a tenant in that waits below its share, at the cost of the one most above its own.
    ///
    /// Nobody is preempted in vain: only for a tenant whose own quota lets it start, and only if
    /// both a place and blocks are to be had.
    fn make_room(&mut self) {
        let may_start = |name: &TenantName| self.blocks_of_head(name).is_some();
        let Some((tenant, needed)) = self.least_served(may_start).and_then(|tenant| {
            let needed = self.blocks_of_head(&tenant)?;
            Some((tenant, needed))
        }) else {
            return;
        };
        if !self.is_owed_room(&tenant, needed) {
            return;
        }
        let running = self.running.len();
        while let Some(victim) = self.victim_for(&tenant, needed) {
            self.preempt(victim);
        }
        if self.running.len() < running {
            // At once, or a preempted sequence could take its place back before its tenant's turn.
            self.start(&tenant, &Prefill::Waiting);
        }
    }

    /// The blocks that the head of the tenant's queue starts with, if its own quota has them left.
    fn blocks_of_head(&self, tenant: &TenantName) -> Option<usize> {
        let head = self.accounts.get(tenant)?.waiting.front()?;
        let needed = self.pool.layout().held_max(head.tokens.len(), self.limits.batch_tokens);
        (self.pool.used_by(tenant) + needed <= head.quota).then_some(needed)
    }

    /// Whether `tenant` gets a place and `needed` blocks once all that others hold above their
    /// shares is taken from them. Where it stays within its share, what they hold above theirs is
    /// at least what it lacks.
    fn is_owed_room(&self, tenant: &TenantName, needed: usize) -> bool {
        let within = |held: usize, total: usize| {
            let weights = self.active_weights();
            let account = self.accounts.get(tenant);
            account.is_some_and(|account| above_share(account, held, total, weights) == 0)
        };
        let running = self.accounts.get(tenant).map_or(0, |account| account.running);
        let place =
            self.running.len() < self.limits.running || within(running + 1, self.limits.running);
        let blocks = self.pool.available() >= needed
            || within(self.pool.used_by(tenant) + needed, self.pool.total());
        place && blocks
    }

    /// The sequence to preempt so that `tenant`, which is owed room, can start one of `needed`
    /// blocks.
    fn victim_for(&self, tenant: &TenantName, needed: usize) -> Option<SequenceId> {
        let most_over = if self.running.len() >= self.limits.running {
            let of = |name: &TenantName| self.accounts.get(name).map_or(0, |a| a.running);
            self.most_over(tenant, self.limits.running, of)
        } else if self.pool.available() < needed {
            let of = |name: &TenantName| self.pool.used_by(name);
            self.most_over(tenant, self.pool.total(), of)
        } else {
            None
        };
        most_over.and_then(|tenant| self.newest_of(&tenant))
    }

    fn active(&self) -> impl Iterator<Item = (&TenantName, &Account)> {
        self.accounts.iter().filter(|(_, account)| account.is_active())
    }

    fn active_weights(&self) -> u128 {
        self.active().map(|(_, account)| u128::from(account.weight)).sum()
    }

    /// The tenant other than `tenant` that is most above its share of `total`.
    fn most_over(
        &self,
        tenant: &TenantName,
        total: usize,
        held: impl Fn(&TenantName) -> usize,
    ) -> Option<TenantName> {
        let weights = self.active_weights();
        self.active()
            .filter(|(name, _)| *name != tenant)
            .map(|(name, account)| (above_share(account, held(name), total, weights), name))
            .max()
            .filter(|(over, _)| *over > 0)
            .map(|(_, name)| name.clone())
    }

    fn newest_of(&self, tenant: &TenantName) -> Option<SequenceId> {
        let mut newest_first = self.running.values().rev();
        newest_first.find(|r| r.sequence.tenant == *tenant).map(|r| r.sequence.id)
    }

    /// Puts a running sequence back to the front of its tenant's queue. What it computed stays
    /// cached for its tenant while there is room, and is computed again where it does not.
    fn preempt(&mut self, id: SequenceId) {
        let Some(Running { mut sequence, table, planned }) = self.running.remove(&id) else {
            return;
        };
        self.pool.release(table);
        sequence.computed = 0;
        if let Some(account) = self.accounts.get_mut(&sequence.tenant) {
            account.refund(planned);
            account.running -= 1;
            account.waiting.push_front(sequence);
        }
    }

    fn plan_decodes(&mut self) {
        let decoding: Vec<SequenceId> =
            self.running.values().filter(|r| r.left() == 1).map(|r| r.sequence.id).collect();
        for id in decoding {
            if self.reserve(id, 1) {
                self.plan(id, 1);
            }
        }
    }

    /// Makes room for so many more rows of a sequence; `false` if that took its own turn.
    fn reserve(&mut self, id: SequenceId, rows: usize) -> bool {
        while let Some(running) = self.running.get_mut(&id) {
            let Running { sequence, table, planned } = running;
            let tenant = sequence.tenant.clone();
            let tokens = sequence.computed + *planned + rows;
            let victim = match self.pool.grow(table, tokens, sequence.quota) {
                Ok(()) => return true,
                Err(NoBlock::Quota) => self.newest_of(&tenant),
                Err(NoBlock::Exhausted) => {
                    let most = self.holds_most_for_its_weight();
                    most.and_then(|tenant| self.newest_of(&tenant))
                }
            };
            self.preempt(victim.unwrap_or(id));
        }
        false
    }

    fn holds_most_for_its_weight(&self) -> Option<TenantName> {
        let held = |name: &TenantName| self.pool.used_by(name) as u128;
        self.accounts
            .iter()
            .filter(|(_, account)| account.running > 0)
            .max_by(|(a, x), (b, y)| {
                // a / x > b / y, without dividing.
                let (a_held, b_held) =
                    (held(a) * u128::from(y.weight), held(b) * u128::from(x.weight));
                a_held.cmp(&b_held).then_with(|| b.cmp(a))
            })
            .map(|(name, _)| name.clone())
    }

    fn plan_prefills(&mut self) {
        // What decodes leave, counted now: a later one's need for a block may have ended the turn
        // of an earlier one.
        let decodes: usize = self.running.values().map(|running| running.planned).sum();
        let mut budget = self.limits.batch_tokens - decodes;
        while budget > 0 {
            let Some(tenant) = self.least_served(|tenant| self.prefill_of(tenant).is_some()) else {
                return;
            };
            let Some(id) = self.prefill_of(&tenant).and_then(|next| self.start(&tenant, &next))
            else {
                return;
            };
            let left = self.running.get(&id).map_or(0, Running::left);
            let rows = left.min(budget).min(PREFILL_QUANTUM);
            if self.reserve(id, rows) {
                self.plan(id, rows);
                budget -= rows;
            }
        }
    }

    /// The active tenant that has had least for its weight among those that `can` go on.
    fn least_served(&self, can: impl Fn(&TenantName) -> bool) -> Option<TenantName> {
        self.accounts
            .iter()
            .filter(|(tenant, account)| account.is_active() && can(tenant))
            .min_by_key(|(_, account)| account.served)
            .map(|(tenant, _)| tenant.clone())
    }

    /// What the tenant could prefill next: its oldest unfinished prompt, else the head of its queue
    /// if there is room for all of it.
    fn prefill_of(&self, tenant: &TenantName) -> Option<Prefill> {
        let unfinished =
            self.running.values().find(|r| r.sequence.tenant == *tenant && r.left() > 0);
        if let Some(running) = unfinished {
            return Some(Prefill::Running(running.sequence.id));
        }
        let needed = self.blocks_of_head(tenant)?;
        let has_room = self.running.len() < self.limits.running && needed <= self.pool.available();
        has_room.then_some(Prefill::Waiting)
    }

    /// Starts what [`Scheduler::prefill_of`] found, with blocks for all its tokens, or as many as it
    /// ever holds at once.
    fn start(&mut self, tenant: &TenantName, prefill: &Prefill) -> Option<SequenceId> {
        let account = match prefill {
            Prefill::Running(id) => return Some(*id),
            Prefill::Waiting => self.accounts.get_mut(tenant)?,
        };
        let mut sequence = account.waiting.pop_front()?;
        let mut table = self.pool.open(tenant, &sequence.tokens);
        let cached = table.blocks().len() * self.block_tokens;
        // A window lets go of a block for each that it takes later.
        let step = if self.pool.layout().is_windowed() {
            cached + self.limits.batch_tokens
        } else {
            sequence.tokens.len()
        };
        let tokens = sequence.tokens.len().min(step);
        if self.pool.grow(&mut table, tokens, sequence.quota).is_err() {
            self.pool.release(table);
            account.waiting.push_front(sequence);
            return None;
        }
        account.running += 1;
        sequence.computed = cached;
        if sequence.first_start(cached) {
            self.totals.prompt += sequence.prompt_len as u64;
            self.totals.cached += u64::from(sequence.cached);
            self.started.push((sequence.id, sequence.usage()));
        }
        let id = sequence.id;
        self.running.insert(id, Running { sequence, table, planned: 0 });
        Some(id)
    }

    fn plan(&mut self, id: SequenceId, rows: usize) {
        let Some(running) = self.running.get_mut(&id) else { return };
        running.planned += rows;
        if let Some(account) = self.accounts.get_mut(&running.sequence.tenant) {
            account.charge(rows);
        }
    }

    fn fill(&self, batch: &mut Batch) {
        batch.clear();
        for (id, running) in self.running.iter().filter(|(_, running)| running.planned > 0) {
            let Running { sequence, table, planned } = running;
            let rows = &sequence.tokens[sequence.computed..sequence.computed + planned];
            batch.push(*id, rows, sequence.computed, table.blocks(), self.block_tokens);
            if running.left() == 0 {
                batch.want_last();
            }
        }
    }

    /// Takes note that the planned rows have been computed.
    pub(crate) fn commit(&mut self) {
        for running in self.running.values_mut() {
            let Running { sequence, table, planned } = running;
            sequence.computed += std::mem::take(planned);
            self.pool.seal(table, &sequence.tokens, sequence.computed);
            self.pool.slide(table, sequence.computed);
        }
    }

    /// Adds a generated token; returns why the sequence is over, if it is.
    pub(crate) fn advance(&mut self, id: SequenceId, token: u32) -> Option<Finish> {
        let sequence = &mut self.running.get_mut(&id)?.sequence;
        sequence.tokens.push(token);
        self.totals.generated += 1;
        sequence.is_full().then_some(Finish::Length)
    }

    /// Whether all that the sequence has is computed, so that it lacks its next token alone.
    pub(crate) fn lacks_token(&self, id: SequenceId) -> bool {
        self.running.get(&id).is_some_and(|running| running.planned == 0 && running.left() == 0)
    }

    /// The place in its answer of a sequence's next token.
    pub(crate) fn position(&self, id: SequenceId) -> usize {
        let place = |sequence: &Sequence| sequence.tokens.len() - sequence.answer_start;
        self.running.get(&id).map_or(0, |running| place(&running.sequence))
    }

    /// Ends a sequence, however far it is, and frees its blocks; or a call with texts, of which
    /// no more are computed. `None` if it is no sequence, or gone already.
    pub(crate) fn end(&mut self, id: SequenceId) -> Option<Usage> {
        let sequence = self.take(id);
        if self.is_idle() {
            // No one was kept waiting, so no one is owed anything.
            self.accounts.clear();
        }
        sequence.map(|sequence| sequence.usage())
    }

    fn take(&mut self, id: SequenceId) -> Option<Sequence> {
        if let Some(Running { sequence, table, planned: _ }) = self.running.remove(&id) {
            self.pool.release(table);
            self.accounts.get_mut(&sequence.tenant)?.running -= 1;
            return Some(sequence);
        }
        self.accounts.values_mut().for_each(|account| account.drop_call(id));
        self.accounts.values_mut().find_map(|account| account.take_waiting(id))
    }

    /// Blocks that each tenant's running sequences hold.
    #[cfg(test)]
    fn held(&self) -> BTreeMap<TenantName, usize> {
        self.accounts.keys().map(|name| (name.clone(), self.pool.used_by(name))).collect()
    }
}

/// How far `held` is above the tenant's share of `total`; 0 is within it. Shares are by weight among
/// the tenants that have something to do, whose weights add up to `weights`.
fn above_share(account: &Account, held: usize, total: usize, weights: u128) -> u128 {
    // held > total * weight / weights, in whole numbers.
    (held as u128 * weights).saturating_sub(total as u128 * u128::from(account.weight))
}

/// What a tenant could prefill next.
enum Prefill {
    Running(SequenceId),
    Waiting,
}

#[cfg(test)]
mod tests;
