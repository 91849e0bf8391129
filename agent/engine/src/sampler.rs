//! The next token from logits: greedy, or drawn after the mask, penalties, biases, what a hook says
//! of it, temperature, min-p, top-k, typical-p and top-p, in that order.
//!
//! Pure: the same logits, mask, settings, tokens before and place in the answer give the same token, so
//! that an answer may be cut anywhere and go on elsewhere. Ties go to the lowest id.

mod adjust;
mod keep;
mod logprobs;

use realm_core::{
    engine::{Generation, Sampling},
    hook::Steer,
    refusal::Refusal,
};
use realm_grammar::Mask;

use self::adjust::Adjustment;
pub(crate) use self::logprobs::Likely;

/// A checked way to choose tokens, with its seed and what it remembers of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    seed: u64,
    adjustment: Option<Adjustment>,
}

/// A token with its probability among all, not normalised.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    weight: f64,
}

/// Room for one choice, which all sequences of an engine share: once it has seen a vocabulary,
/// choosing allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    kept: Vec<(u32, f32)>,
}

impl Sampler {
    /// Checks the settings; `seed` is used where they name none. Tokens are of a vocabulary of
    /// that many.
    pub(crate) fn new(
        generation: &Generation,
        seed: u64,
        vocabulary: usize,
    ) -> Result<Self, Refusal> {
        let sampling = generation.sampling;
        sampling.check()?;
        let adjustment = Adjustment::new(generation, vocabulary)?;
        Ok(Self { sampling, seed: sampling.seed.unwrap_or(seed), adjustment })
    }

    /// Remembers a token of the answer. Each counts, whether it was chosen here or elsewhere.
    pub(crate) fn remember(&mut self, id: u32) {
        if let Some(adjustment) = &mut self.adjustment {
            adjustment.remember(id);
        }
    }

    /// The token at `position` of the answer, of those that mask and hook allow; `None` if the logits
    /// of these hold no number.
    pub(crate) fn pick(
        &self,
        logits: &[f32],
        (mask, steer): (Option<&Mask>, Option<&Steer>),
        position: usize,
        scratch: &mut Scratch,
    ) -> Option<u32> {
        let Scratch { logits: adjusted, candidates, kept } = scratch;
        let logits = if mask.is_none() && steer.is_none() && self.adjustment.is_none() {
            logits
        } else {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            if let Some(mask) = mask {
                mask.apply(adjusted);
            }
            if let Some(adjustment) = &self.adjustment {
                adjustment.apply(adjusted);
            }
            if let Some(steer) = steer {
                adjust::steer(steer, adjusted, kept);
            }
            adjusted
        };
        let best = argmax(logits)?;
        if self.sampling.temperature == 0.0 {
            return Some(best);
        }
        self.keep_candidates(logits, logits[best as usize], candidates);
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut left = uniform(self.seed, position as u64) * total;
        let drawn = candidates.iter().find(|c| {
            left -= c.weight;
            left < 0.0
        });
        Some(drawn.map_or(best, |c| c.id))
    }

    /// What the settings ask to be told of a token that these logits led to.
    pub(crate) fn logprobs(&self, logits: &[f32], id: u32) -> Option<Likely> {
        self.sampling.logprobs.map(|count| logprobs::of(logits, id, count as usize))
    }

    fn keep_candidates(&self, logits: &[f32], best: f32, candidates: &mut Vec<Candidate>) {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, .. } = self.sampling;
        let temperature = f64::from(temperature);
        let min_weight = f64::from(min_p);
        let weighed = (0_u32..).zip(logits).map(|(id, &logit)| {
            // The best has weight 1, so that `min_p` compares with it directly.
            let weight = ((f64::from(logit) - f64::from(best)) / temperature).exp();
            Candidate { id, weight }
        });
        candidates.clear();
        candidates.extend(weighed.filter(|c| c.weight > 0.0 && c.weight >= min_weight));
        keep::likeliest(candidates, top_k as usize);
        if typical_p < 1.0 {
            keep::typical(candidates, f64::from(typical_p));
        }
        if top_p < 1.0 {
            keep::nucleus(candidates, f64::from(top_p));
        }
    }
}

/// The id of the largest logit, the lowest of equals. NaN is never the largest.
///
/// The largest of a block is found first, in lanes that need not know where it is, and its place once.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    const BLOCK: usize = 512;
    let mut best = (0, f32::NEG_INFINITY);
    for (at, block) in logits.chunks(BLOCK).enumerate() {
        let most = largest(block);
        if most > best.1 {
            best = (at, most);
        }
    }
    let (at, most) = best;
    let block = logits.chunks(BLOCK).nth(at).filter(|_| most.is_finite())?;
    let place = block.iter().position(|logit| *logit >= most)?;
    u32::try_from(at * BLOCK + place).ok()
}

/// The largest that is a number; below all where none is.
fn largest(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let most = |a: f32, b: f32| if b > a { b } else { a };
    let (lanes, rest) = logits.as_chunks::<LANES>();
    let mut all = [f32::NEG_INFINITY; LANES];
    for lane in lanes {
        for (all, logit) in all.iter_mut().zip(lane) {
            *all = most(*all, *logit);
        }
    }
    all.iter().chain(rest).copied().fold(f32::NEG_INFINITY, most)
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
mod tests;
