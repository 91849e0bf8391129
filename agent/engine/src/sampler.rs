//! The next token from logits: greedy, or drawn after temperature, top-k, top-p and min-p.
//!
//! Pure: the same logits, settings and place in the answer give the same token, so that an answer
//! may be cut anywhere and go on elsewhere. Ties go to the lowest id.

use realm_core::{engine::Sampling, refusal::Refusal};

/// A checked way to choose tokens, with its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    seed: u64,
}

/// A token with its probability among all, not normalised.
#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    weight: f64,
}

impl Sampler {
    /// Checks the settings; `seed` is used where they name none.
    pub(crate) fn new(sampling: Sampling, seed: u64) -> Result<Self, Refusal> {
        let refuse = |message: &str| Err(Refusal::Invalid(message.to_owned()));
        if !(0.0..=100.0).contains(&sampling.temperature) {
            return refuse("`temperature` must be from 0 to 100");
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return refuse("`top_p` must be above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&sampling.min_p) {
            return refuse("`min_p` must be from 0 to 1");
        }
        Ok(Self { sampling, seed: sampling.seed.unwrap_or(seed) })
    }

    /// The token at `position` of the answer; `None` if the logits hold no number.
    pub(crate) fn pick(&self, logits: &[f32], position: usize) -> Option<u32> {
        let best = argmax(logits)?;
        if self.sampling.temperature == 0.0 {
            return Some(best);
        }
        let candidates = self.candidates(logits, logits[best as usize]);
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut left = uniform(self.seed, position as u64) * total;
        let drawn = candidates.iter().find(|c| {
            left -= c.weight;
            left < 0.0
        });
        Some(drawn.map_or(best, |c| c.id))
    }

    fn candidates(&self, logits: &[f32], best: f32) -> Vec<Candidate> {
        let Sampling { temperature, top_k, top_p, min_p, seed: _ } = self.sampling;
        let temperature = f64::from(temperature);
        let min_weight = f64::from(min_p);
        let mut candidates: Vec<Candidate> = (0_u32..)
            .zip(logits)
            // The best has weight 1, so that `min_p` compares with it directly.
            .map(|(id, &logit)| {
                let weight = ((f64::from(logit) - f64::from(best)) / temperature).exp();
                Candidate { id, weight }
            })
            .filter(|c| c.weight > 0.0 && c.weight >= min_weight)
            .collect();
        let top_k = top_k as usize;
        if (1..candidates.len()).contains(&top_k) {
            sort_first(&mut candidates, top_k);
            candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            keep_likeliest(&mut candidates, f64::from(top_p));
        }
        candidates
    }
}

/// The id of the largest logit, the lowest of equals. NaN is never the largest.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0_u32..).zip(logits) {
        if best.map_or_else(|| !logit.is_nan(), |(_, most)| logit > most) {
            best = Some((id, logit));
        }
    }
    best.filter(|(_, logit)| logit.is_finite()).map(|(id, _)| id)
}

/// Brings the `count` likeliest to the front, in order.
fn sort_first(candidates: &mut [Candidate], count: usize) {
    let order = |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id));
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
    }
    candidates[..count].sort_unstable_by(order);
}

/// Keeps the fewest likeliest whose probabilities sum to `share` of all.
fn keep_likeliest(candidates: &mut Vec<Candidate>, share: f64) {
    /// A nucleus is mostly small; sorting this many first spares sorting a whole vocabulary.
    const SORTED_FIRST: usize = 256;
    let enough = share * candidates.iter().map(|c| c.weight).sum::<f64>();
    for count in [SORTED_FIRST.min(candidates.len()), candidates.len()] {
        sort_first(candidates, count);
        let mut sum = 0.0;
        let reached = candidates[..count].iter().position(|c| {
            sum += c.weight;
            sum >= enough
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return;
        }
    }
}

/// A number in `[0, 1)` that depends on the seed and the position alone.
///
/// Two rounds of the SplitMix64 finaliser over a counter: no state to keep, so that a sequence that
/// is computed again draws the same tokens again.
fn uniform(seed: u64, position: u64) -> f64 {
    let mixed = mix(mix(seed).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    // The upper 53 bits, as many as a double holds.
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(sampling, 7).unwrap()
    }

    fn drawn(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let sampler = sampler(sampling);
        let mut ids: Vec<u32> =
            (0..2000).map(|position| sampler.pick(logits, position).unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    const SOFT: Sampling =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: None };

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
        let greedy = sampler(Sampling::default());
        assert_eq!(greedy.pick(&[1.0, 3.0, f32::NAN, 3.0], 0), Some(1));
        assert_eq!(greedy.pick(&[f32::NAN, f32::NAN], 0), None);
        assert_eq!(greedy.pick(&[f32::INFINITY, 0.0], 0), None);
    }

    #[test]
    fn each_limit_keeps_only_the_likeliest() {
        let logits = [0.0, 2.0, 1.0, 2.0, -9.0];
        assert_eq!(drawn(Sampling { top_k: 2, ..SOFT }, &logits), [1, 3]);
        assert_eq!(drawn(Sampling { top_k: 1, ..SOFT }, &logits), [1]);
        assert_eq!(drawn(Sampling { min_p: 0.3, ..SOFT }, &logits), [1, 2, 3]);
        assert_eq!(drawn(Sampling { top_p: 0.7, ..SOFT }, &logits), [1, 3]);
        assert_eq!(drawn(Sampling { temperature: 0.01, ..SOFT }, &logits), [1, 3]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0_f32, 3.0_f32.ln()];
        let sampler = sampler(SOFT);
        let ones = (0..20_000).filter(|&p| sampler.pick(&logits, p) == Some(1)).count();
        // Three in four, give or take five standard deviations of sqrt(20000 * 3/16).
        assert!((14_700..15_300).contains(&ones), "{ones}");
    }

    #[test]
    fn the_same_seed_and_position_draw_the_same_token() {
        let logits: Vec<f32> = (0..1000_u16).map(|i| f32::from(i % 17)).collect();
        let ids = |seed| {
            let sampler = sampler(Sampling { seed: Some(seed), ..SOFT });
            (0..64).map(|p| sampler.pick(&logits, p)).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
    }

    #[test]
    fn a_nucleus_larger_than_the_first_sort_is_kept_whole() {
        let logits = vec![0.0; 1000];
        let sampler = sampler(Sampling { top_p: 0.5, ..SOFT });
        assert_eq!(sampler.candidates(&logits, 0.0).len(), 500);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..SOFT },
            Sampling { temperature: f32::NAN, ..SOFT },
            Sampling { top_p: 0.0, ..SOFT },
            Sampling { top_p: 1.1, ..SOFT },
            Sampling { min_p: f32::NAN, ..SOFT },
        ] {
            assert!(matches!(Sampler::new(bad, 0), Err(Refusal::Invalid(_))), "{bad:?}");
        }
    }
}
