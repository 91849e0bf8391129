//! Who has used how much of an engine, so that it adds up. Pure: what was measured is told.
//!
//! Everything is counted in whole units, and what is shared is divided without a rest
//! ([`Divider`]): the rows of all tenants and of those that are gone add up to what the engine has
//! done, and with its idle time and its overhead to all the time that it has had.

use std::{cmp::Reverse, collections::BTreeMap, ops::AddAssign, time::Duration};

use crate::name::{PipelineName, TenantName};

/// Pipelines of one tenant that have rows of their own. Names come and go while an engine lives, and
/// what is counted under them must not pile up: with five numbers each, these are at most four times
/// the series that a tenant has for a model anyway, and more than people look at one by one.
pub const PIPELINES_MAX: usize = 32;

/// How a tenant came to use something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// By a call of its own.
    #[default]
    Direct,
    /// By a step of this pipeline.
    Pipeline(PipelineName),
    /// By pipelines beyond the first [`PIPELINES_MAX`].
    OtherPipelines,
}

impl Way {
    /// By a call that is or is not a pipeline's step.
    pub fn of(pipeline: Option<PipelineName>) -> Self {
        pipeline.map_or(Self::Direct, Self::Pipeline)
    }

    /// What it is called in a metric. No pipeline has such a name as the words: they have no `/`.
    pub fn label(&self) -> &str {
        match self {
            Self::Direct => "-",
            Self::Pipeline(name) => name.as_str(),
            Self::OtherPipelines => "other",
        }
    }
}

/// What one tenant has used, by the way that it came to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByWay<T>(BTreeMap<Way, T>);

impl<T: AddAssign + Copy + Default> ByWay<T> {
    pub fn add(&mut self, way: &Way, used: T) {
        if let Some(row) = self.0.get_mut(way) {
            *row += used;
            return;
        }
        let pipelines = self.0.keys().filter(|way| matches!(way, Way::Pipeline(_)));
        let is_one_more = matches!(way, Way::Pipeline(_)) && pipelines.count() >= PIPELINES_MAX;
        let way = if is_one_more { Way::OtherPipelines } else { way.clone() };
        *self.0.entry(way).or_default() += used;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rows(&self) -> impl Iterator<Item = (&Way, T)> {
        self.0.iter().map(|(way, used)| (way, *used))
    }

    pub fn sum(&self) -> T {
        let mut sum = T::default();
        self.0.values().for_each(|used| sum += *used);
        sum
    }
}

impl ByWay<Used> {
    /// Takes everything out but the rows that had something; says whether there are any.
    fn clear(&mut self) -> bool {
        self.0.retain(|_, used| std::mem::take(used) != Used::default());
        !self.is_empty()
    }
}

/// What somebody has used of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub prompt_tokens: u64,
    /// Of the prompt tokens, those that were found in the cache.
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    /// Its part of the time of every step that it was in, in nanoseconds.
    pub device_ns: u64,
    /// How long blocks of the KV cache were held, counted for each block. A large cache that is
    /// full fills 64 bits of nanoseconds in a few days.
    pub block_ns: u128,
}

impl AddAssign for Used {
    fn add_assign(&mut self, other: Self) {
        let Self { prompt_tokens, cached_tokens, generated_tokens, device_ns, block_ns } = other;
        self.prompt_tokens = self.prompt_tokens.saturating_add(prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(cached_tokens);
        self.generated_tokens = self.generated_tokens.saturating_add(generated_tokens);
        self.device_ns = self.device_ns.saturating_add(device_ns);
        self.block_ns = self.block_ns.saturating_add(block_ns);
    }
}

/// What an engine has done with its time, in nanoseconds: every moment is one of the three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTime {
    /// Steps that came to their end.
    pub computing_ns: u64,
    /// Nobody wanted anything.
    pub idle_ns: u64,
    /// All else: planning, choosing tokens, waiting for masks, and steps that failed.
    pub overhead_ns: u64,
}

impl EngineTime {
    pub const fn total_ns(self) -> u64 {
        let Self { computing_ns, idle_ns, overhead_ns } = self;
        computing_ns.saturating_add(idle_ns).saturating_add(overhead_ns)
    }
}

impl AddAssign for EngineTime {
    fn add_assign(&mut self, other: Self) {
        let Self { computing_ns, idle_ns, overhead_ns } = other;
        self.computing_ns = self.computing_ns.saturating_add(computing_ns);
        self.idle_ns = self.idle_ns.saturating_add(idle_ns);
        self.overhead_ns = self.overhead_ns.saturating_add(overhead_ns);
    }
}

/// The books of one engine, since its model was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    tenants: BTreeMap<TenantName, ByWay<Used>>,
    /// Of tenants that have been forgotten.
    gone: Used,
    pub time: EngineTime,
    /// How long blocks were held by anybody, counted by the cache itself.
    pub block_ns: u128,
}

impl Books {
    pub fn add(&mut self, tenant: &TenantName, way: &Way, used: Used) {
        if let Some(of_tenant) = self.tenants.get_mut(tenant) {
            of_tenant.add(way, used);
        } else {
            self.tenants.entry(tenant.clone()).or_default().add(way, used);
        }
    }

    /// Adds what is in books of the same engine, such as those of its last step.
    pub fn absorb(&mut self, other: &Self) {
        let Self { tenants, gone, time, block_ns } = other;
        for (tenant, of_tenant) in tenants {
            // Of what only kept its row, nothing is known here that would have to be told.
            for (way, used) in of_tenant.rows().filter(|(_, used)| *used != Used::default()) {
                self.add(tenant, way, used);
            }
        }
        self.gone += *gone;
        self.time += *time;
        self.block_ns = self.block_ns.saturating_add(*block_ns);
    }

    /// Takes everything out, and keeps the rows of those that had something: the next step of an
    /// engine is mostly of the same tenants, and their rows are there.
    pub fn clear(&mut self) {
        self.tenants.retain(|_, of_tenant| of_tenant.clear());
        self.gone = Used::default();
        self.time = EngineTime::default();
        self.block_ns = 0;
    }

    /// Forgets who it was; what was used stays in the sums.
    pub fn forget(&mut self, tenant: &TenantName) {
        if let Some(of_tenant) = self.tenants.remove(tenant) {
            self.gone += of_tenant.sum();
        }
    }

    /// Keeps the names of those that are known, and of the others what they used.
    pub fn retain(&mut self, is_known: impl Fn(&TenantName) -> bool) {
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        names.iter().filter(|name| !is_known(name)).for_each(|name| self.forget(name));
    }

    pub fn tenants(&self) -> impl Iterator<Item = (&TenantName, &ByWay<Used>)> {
        self.tenants.iter()
    }

    /// What tenants used that have been forgotten.
    pub const fn gone(&self) -> Used {
        self.gone
    }

    /// What all have used, those that are gone among them.
    pub fn sum(&self) -> Used {
        let mut sum = self.gone;
        self.tenants.values().for_each(|of_tenant| sum += of_tenant.sum());
        sum
    }
}

/// A duration as it is booked: 64 bits hold more than five hundred years.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Divides in memory that it keeps, so that who divides with every step allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Divider {
    pieces: Vec<u64>,
    order: Vec<usize>,
}

impl Divider {
    /// Divides `whole` in proportion to `by`, into pieces that add up to it: each is what is due
    /// rounded down, and what is then left goes by ones to those that miss most of their due, of
    /// equals to the first. Where nothing tells them apart all get the same. There is a piece for each
    /// of `by`.
    pub fn divide(&mut self, whole: u64, by: &[u64]) -> &[u64] {
        let Self { pieces, order } = self;
        let sum: u128 = by.iter().map(|&part| u128::from(part)).sum();
        let (all, least) = if sum == 0 { (by.len() as u128, 1) } else { (sum, 0) };
        let due = |part: u64| u128::from(whole) * u128::from(part.max(least));
        let piece = |&part: &u64| u64::try_from(due(part) / all).unwrap_or(u64::MAX);
        pieces.clear();
        pieces.extend(by.iter().map(piece));
        let left = pieces.iter().fold(whole, |left, piece| left.saturating_sub(*piece));
        order.clear();
        order.extend(0..by.len());
        order.sort_unstable_by_key(|&at| (Reverse(due(by[at]) % all), at));
        for &at in order.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            pieces[at] += 1;
        }
        pieces
    }
}

#[cfg(test)]
mod tests;
