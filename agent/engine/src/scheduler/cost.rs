//! What service costs. Each thing is counted in its own unit and has a price in the engine's time,
//! so that a step's costs add up to what the step takes.
//!
//! A further kind of service is one more field of [`Service`], one more price, and one more term of
//! [`Prices::cost`].

use std::ops::AddAssign;

use crate::hook::threads::THREADS;

/// Picoseconds of the engine's time: a token that is attended to costs less than a nanosecond on a
/// fast device, and 64 bits hold half a year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost(u64);

/// Picoseconds of one second.
const PER_SECOND: f64 = 1e12;

impl Cost {
    pub(crate) const fn picoseconds(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds.saturating_mul(1_000_000_000))
    }

    /// So many seconds; none where they are no number or below zero.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates, and below zero there is nothing to charge"
    )]
    pub(crate) const fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * PER_SECOND).round() as u64)
    }

    pub(crate) fn as_secs_f64(self) -> f64 {
        self.0 as f64 / PER_SECOND
    }

    pub(super) const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// How often `other` fits in.
    pub(super) fn fits(self, other: Self) -> usize {
        usize::try_from(self.0 / other.0.max(1)).unwrap_or(usize::MAX)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// What somebody of weight `weight` has where one of weight `by` has this.
    pub(super) fn for_weight(self, weight: u32, by: u32) -> Self {
        let cost = u128::from(self.0) * u128::from(weight) / u128::from(by.max(1));
        Self(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// A quarter more.
    pub(super) const fn and_a_quarter(self) -> Self {
        Self(self.0.saturating_add(self.0 / 4))
    }

    /// One of `parts` equal parts.
    pub(super) const fn part(self, parts: usize) -> Self {
        Self(self.0 / if parts == 0 { 1 } else { parts as u64 })
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

/// What somebody has had of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Tokens of prompts that were computed: what the cache held is nobody's service.
    pub(crate) prefill_tokens: u64,
    /// Rows that gave the next token of an answer.
    pub(crate) decode_tokens: u64,
    /// Tokens in the cache that rows attended to, counted for each row.
    pub(crate) attended_tokens: u64,
    /// Thousands of multiplies and adds by the adapters of rows.
    pub(crate) adapter_kops: u64,
    /// Pairs of matrices of adapters, counted once for each step in which any row has them: what
    /// those who have an adapter share.
    pub(crate) adapter_pairs: u64,
    /// How long KV blocks were held, counted for each block, in nanoseconds.
    pub(crate) block_ns: u64,
    /// How long hooks have had a processor on their threads, in nanoseconds.
    pub(crate) hook_ns: u64,
}

impl Service {
    /// `rows` rows of a prompt that come after `past` tokens.
    pub(crate) const fn prefill(rows: usize, past: usize) -> Self {
        Self {
            prefill_tokens: rows as u64,
            decode_tokens: 0,
            attended_tokens: attended(rows as u64, past as u64),
            adapter_kops: 0,
            adapter_pairs: 0,
            block_ns: 0,
            hook_ns: 0,
        }
    }

    /// The row of an answer that comes after `past` tokens.
    pub(crate) const fn decode(past: usize) -> Self {
        Self {
            prefill_tokens: 0,
            decode_tokens: 1,
            attended_tokens: attended(1, past as u64),
            adapter_kops: 0,
            adapter_pairs: 0,
            block_ns: 0,
            hook_ns: 0,
        }
    }

    /// The same by an adapter of so many thousands of multiplies and adds for each row.
    pub(crate) const fn adapted(self, kops: u64) -> Self {
        let rows = self.prefill_tokens.saturating_add(self.decode_tokens);
        Self { adapter_kops: rows.saturating_mul(kops), ..self }
    }

    /// Blocks that were held, counted for each block, in nanoseconds.
    pub(crate) fn holding(block_ns: u64) -> Self {
        Self { block_ns, ..Self::default() }
    }

    /// A processor on a thread of hooks, for so many nanoseconds.
    pub(crate) fn hooks(hook_ns: u64) -> Self {
        Self { hook_ns, ..Self::default() }
    }
}

/// Each row attends to what is before it and to itself.
const fn attended(rows: u64, past: u64) -> u64 {
    rows.saturating_mul(past).saturating_add(rows.saturating_mul(rows + 1) / 2)
}

impl AddAssign for Service {
    fn add_assign(&mut self, other: Self) {
        let Self {
            prefill_tokens,
            decode_tokens,
            attended_tokens,
            adapter_kops,
            adapter_pairs,
            block_ns,
            hook_ns,
        } = other;
        self.prefill_tokens = self.prefill_tokens.saturating_add(prefill_tokens);
        self.decode_tokens = self.decode_tokens.saturating_add(decode_tokens);
        self.attended_tokens = self.attended_tokens.saturating_add(attended_tokens);
        self.adapter_kops = self.adapter_kops.saturating_add(adapter_kops);
        self.adapter_pairs = self.adapter_pairs.saturating_add(adapter_pairs);
        self.block_ns = self.block_ns.saturating_add(block_ns);
        self.hook_ns = self.hook_ns.saturating_add(hook_ns);
    }
}

/// What one of each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prices {
    /// A step, whatever is in it: for the most part, reading the weights once.
    pub(crate) step: Cost,
    pub(crate) prefill_token: Cost,
    pub(crate) decode_token: Cost,
    pub(crate) attended_token: Cost,
    /// A thousand multiplies and adds of an adapter.
    pub(crate) adapter_kop: Cost,
    /// A pair of matrices of an adapter in a step, however many rows have it.
    pub(crate) adapter_pair: Cost,
}

/// Operations of one token in the layers' matrices of the model that [`Prices::MEASURED`] is of.
const MEASURED_OPS: u64 = 212_336_640;

impl Prices {
    /// Of SmolLM2-135M-Instruct (Q4_1) on two cores of an AMD EPYC with AVX-512 VNNI.
    ///
    /// `tests/results/smollm2-135m-cpu.md` has one sequence's steps of 4.2 ms and eight sequences'
    /// of 10.2 ms, so a row more takes 0.84 ms and what is left is the step's; 512 tokens of a
    /// prompt take 323 ms, of which two steps and what they attend to are not theirs. A token
    /// attended to is as `realm bench` fitted it there. An adapter's are of rank 4, without AVX-512
    /// (`tests/results/tenancy.md`): narrow matrices take far longer for each operation than wide ones.
    pub(crate) const MEASURED: Self = Self {
        step: Cost::from_secs_f64(3.4e-3),
        prefill_token: Cost::from_secs_f64(0.54e-3),
        decode_token: Cost::from_secs_f64(0.84e-3),
        attended_token: Cost::from_secs_f64(0.30e-6),
        adapter_kop: Cost::from_secs_f64(6.5e-8),
        adapter_pair: Cost::from_secs_f64(3.6e-6),
    };

    /// What to begin with for a model of so many operations a token, until its own steps have told
    /// ([`super::fit`]). How the prices stand to each other is what shares depend on, and that
    /// differs less between models than their size does.
    pub(crate) fn for_model(ops_per_token: u64) -> Self {
        let scale = ops_per_token.max(1) as f64 / MEASURED_OPS as f64;
        let scaled = |cost: Cost| Cost::from_secs_f64(cost.as_secs_f64() * scale);
        let Self { step, prefill_token, decode_token, attended_token, .. } = Self::MEASURED;
        Self {
            step: scaled(step),
            prefill_token: scaled(prefill_token),
            decode_token: scaled(decode_token),
            attended_token: scaled(attended_token),
            // An adapter's are of its own size.
            ..Self::MEASURED
        }
    }

    /// The cost of `service` by an engine whose cache has `blocks` blocks.
    ///
    /// Memory is as scarce as time: whoever holds the whole cache for a second pays for a second, and
    /// so does whoever keeps all threads of hooks at work.
    /// Steps are not in it; they are shared by all that is in them.
    pub(crate) fn cost(&self, service: Service, blocks: usize) -> Cost {
        let Service {
            prefill_tokens,
            decode_tokens,
            attended_tokens,
            adapter_kops,
            adapter_pairs,
            block_ns,
            hook_ns,
        } = service;
        let second_of_all = Cost::from_secs_f64(1e-9 / blocks.max(1) as f64 * block_ns as f64);
        let mut cost = self.prefill_token.times(prefill_tokens);
        cost += self.decode_token.times(decode_tokens);
        cost += self.attended_token.times(attended_tokens);
        cost += self.adapter_kop.times(adapter_kops);
        cost += self.adapter_pair.times(adapter_pairs);
        cost += second_of_all;
        cost += Cost::from_secs_f64(1e-9 / f64::from(THREADS) * hook_ns as f64);
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_attends_to_what_is_before_it_and_to_itself() {
        assert_eq!(Service::decode(7).attended_tokens, 8);
        assert_eq!(Service::prefill(3, 10).attended_tokens, 11 + 12 + 13);
    }

    #[test]
    fn the_whole_cache_for_a_second_costs_a_second() {
        let all = Service::holding(64 * 1_000_000_000);
        assert_eq!(Prices::MEASURED.cost(all, 64), Cost::from_secs_f64(1.0));
    }

    #[test]
    fn all_threads_of_hooks_for_a_second_cost_a_second() {
        let all = Service::hooks(u64::from(THREADS) * 1_000_000_000);
        assert_eq!(Prices::MEASURED.cost(all, 64), Cost::from_secs_f64(1.0));
    }

    #[test]
    fn a_cached_token_costs_nothing_but_being_attended_to() {
        let prices = Prices::MEASURED;
        let cold = prices.cost(Service::prefill(512, 0), 64);
        let warm = prices.cost(Service::prefill(32, 480), 64);
        assert!(cold.as_secs_f64() > 10.0 * warm.as_secs_f64());
    }

    #[test]
    fn a_model_of_twice_the_size_begins_with_twice_the_prices() {
        let twice = Prices::for_model(2 * MEASURED_OPS);
        assert_eq!(twice.decode_token, Prices::MEASURED.decode_token.times(2));
    }
}
