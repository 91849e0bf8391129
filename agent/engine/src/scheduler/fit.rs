//! Prices from measured steps: what a step takes as a sum over what was in it, by least squares.
//!
//! Every step counts by how far the sum is off in proportion to the step, so that long ones do not
//! drown short ones, and what was expected before counts as a few steps: a price of which the steps
//! seen so far say nothing stays what it was.

use std::time::Duration;

use super::cost::{Cost, Prices, Service};

/// The prices that are fitted: of a step, a prefill token, a decode token, an attended token, and of
/// adapters a thousand operations and a pair of matrices.
const TERMS: usize = 6;

/// As how many steps what was expected counts. Few against the first thousand, which a busy engine
/// has in a minute, and enough that a dozen odd ones turn nothing around.
const PRIOR_STEPS: f64 = 16.0;

/// The same of what adapters cost: a hundredth of a step's time each at first, of which hundreds of
/// steps tell no more than one does of what takes a tenth.
const PRIOR_OF_ADAPTERS: f64 = 0.05;

/// Of each term.
const PRIOR: [f64; TERMS] =
    [PRIOR_STEPS, PRIOR_STEPS, PRIOR_STEPS, PRIOR_STEPS, PRIOR_OF_ADAPTERS, PRIOR_OF_ADAPTERS];

/// Steps after which what came before counts half: some minutes of work, in which a machine's
/// clocks and neighbours change.
const HALF_LIFE_STEPS: f64 = 4096.0;

/// Sums over the steps seen, as the normal equations want them.
#[derive(Clone, Debug)]
pub(crate) struct Fit {
    expected: [f64; TERMS],
    /// Of what was in a step, each by each, over the square of what the step took.
    squares: [[f64; TERMS]; TERMS],
    /// Of what was in a step, over what it took.
    sums: [f64; TERMS],
}

impl Fit {
    /// Nothing seen yet, and these prices expected.
    pub(crate) fn new(expected: Prices) -> Self {
        // A price of nothing could not be weighed against another.
        let expected = seconds(expected).map(|price| price.max(1e-12));
        Self { expected, squares: [[0.0; TERMS]; TERMS], sums: [0.0; TERMS] }
    }

    /// Takes note of a step that did `service` for all together.
    pub(crate) fn observe(&mut self, service: Service, took: Duration) {
        let seconds = took.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let kept = 0.5_f64.powf(1.0 / HALF_LIFE_STEPS);
        let in_step = in_step(service).map(|count| count / seconds);
        for (row, &a) in in_step.iter().enumerate() {
            self.sums[row] = self.sums[row].mul_add(kept, a);
            for (column, &b) in in_step.iter().enumerate() {
                self.squares[row][column] = self.squares[row][column].mul_add(kept, a * b);
            }
        }
    }

    /// The prices that explain the steps best, none of them below zero.
    pub(crate) fn prices(&self) -> Prices {
        // In units of what was expected, all prices are about as large.
        let mut squares = self.squares;
        let mut sums = self.sums;
        for (row, a) in self.expected.iter().enumerate() {
            for (square, b) in squares[row].iter_mut().zip(&self.expected) {
                *square *= a * b;
            }
            squares[row][row] += PRIOR[row];
            sums[row] = sums[row].mul_add(*a, PRIOR[row]);
        }
        let fitted = solve_above_zero(&squares, &sums);
        let price = |at: usize| Cost::from_secs_f64(fitted[at] * self.expected[at]);
        Prices {
            step: price(0),
            prefill_token: price(1),
            decode_token: price(2),
            attended_token: price(3),
            adapter_kop: price(4),
            adapter_pair: price(5),
        }
    }
}

fn seconds(prices: Prices) -> [f64; TERMS] {
    let Prices { step, prefill_token, decode_token, attended_token, adapter_kop, adapter_pair } =
        prices;
    let terms = [step, prefill_token, decode_token, attended_token, adapter_kop, adapter_pair];
    terms.map(Cost::as_secs_f64)
}

fn in_step(service: Service) -> [f64; TERMS] {
    let Service {
        prefill_tokens,
        decode_tokens,
        attended_tokens,
        adapter_kops,
        adapter_pairs,
        block_ns: _,
        hook_ns: _,
    } = service;
    let counts = [1, prefill_tokens, decode_tokens, attended_tokens, adapter_kops, adapter_pairs];
    counts.map(|count| count as f64)
}

/// Solves `squares · x = sums` with no `x` below zero: what would be is left out, and the rest is
/// solved without it. At most one falls out each time.
fn solve_above_zero(squares: &[[f64; TERMS]; TERMS], sums: &[f64; TERMS]) -> [f64; TERMS] {
    let mut is_in = [true; TERMS];
    for _ in 0..TERMS {
        let x = solve(squares, sums, is_in);
        let least = (0..TERMS).min_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap_or(0);
        if x[least] >= 0.0 {
            return x;
        }
        is_in[least] = false;
    }
    [0.0; TERMS]
}

/// Gauss–Jordan over the terms that are in; the prior keeps every pivot above zero.
fn solve(
    squares: &[[f64; TERMS]; TERMS],
    sums: &[f64; TERMS],
    is_in: [bool; TERMS],
) -> [f64; TERMS] {
    let (mut a, mut b) = (*squares, *sums);
    for pivot in (0..TERMS).filter(|&term| is_in[term]) {
        for row in (0..TERMS).filter(|&row| is_in[row] && row != pivot) {
            let factor = a[row][pivot] / a[pivot][pivot];
            let above = a[pivot];
            for (value, pivoted) in a[row].iter_mut().zip(above) {
                *value -= factor * pivoted;
            }
            b[row] -= factor * b[pivot];
        }
    }
    std::array::from_fn(|term| if is_in[term] { b[term] / a[term][term] } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> impl Iterator<Item = Service> {
        let shapes = [(0, 1), (0, 8), (0, 64), (64, 0), (256, 0), (192, 64), (32, 2)];
        let at = [0, 100, 1000];
        let plain = shapes.into_iter().flat_map(move |(rows, sequences)| {
            at.map(|past| {
                let mut step = Service::default();
                for _ in 0..sequences {
                    step += Service::decode(past);
                }
                if rows > 0 {
                    step += Service::prefill(rows, past);
                }
                step
            })
        });
        // Each once as it is, and with an adapter, and with several of as many operations.
        plain.flat_map(|step| {
            let adapted = |adapter_pairs| Service { adapter_pairs, ..step.adapted(20_000) };
            [step, adapted(210), adapted(1680)]
        })
    }

    fn took(prices: &Prices, step: Service) -> Duration {
        let seconds = prices.step.as_secs_f64() + prices.cost(step, 1).as_secs_f64();
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn steps_tell_the_prices_that_made_them_whatever_was_expected() {
        let actual = Prices {
            step: Cost::from_secs_f64(5e-3),
            prefill_token: Cost::from_secs_f64(2e-5),
            decode_token: Cost::from_secs_f64(4e-5),
            attended_token: Cost::from_secs_f64(5e-8),
            adapter_kop: Cost::from_secs_f64(3e-9),
            adapter_pair: Cost::from_secs_f64(2e-6),
        };
        let mut fit = Fit::new(Prices::MEASURED);
        for _ in 0..100 {
            steps().for_each(|step| fit.observe(step, took(&actual, step)));
        }
        for (fitted, actual) in seconds(fit.prices()).into_iter().zip(seconds(actual)) {
            assert!((fitted / actual - 1.0).abs() < 0.1, "{fitted} for {actual}");
        }
    }

    /// As many as an engine has in a minute, each with one small adapter for some of its rows.
    #[test]
    fn steps_tell_what_an_adapter_costs_that_is_a_small_part_of_them() {
        let Prices { adapter_kop, adapter_pair, .. } = Prices::MEASURED;
        let times = |cost: Cost, by: f64| Cost::from_secs_f64(cost.as_secs_f64() * by);
        for (of_kop, of_pair) in [(0.2, 4.0), (3.0, 0.3)] {
            let actual = Prices {
                adapter_kop: times(adapter_kop, of_kop),
                adapter_pair: times(adapter_pair, of_pair),
                ..Prices::MEASURED
            };
            let mut fit = Fit::new(Prices::MEASURED);
            let step = |rows: u64, with_it: u64| {
                let mut all = Service::default();
                (0..rows)
                    .for_each(|row| all += Service::decode(100 + usize::try_from(row).unwrap()));
                let adapter_pairs = if with_it > 0 { 90 } else { 0 };
                Service { adapter_kops: 968 * with_it, adapter_pairs, ..all }
            };
            for number in 0..2000_u64 {
                let rows = 1 + number % 16;
                let step = step(rows, (number / 16) % (rows + 1));
                fit.observe(step, took(&actual, step));
            }
            let of_adapter = |prices: Prices, with_it: u64| {
                let service = Service {
                    adapter_pairs: 90,
                    adapter_kops: 968 * with_it,
                    ..Service::default()
                };
                prices.cost(service, 1).as_secs_f64()
            };
            for with_it in [1, 16] {
                let (fitted, actual) =
                    (of_adapter(fit.prices(), with_it), of_adapter(actual, with_it));
                assert!((fitted / actual - 1.0).abs() < 0.2, "{fitted} for {actual}");
            }
        }
    }

    #[test]
    fn what_no_step_has_told_stays_what_was_expected() {
        let mut fit = Fit::new(Prices::MEASURED);
        assert_eq!(fit.prices(), Prices::MEASURED);
        for _ in 0..1000 {
            fit.observe(Service::default(), Duration::from_millis(5));
        }
        let fitted = fit.prices();
        let seconds = fitted.step.as_secs_f64();
        assert!((seconds - 5e-3).abs() < 1e-4, "{seconds}");
        assert_eq!(Prices { step: Prices::MEASURED.step, ..fitted }, Prices::MEASURED);
    }

    #[test]
    fn no_price_is_below_zero() {
        let mut fit = Fit::new(Prices::MEASURED);
        for _ in 0..1000 {
            fit.observe(Service::decode(0), Duration::from_millis(9));
            fit.observe(Service::decode(5000), Duration::from_millis(2));
            fit.observe(Service::prefill(64, 0), Duration::from_millis(1));
        }
        assert_eq!(seconds(fit.prices()).into_iter().find(|price| *price < 0.0), None);
    }
}
