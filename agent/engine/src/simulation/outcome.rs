//! What everybody got.

/// What one tenant has had.
#[derive(Clone, Debug, Default)]
pub struct Had {
    /// Of the engine's time and memory, in seconds of the whole engine.
    pub cost_s: f64,
    /// Tokens of answers.
    pub tokens: u64,
    pub prefill_tokens: u64,
    /// From each call to its first token.
    pub first_s: Vec<f64>,
    /// Between one token and the next.
    pub gaps_s: Vec<f64>,
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long it was counted.
    pub seconds: f64,
    pub tenants: Vec<Had>,
    /// What the first tenants had cost by the start of each second.
    pub curve: Vec<(f64, [f64; CURVES])>,
}

/// Tenants whose costs are drawn.
pub(super) const CURVES: usize = 3;

impl Outcome {
    pub(super) fn new(tenants: usize) -> Self {
        Self { seconds: 0.0, tenants: vec![Had::default(); tenants], curve: Vec::new() }
    }

    /// Takes note of the costs at `now`, if a second has passed.
    pub(super) fn note(&mut self, now: f64) {
        if self.curve.last().is_none_or(|(at, _)| now >= at + 1.0) {
            let mut costs = [0.0; CURVES];
            for (cost, had) in costs.iter_mut().zip(&self.tenants) {
                *cost = had.cost_s;
            }
            self.curve.push((now.floor(), costs));
        }
    }

    pub fn costs(&self) -> impl Iterator<Item = f64> {
        self.tenants.iter().map(|had| had.cost_s)
    }

    /// Tokens of answers a second, for all together.
    pub fn tokens_per_second(&self) -> f64 {
        let tokens: u64 = self.tenants.iter().map(|had| had.tokens).sum();
        tokens as f64 / self.seconds
    }
}

/// How even `parts` are: 1 where all are the same, one over their number where one has all
/// (Jain, Chiu and Hawe, 1984).
pub fn jain(parts: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for part in parts {
        count += 1.0;
        sum += part;
        squares += part * part;
    }
    if squares > 0.0 { sum * sum / (count * squares) } else { 1.0 }
}

/// The least of `values` that no more than a hundred less `percent` in a hundred exceed.
pub fn percentile(values: impl Iterator<Item = f64>, percent: u32) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent as usize).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_where_all_have_the_same_and_falls_to_one_over_their_number() {
        assert!((jain([3.0, 3.0].into_iter()) - 1.0).abs() < 1e-12);
        assert!((jain([1.0, 0.0, 0.0, 0.0].into_iter()) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let of = |percent| percentile((1..=20).map(f64::from), percent);
        assert_eq!(
            [of(50), of(95), of(100)].map(f64::to_bits),
            [10.0, 19.0, 20.0].map(f64::to_bits)
        );
        assert!(percentile([].into_iter(), 50).is_nan());
    }
}
