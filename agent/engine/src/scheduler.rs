//! Which rows the next step computes. Pure: time is an argument, nothing waits, nothing is sent.
//!
//! A step is planned in order: sequences past their deadline end, the tenant whose turn it is gets
//! room from the one that holds most ([`room`]), every running sequence decodes its next token, then
//! chunks of prompts fill the rest of the step, always from the tenant that has had least of the
//! engine's time for its weight ([`share`]). Whatever is planned is charged at its price ([`cost`]),
//! which the steps themselves tell ([`fit`]), and who is charged is told ([`charges`]). How much of a
//! step prompts have beside answers is [`pace`].
//! Texts to embed have steps of their own ([`texts`]), turn about with those of sequences.

mod account;
mod charges;
mod cost;
mod fit;
mod in_use;
mod kept;
mod pace;
mod room;
mod sequence;
mod share;
mod texts;

use std::{collections::BTreeMap, time::Instant};

use realm_core::{
    engine::{Finish, Usage},
    name::TenantName,
    refusal::Refusal,
};

use self::{
    account::Account,
    charges::Charging,
    in_use::InUse,
    pace::{Company, Decoding},
    sequence::{Bounds, Running, Sequence},
    share::{Share, Turn},
};
pub(crate) use self::{
    cost::{Cost, Prices, Service},
    fit::Fit,
    kept::Keep,
    room::KeptBack,
    sequence::{Deadline, Submission},
    share::Terms,
    texts::TextCall,
};
use crate::{
    batch::{Batch, SequenceId},
    kv::{BlockPool, NoBlock, Pin},
};

/// Prompt tokens of one tenant that are planned before the next tenant has its turn.
///
/// Small against a step, so that two tenants' prompts share it, and large enough for the rows of
/// one sequence to be computed together.
const PREFILL_QUANTUM: usize = 64;
/// Prompt tokens that a step takes of one prompt at least, however dear they are: enough for a
/// matrix product to be worth its while, and progress for every prompt.
const PREFILL_MIN: usize = 16;
/// The rows of a step that are left to prompts may cost what they would behind so many tokens. Far
/// into a long document a row costs several times that, and everybody who decodes waits for it.
const PREFILL_PAST: usize = 256;
/// Steps in which no sequence has started before one is preempted for another: while places come
/// free by themselves more often, whoever is next has one soon, and nothing is computed twice.
const PATIENCE_STEPS: u32 = 4;
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
    /// How long blocks of all layers were held, counted for each block, in nanoseconds.
    pub(crate) block_ns: u128,
}

/// The one owner of sequences, of their blocks, and of who is served next.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    block_tokens: usize,
    /// In the order of their numbers, which is the order of arrival.
    running: BTreeMap<SequenceId, Running>,
    /// What tenants want kept of the cache, numbered as sequences are.
    kept: BTreeMap<SequenceId, Pin>,
    /// Of tenants that have something to do.
    accounts: BTreeMap<TenantName, Account>,
    /// Who has had how much, and so who is next.
    share: Share<TenantName>,
    prices: Prices,
    fit: Fit,
    /// Steps that were measured since the prices were fitted.
    measured: u32,
    /// Adapters that rows of the planned step have.
    adapters: InUse,
    /// What the planned step does for all together.
    step: Service,
    /// What each sequence or call costs that the planned step has something of.
    costs: Vec<(SequenceId, Cost)>,
    /// Until when blocks have been charged for.
    charged_at: Option<Instant>,
    /// How long each sequence or prefix held blocks, by the last time that they were charged for.
    held: Vec<(SequenceId, u64)>,
    charging: Charging,
    /// How often any sequence had a turn.
    turns: u64,
    /// Memory of a step: the sequences that decode, and the tenants that it has something of.
    decoding: Decoding,
    company: Company,
    noted: Vec<TenantName>,
    /// Steps since a sequence started.
    steps_without_start: u32,
    totals: Totals,
    /// Sequences that the last plan started for the first time, and what of them was cached.
    started: Vec<(SequenceId, Usage)>,
    /// Whether the last step was one of texts.
    had_texts: bool,
    draining: bool,
}

impl Scheduler {
    /// A scheduler whose steps cost `prices`, until measured ones say otherwise.
    pub(crate) fn new(limits: Limits, pool: BlockPool, prices: Prices) -> Self {
        assert!(limits.batch_tokens >= limits.running, "every sequence decodes in every step");
        Self {
            limits,
            block_tokens: pool.layout().block_tokens,
            pool,
            running: BTreeMap::new(),
            kept: BTreeMap::new(),
            accounts: BTreeMap::new(),
            share: Share::default(),
            prices,
            fit: Fit::new(prices),
            measured: 0,
            adapters: InUse::default(),
            step: Service::default(),
            costs: Vec::new(),
            charged_at: None,
            held: Vec::new(),
            charging: Charging::default(),
            turns: 0,
            decoding: Decoding::default(),
            company: Company::default(),
            noted: Vec::new(),
            steps_without_start: 0,
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
        let layout = self.pool.layout();
        let quota = layout.in_bands(submission.kv_blocks_max as usize);
        let blocks_max = quota.min(self.pool.total());
        let tokens_max = self
            .limits
            .context
            .min(submission.context_max as usize)
            .min(layout.tokens_max(blocks_max, self.limits.batch_tokens));
        let sequence = Sequence::new(submission, Bounds { tokens_max, quota })?;
        if sequence.is_full() {
            return Ok(Some(Finish::Length));
        }
        let tenant = sequence.owner.tenant.clone();
        self.account(&tenant, sequence.terms).waiting.push_back(sequence);
        self.note(&tenant);
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
    fn account(&mut self, tenant: &TenantName, terms: Terms) -> &mut Account {
        self.share.enter(tenant, terms);
        let account = self.accounts.entry(tenant.clone()).or_default();
        account.weight = terms.weight;
        account
    }

    /// Takes note of whether the tenant is kept waiting, after what it has in hand has changed.
    fn note(&mut self, tenant: &TenantName) {
        let Some(account) = self.accounts.get(tenant) else { return };
        if !account.is_busy() {
            self.accounts.remove(tenant);
            self.share.leave(tenant);
        } else if self.is_kept_waiting(tenant, account) {
            self.share.wait(tenant);
        } else {
            self.share.rest(tenant);
        }
    }

    /// Whether there is anything that the tenant would have computed and the others' turns keep
    /// from it. Its next tokens come in every step, and its own quota is nobody else's doing.
    fn is_kept_waiting(&self, tenant: &TenantName, account: &Account) -> bool {
        let mut own =
            self.running.values().filter(|running| running.sequence.owner.tenant == *tenant);
        !account.calls.is_empty()
            || self.blocks_of_head(tenant).is_some()
            || own.any(|running| running.left() > 1)
    }

    /// Plans the next step into `batch`. Returns the sequences whose time is over, which are gone.
    pub(crate) fn plan_batch(
        &mut self,
        now: Instant,
        batch: &mut Batch,
    ) -> Vec<(SequenceId, Refusal)> {
        self.started.clear();
        self.step = Service::default();
        self.adapters.clear();
        self.costs.clear();
        self.charge_blocks(now);
        let ended = self.expire(now);
        self.had_texts = self.is_turn_of_texts();
        if self.had_texts {
            self.fill_with_texts(batch);
            return ended;
        }
        self.steps_without_start = self.steps_without_start.saturating_add(1);
        let active = self.accounts.iter().filter(|(_, account)| account.is_active());
        self.company.note(active.filter_map(|(tenant, _)| self.share.priority(tenant)), now);
        self.make_room();
        self.plan_decodes();
        self.plan_prefills();
        self.charge_step();
        self.fill(batch);
        self.note_all();
        ended
    }

    /// Takes note of all tenants that the step has something of. Others have not changed.
    fn note_all(&mut self) {
        let mut tenants = std::mem::take(&mut self.noted);
        let of_running = self.running.values().map(|running| &running.sequence.owner.tenant);
        tenants.extend(of_running.cloned());
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in &tenants {
            self.note(tenant);
        }
        tenants.clear();
        self.noted = tenants;
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

    /// The blocks that the head of the tenant's queue starts with, if its own quota has them left.
    fn blocks_of_head(&self, tenant: &TenantName) -> Option<usize> {
        let head = self.accounts.get(tenant)?.waiting.front()?;
        let needed = self.pool.layout().held_max(head.tokens.len(), self.limits.batch_tokens);
        (self.pool.used_by(tenant) + needed <= head.quota).then_some(needed)
    }

    /// Puts a running sequence back to the front of its tenant's queue. What it computed stays
    /// cached for its tenant while there is room, and is computed again where it does not.
    fn preempt(&mut self, id: SequenceId) {
        let Some(Running { mut sequence, table, planned, service, .. }) = self.running.remove(&id)
        else {
            return;
        };
        if planned > 0 {
            self.adapters.remove(sequence.owner.adapter);
        }
        self.pool.release(table);
        sequence.computed = 0;
        let tenant = sequence.owner.tenant.clone();
        self.share.refund(&tenant, self.prices.cost(service, self.pool.in_all_layers()));
        if let Some(account) = self.accounts.get_mut(&tenant) {
            account.running -= 1;
            account.waiting.push_front(sequence);
        }
        self.note(&tenant);
    }

    fn plan_decodes(&mut self) {
        let mut decoding = std::mem::take(&mut self.decoding);
        self.who_decodes(&mut decoding);
        for id in decoding.chosen() {
            if self.reserve(id, 1) {
                self.plan(id, 1, Service::decode);
            }
        }
        self.decoding = decoding;
    }

    /// Makes room for so many more rows of a sequence; `false` if that took its own turn.
    fn reserve(&mut self, id: SequenceId, rows: usize) -> bool {
        while let Some(running) = self.running.get_mut(&id) {
            let Running { sequence, table, planned, .. } = running;
            let tenant = sequence.owner.tenant.clone();
            let tokens = sequence.computed + *planned + rows;
            let victim = match self.pool.grow(table, tokens, sequence.quota) {
                Ok(()) => return true,
                Err(NoBlock::Quota) => self.newest_of(&tenant, &[]),
                Err(NoBlock::Exhausted) => {
                    let most = self.holds_most_for_its_weight();
                    most.and_then(|tenant| self.newest_of(&tenant, &[]))
                }
            };
            self.preempt(victim.unwrap_or(id));
        }
        false
    }

    fn plan_prefills(&mut self) {
        // What decodes leave, counted now: a later one's need for a block may have ended the turn
        // of an earlier one.
        let decodes: usize = self.running.values().map(|running| running.planned).sum();
        let mut budget = self.limits.batch_tokens - decodes;
        let total = self.pool.in_all_layers();
        let mut time = self.time_for_prompts(budget);
        let mut rows_min = PREFILL_MIN;
        // Nothing that becomes free in this step could let those go on that were passed over, and
        // who has had a turn comes later, so one walk through the order is enough.
        let mut after: Option<Turn<TenantName>> = None;
        while budget > 0 {
            let Some(turn) = self.share.next(after.as_ref()).cloned() else { return };
            let next = self.prefill_of(turn.party());
            let Some(id) = next.and_then(|next| self.start(turn.party(), &next)) else {
                after = Some(turn);
                continue;
            };
            let Some(running) = self.running.get(&id) else { return };
            let past = running.sequence.computed + running.planned;
            let wanted = running.left().min(budget).min(PREFILL_QUANTUM);
            let kops = running.sequence.owner.adapter_kops();
            let more = self.adapters.more(running.sequence.owner.adapter, self.prices.adapter_pair);
            let cost = self.prices.cost(Service::prefill(wanted, past).adapted(kops), total);
            let short = self.short_for(turn.party());
            let left = short.map_or(time, |short| short.without(self.planned()).min(time));
            let left = left.without(more);
            let rows = left.fits(cost.part(wanted)).max(rows_min).min(wanted);
            if rows == 0 && more == Cost::default() {
                return;
            }
            // Without time for its adapter there may be some for others, whose adapter is there.
            if rows == 0 || !self.reserve(id, rows) {
                after = Some(turn);
                continue;
            }
            self.plan(id, rows, |past| Service::prefill(rows, past));
            let service = Service::prefill(rows, past).adapted(kops);
            time = time.without(self.prices.cost(service, total)).without(more);
            budget -= rows;
            rows_min = 0;
        }
    }

    /// What the tenant could prefill next: its oldest unfinished prompt, else the head of its queue
    /// if there is room for all of it.
    fn prefill_of(&mut self, tenant: &TenantName) -> Option<Prefill> {
        if self.running_of(tenant) > 0 {
            let mut own = self.running.values().filter(|r| r.sequence.owner.tenant == *tenant);
            if let Some(running) = own.find(|running| running.has_prompt_left()) {
                return Some(Prefill::Running(running.sequence.id));
            }
        }
        if self.running.len() >= self.limits.running {
            return None;
        }
        self.prefer(tenant);
        (self.blocks_of_head(tenant)? <= self.pool.available()).then_some(Prefill::Waiting)
    }

    /// Brings the sequence to the head of the tenant's queue that starts next.
    fn prefer(&mut self, tenant: &TenantName) {
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        account.prefer(|sequence| {
            let Sequence { owner, tokens, chain, .. } = sequence;
            self.pool.cached_blocks(owner, tokens, chain)
        });
    }

    /// Starts what [`Scheduler::prefill_of`] found, with blocks for all its tokens, or as many as it
    /// ever holds at once.
    fn start(&mut self, tenant: &TenantName, prefill: &Prefill) -> Option<SequenceId> {
        let account = match prefill {
            Prefill::Running(id) => return Some(*id),
            Prefill::Waiting => self.accounts.get_mut(tenant)?,
        };
        let mut sequence = account.take_next()?;
        let mut table = self.pool.open(&sequence.owner, &sequence.tokens);
        let cached = table.sealed_tokens(self.pool.layout());
        let rows = (sequence.tokens.len(), self.limits.batch_tokens);
        if self.pool.begin(&mut table, rows, sequence.quota).is_err() {
            self.pool.release(table);
            account.waiting.push_front(sequence);
            return None;
        }
        account.running += 1;
        self.steps_without_start = 0;
        sequence.computed = cached;
        // All that it will ever have, so that no step allocates for it.
        sequence.tokens.reserve_exact(sequence.len_max.saturating_sub(sequence.tokens.len()));
        table.expect_blocks(self.pool.layout().blocks_for(sequence.len_max));
        // It is not looked for again: where it is preempted, it starts first.
        sequence.chain = Vec::new();
        if sequence.first_start(cached) {
            self.totals.prompt += sequence.prompt_len as u64;
            self.totals.cached += u64::from(sequence.cached);
            self.started.push((sequence.id, sequence.usage()));
        }
        let id = sequence.id;
        self.running.insert(id, Running::new(sequence, table));
        Some(id)
    }

    /// Plans and charges `rows` rows; `service` says what they are after so many tokens.
    fn plan(&mut self, id: SequenceId, rows: usize, service: impl Fn(usize) -> Service) {
        let total = self.pool.in_all_layers();
        let Some(running) = self.running.get_mut(&id) else { return };
        let kops = running.sequence.owner.adapter_kops();
        let service = service(running.sequence.computed + running.planned).adapted(kops);
        if running.planned == 0 {
            self.adapters.add(running.sequence.owner.adapter);
        }
        running.planned += rows;
        self.turns += 1;
        running.turn = self.turns;
        running.service += service;
        let cost = self.prices.cost(service, total);
        self.share.charge(&running.sequence.owner.tenant, cost);
    }

    fn fill(&self, batch: &mut Batch) {
        batch.clear();
        batch.expect_blocks(self.running.values().map(|running| running.table.room()).sum());
        for (id, running) in self.running.iter().filter(|(_, running)| running.planned > 0) {
            let Running { sequence, table, planned, .. } = running;
            let rows = &sequence.tokens[sequence.computed..sequence.computed + planned];
            let of = (*id, sequence.owner.adapter.map(|adapter| adapter.id));
            batch.push(of, rows, sequence.computed, table.bands(), self.block_tokens);
            if running.left() == 0 {
                batch.want_last();
            }
        }
    }

    /// Takes note that the planned rows have been computed.
    pub(crate) fn commit(&mut self) {
        for running in self.running.values_mut() {
            let Running { sequence, table, planned, service, turn: _ } = running;
            *service = Service::default();
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
        if let Some(Running { sequence, table, .. }) = self.running.remove(&id) {
            self.pool.release(table);
            self.accounts.get_mut(&sequence.owner.tenant)?.running -= 1;
            self.note(&sequence.owner.tenant);
            return Some(sequence.usage());
        }
        let holds = |account: &Account| account.waits_for(id);
        let (tenant, account) = self.accounts.iter_mut().find(|(_, account)| holds(account))?;
        let tenant = tenant.clone();
        account.drop_call(id);
        let sequence = account.take_waiting(id);
        self.note(&tenant);
        sequence.map(|sequence| sequence.usage())
    }

    /// Blocks that each tenant's running sequences hold.
    #[cfg(test)]
    fn held(&self) -> BTreeMap<TenantName, usize> {
        self.accounts.keys().map(|name| (name.clone(), self.pool.used_by(name))).collect()
    }
}

/// What a tenant could prefill next.
enum Prefill {
    Running(SequenceId),
    Waiting,
}

#[cfg(test)]
mod tests;
