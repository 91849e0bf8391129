//! How long a step takes in which somebody waits for the next token of an answer.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use realm_core::{desired::Priority, name::TenantName};

use super::{
    PREFILL_MIN, PREFILL_PAST, Prefill, Scheduler,
    cost::{Cost, Prices, Service},
    in_use::InUse,
    sequence::{Running, Sequence},
    share::Terms,
};
use crate::{
    adapter::{Adapted, AdapterWork},
    batch::SequenceId,
};

/// How long a step may take in which anybody decodes, unless decoding itself takes two thirds of it
/// or more: whoever reads an answer waits for each token as long as the step takes that it comes of,
/// and it matters more to readers that steps are alike than that they are long.
pub(super) const STEP_TARGET: Cost = Cost::from_millis(60);
/// How long a step may take for tenants that are ahead of the least served one in it: they have what
/// fits, by turns, and the rest of their part comes when that one is even with them. Short enough that
/// one which takes twice as long as was expected is still within the target.
pub(super) const SHORT_TARGET: Cost = Cost::from_millis(25);
/// How much more than the least served one a tenant has had that floods. More than one short prompt
/// costs, so that tenants that are alike do not; and less than one may be behind that comes, so that who
/// floods does when the prompt of another comes.
pub(super) const FLOOD_MIN: Cost = Cost::from_millis(100);
/// How much more makes a tenant wait for the least served one, whatever either asks for. So the target
/// costs shares nothing that lasts.
pub(super) const LEAD_MAX: Cost = Cost::from_millis(500);

/// As how many empty steps a step of prompts is long, at least, of a tenant beside which another may
/// come at any moment: where reading the weights takes longer than [`SHORT_TARGET`], steps of that
/// length would do little else.
const SHORT_STEPS: u64 = 4;
/// For how long a tenant that has gone may come again at any moment: as long as somebody reads what
/// was answered before asking on, or a program works before its next call.
pub(super) const GONE_FOR: Duration = Duration::from_secs(10);

/// Whether others may come than the one tenant that is there, for whom it would be kept short.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// When tenants of a class, or of a lower one, last had another one of that class beside them.
    shared_at: BTreeMap<Priority, Instant>,
    is_expected: bool,
}

impl Company {
    /// Takes note of the classes of all tenants that have sequences.
    pub(super) fn note(&mut self, classes: impl Iterator<Item = Priority>, now: Instant) {
        let (mut highest, mut second) = (None, None);
        for class in classes.map(Some) {
            if class > highest {
                second = highest;
                highest = class;
            } else {
                second = second.max(class);
            }
        }
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < GONE_FOR;
        self.is_expected = match (highest, second) {
            (Some(alone), None) => self.shared_at.range(alone..).any(|(_, at)| is_recent(at)),
            (_, Some(class)) => {
                self.shared_at.insert(class, now);
                false
            }
            (None, None) => false,
        };
    }

    pub(super) const fn is_expected(&self) -> bool {
        self.is_expected
    }
}

/// Who gets its next token in a step, and memory to choose them in.
#[derive(Debug, Default)]
pub(super) struct Decoding {
    /// By tenant, and of each the next tokens first, of which those that have waited longest.
    wanted: Vec<Wanted>,
    tenants: Vec<OfTenant>,
    chosen: Vec<SequenceId>,
    short: Option<Short>,
    /// Of all that something is wanted for, and then of those that were chosen.
    adapters: InUse,
}

/// How long a step may take for tenants that are ahead of the least served one in it.
#[derive(Clone, Debug)]
struct Short {
    least: TenantName,
    most: Cost,
}

/// What a sequence could have of a step.
#[derive(Debug)]
struct Wanted {
    tenant: TenantName,
    /// Whether it lacks more than its next token.
    is_prompt: bool,
    turn: u64,
    id: SequenceId,
    adapter: Option<Adapted>,
    /// Of all that it lacks, but for what its adapter costs whoever has it.
    cost: Cost,
    /// Of that, where all have what they want.
    part: Cost,
}

/// What one tenant could have of a step.
#[derive(Debug)]
struct OfTenant {
    terms: Terms,
    /// What the tenant has had until now, for its weight.
    served: u128,
    is_ahead: bool,
    /// Which of `wanted` are its next tokens that are left.
    next: usize,
    end: usize,
    /// What all of them cost, those that were chosen, and its prompts.
    all: Cost,
    had: Cost,
    prompts: Cost,
}

impl OfTenant {
    const fn class(&self) -> Reverse<Priority> {
        Reverse(self.terms.priority)
    }

    /// Where its next token comes among those of all.
    fn turn(&self) -> (Reverse<Priority>, u128) {
        (self.class(), self.served.saturating_add(self.terms.divide(self.had)))
    }

    const fn decodes(&self) -> bool {
        self.next < self.end
    }
}

impl Decoding {
    /// In the order of their turns.
    pub(super) fn chosen(&mut self) -> impl Iterator<Item = SequenceId> {
        self.chosen.drain(..)
    }

    /// Chooses among the next tokens, in a step that takes `step` whatever is in it, and `pair` for each
    /// pair of an adapter's matrices, with no more than `most` for those that are ahead.
    fn choose(&mut self, (step, pair): (Cost, Cost), most: Cost) {
        let Self { wanted, tenants, chosen, adapters, .. } = self;
        let mut had = step;
        adapters.clear();
        let waiting = |of: &&mut OfTenant| of.decodes();
        while let Some(next) = tenants.iter_mut().filter(waiting).min_by_key(|of| of.turn()) {
            let Some(row) = wanted.get(next.next) else { return };
            let more = adapters.more(row.adapter, pair);
            let mut cost = row.cost;
            cost += more;
            had += cost;
            // One of each, whatever there is time for: nobody waits for ever.
            if next.is_ahead && had > most && next.had > Cost::default() {
                had = had.without(cost);
                // Behind one that brings an adapter there may be some whose adapter is there.
                let is_adapter = more > Cost::default();
                next.next = if is_adapter { next.next + 1 } else { next.end };
                continue;
            }
            chosen.push(row.id);
            adapters.add(row.adapter);
            next.next += 1;
            next.had += cost;
        }
    }

    /// What next tokens of those that are ahead may bring a step to that may take `short` for them:
    /// their own prompts go on by what costs `least`, and those of the others have what they want.
    fn left_by_prompts(&self, short: Cost, least: Cost) -> Cost {
        let (mut own, mut others) = (Cost::default(), Cost::default());
        for of in &self.tenants {
            *(if of.is_ahead { &mut own } else { &mut others }) += of.prompts;
        }
        let left = short.without(own.min(least));
        if others == Cost::default() { left } else { left.min(STEP_TARGET.without(others)) }
    }
}

impl Scheduler {
    /// Chooses the sequences that get their next token in the step: all that lack nothing else, but
    /// for those that would make it too long, of tenants that are ahead.
    pub(super) fn who_decodes(&mut self, decoding: &mut Decoding) {
        let total = self.pool.in_all_layers();
        decoding.adapters.clear();
        let runs = |running: &&Running| running.sequence.computed < running.sequence.tokens.len();
        for Running { sequence, .. } in self.running.values().filter(runs) {
            decoding.adapters.add(sequence.owner.adapter);
        }
        decoding.wanted.clear();
        decoding.wanted.extend(self.next_start(&decoding.adapters));
        for Running { sequence, turn, .. } in self.running.values() {
            let left = sequence.tokens.len() - sequence.computed;
            let service = match left {
                0 => continue,
                1 => Service::decode(sequence.computed),
                _ => Service::prefill(left, sequence.computed),
            };
            let service = service.adapted(sequence.owner.adapter_kops());
            let adapter = sequence.owner.adapter;
            decoding.wanted.push(Wanted {
                tenant: sequence.owner.tenant.clone(),
                is_prompt: left > 1,
                turn: *turn,
                id: sequence.id,
                adapter,
                cost: self.prices.cost(service, total),
                part: decoding.adapters.part(adapter, self.prices.adapter_pair),
            });
        }
        self.group(decoding);
        decoding.short = self.shorten(decoding);
        if let Some(Short { most, .. }) = decoding.short {
            let prompts = decoding.wanted.iter().filter(|wanted| wanted.is_prompt);
            let least = prompts.map(|wanted| self.least(wanted.adapter)).max();
            let least = least.unwrap_or_else(|| self.least(None));
            let Prices { step, adapter_pair, .. } = self.prices;
            decoding.choose((step, adapter_pair), decoding.left_by_prompts(most, least));
        }
    }

    /// What the fewest rows of a prompt cost that a step has of one.
    fn least(&self, adapter: Option<Adapted>) -> Cost {
        let AdapterWork { kops, pairs } = adapter.map(|adapter| adapter.work).unwrap_or_default();
        let rows = Service::prefill(PREFILL_MIN, PREFILL_PAST).adapted(kops);
        let all = Service { adapter_pairs: pairs, ..rows };
        self.prices.cost(all, self.pool.in_all_layers())
    }

    /// Finds who has had least, and who is ahead of it; `None` where nobody is in the step.
    fn shorten(&self, Decoding { wanted, tenants, .. }: &mut Decoding) -> Option<Short> {
        let first = tenants.iter().min_by_key(|of| of.turn())?;
        let (least, class) = (wanted.get(first.next)?.tenant.clone(), first.class());
        for of in tenants.iter_mut() {
            let name = wanted.get(of.next).map(|wanted| &wanted.tenant);
            of.is_ahead = name.is_some_and(|name| self.is_ahead(name, &least));
        }
        Some(Short { least, most: longest(tenants, self.prices.step, class) })
    }

    /// The prompt of whoever is served next, if it has yet to start and can.
    fn next_start(&mut self, adapters: &InUse) -> Option<Wanted> {
        let tenant = self.share.next(None)?.party().clone();
        let Some(Prefill::Waiting) = self.prefill_of(&tenant) else { return None };
        let Sequence { id, owner, tokens, chain, .. } =
            self.accounts.get_mut(&tenant)?.waiting.front_mut()?;
        let past = self.pool.cached_blocks(owner, tokens, chain) * self.block_tokens;
        let service = Service::prefill(tokens.len().saturating_sub(past), past);
        let service = service.adapted(owner.adapter_kops());
        let cost = self.prices.cost(service, self.pool.in_all_layers());
        let adapter = owner.adapter;
        let part = adapters.more(adapter, self.prices.adapter_pair);
        Some(Wanted { id: *id, tenant, is_prompt: true, turn: 0, adapter, cost, part })
    }

    /// Orders what is wanted by tenants.
    fn group(&self, Decoding { wanted, tenants, .. }: &mut Decoding) {
        let order = |a: &Wanted| (a.is_prompt, a.turn, a.id);
        wanted.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant).then(order(a).cmp(&order(b))));
        tenants.clear();
        let mut next = 0;
        for own in wanted.chunk_by(|a, b| a.tenant == b.tenant) {
            let Some(Wanted { tenant, .. }) = own.first() else { continue };
            let (mut all, mut prompts) = (Cost::default(), Cost::default());
            for Wanted { is_prompt, cost, part, .. } in own {
                let of = if *is_prompt { &mut prompts } else { &mut all };
                *of += *cost;
                *of += *part;
            }
            let end = next + own.partition_point(|wanted| !wanted.is_prompt);
            if let Some((terms, served)) = self.share.served(tenant) {
                let had = Cost::default();
                let is_ahead = false;
                tenants.push(OfTenant { terms, served, is_ahead, next, end, all, had, prompts });
            }
            next += own.len();
        }
    }

    /// How long the step may take for the sake of this tenant, if it is ahead of another in it.
    pub(super) fn short_for(&self, tenant: &TenantName) -> Option<Cost> {
        let Short { least, most } = self.decoding.short.as_ref()?;
        self.is_ahead(tenant, least).then_some(*most)
    }

    /// Whether a tenant has had more than its part beside the least served one: far more, or something
    /// more where it has more calls as well. Who asks for no more than the other one does not flood.
    fn is_ahead(&self, tenant: &TenantName, least: &TenantName) -> bool {
        let account = |tenant| self.accounts.get(tenant);
        let (Some(own), Some(other)) = (account(tenant), account(least)) else { return false };
        let has_more = own.calls_for(other.weight) > other.calls_for(own.weight);
        self.share.is_ahead(tenant, least, if has_more { FLOOD_MIN } else { LEAD_MAX })
    }

    /// What the step takes as far as it is planned.
    pub(super) fn planned(&self) -> Cost {
        let mut all = Service { adapter_pairs: self.adapters.pairs(), ..Service::default() };
        for running in self.running.values() {
            all += running.service;
        }
        let mut cost = self.prices.cost(all, self.pool.in_all_layers());
        cost += self.prices.step;
        cost
    }

    /// What prompts may cost in a step that has so many rows left for them: what is left of the
    /// target, or half as much as all the rest where that is more. Whoever may come waits for all of
    /// the step, whether or not anybody decodes in it.
    pub(super) fn time_for_prompts(&self, rows: usize) -> Cost {
        let total = self.pool.in_all_layers();
        let most = self.prices.cost(Service::prefill(rows, PREFILL_PAST), total);
        let others = self.planned();
        let within = |target: Cost| most.min(target.without(others).max(others.part(2)));
        let usual = if others <= self.prices.step { most } else { within(STEP_TARGET) };
        if !self.company.is_expected() {
            return usual;
        }
        usual.min(within(SHORT_TARGET.max(self.prices.step.times(SHORT_STEPS))))
    }
}

/// How long a step may take for those that are ahead: a quarter more than where each tenant of the
/// class has as many next tokens as the one that has fewest.
fn longest(tenants: &[OfTenant], step: Cost, class: Reverse<Priority>) -> Cost {
    let of_class = || tenants.iter().filter(|of| of.class() == class && of.decodes());
    let mut fair = step;
    if let Some(least) = of_class().min_by_key(|of| of.terms.divide(of.all)) {
        for of in of_class() {
            fair += of.all.min(least.all.for_weight(of.terms.weight, least.terms.weight));
        }
    }
    fair.and_a_quarter().max(SHORT_TARGET)
}
