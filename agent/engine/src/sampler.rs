//! The next token from logits: greedy, or drawn after the mask, penalties, biases, what a hook says
//! of it, temperature, min-p, top-k, typical-p and top-p, in that order.
//!
//! Pure: the same logits, mask, settings, tokens before and place in the answer give the same token, so
//! that an answer may be cut anywhere and go on elsewhere. Ties go to the lowest id.

mod adjust;
mod keep;
mod largest;
mod logprobs;
mod rest;

use realm_core::{
    engine::{Generation, Sampling},
    hook::Steer,
    refusal::Refusal,
};
use realm_grammar::Mask;

use self::adjust::Adjustment;
pub(crate) use self::{largest::argmax, logprobs::Likely};

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
    /// Logits as they came, of a token of which something is to be told.
    told: Vec<f32>,
    choice: Choice,
    kept: Vec<(u32, f32)>,
}

/// Why no token can be picked: none of those that are left has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoToken {
    OfLogits,
    /// What the hook says leaves none of them.
    OfHook,
}

/// What may be drawn.
#[derive(Debug, Default)]
struct Choice {
    /// By their ids, or as settings order them.
    candidates: Vec<Candidate>,
    /// Of what is not listed: its logits are below this, and it weighs so much together.
    floor: f32,
    rest: f64,
    /// The largest logits of short runs of tokens.
    largest: Vec<f32>,
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

    /// The token at `position` of the answer, of those that mask and hook allow. The logits become
    /// what it was chosen by.
    pub(crate) fn pick(
        &self,
        logits: &mut [f32],
        (mask, steer): (Option<&Mask>, Option<&Steer>),
        position: usize,
        scratch: &mut Scratch,
    ) -> Result<u32, NoToken> {
        let Scratch { told, choice, kept } = scratch;
        if self.sampling.logprobs.is_some() {
            told.clear();
            told.extend_from_slice(logits);
        }
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        if let Some(adjustment) = &self.adjustment {
            adjustment.apply(logits);
        }
        let mut none = NoToken::OfLogits;
        if let Some(steer) = steer {
            if argmax(logits).is_some() {
                none = NoToken::OfHook;
            }
            adjust::steer(steer, logits, kept);
        }
        let best = argmax(logits).ok_or(none)?;
        if self.sampling.temperature == 0.0 {
            return Ok(best);
        }
        let scale = Scale::new(logits[best as usize], self.sampling.temperature);
        self.choose(logits, scale, choice);
        let drawn = choice.draw(logits, scale, uniform(self.seed, position as u64));
        Ok(drawn.unwrap_or(best))
    }

    /// What the settings ask to be told of the token that was picked last with this scratch.
    pub(crate) fn logprobs(&self, id: u32, scratch: &Scratch) -> Option<Likely> {
        self.sampling.logprobs.map(|count| logprobs::of(&scratch.told, id, count as usize))
    }

    /// Lists what may be drawn, or of what may be drawn as a whole what is likely.
    fn choose(&self, logits: &[f32], scale: Scale, choice: &mut Choice) {
        let Sampling { top_k, top_p, min_p, typical_p, .. } = self.sampling;
        let min_weight = f64::from(min_p);
        let floor = keep::floor_of(logits, top_k as usize, &mut choice.largest);
        let floor = floor.max(scale.floor(min_weight));
        let is_whole = top_k == 0 && floor == f32::NEG_INFINITY;
        if is_whole && typical_p >= 1.0 {
            let likely = scale.floor(LIKELY);
            choice.list(logits, scale, (likely, 0.0));
            choice.rest = rest::weight(logits, likely, scale);
            if top_p >= 1.0 || keep::nucleus(choice, f64::from(top_p)) {
                return;
            }
        }
        choice.list(logits, scale, (floor, min_weight));
        keep::likeliest(&mut choice.candidates, top_k as usize);
        if typical_p < 1.0 {
            keep::typical(&mut choice.candidates, f64::from(typical_p));
        }
        if top_p < 1.0 {
            keep::nucleus(choice, f64::from(top_p));
        }
    }
}

impl Choice {
    /// Lists all tokens whose logits are not below `floor` and that weigh `min_weight`.
    fn list(&mut self, logits: &[f32], scale: Scale, (floor, min_weight): (f32, f64)) {
        let listed = (0_u32..).zip(logits).filter(|(_, logit)| **logit >= floor);
        let weighed = listed.map(|(id, &logit)| Candidate { id, weight: scale.weight(logit) });
        self.candidates.clear();
        // Most are few. Where many may be drawn, the room for them is there.
        self.candidates.reserve(logits.len());
        self.candidates.extend(weighed.filter(|c| c.weight > 0.0 && c.weight >= min_weight));
        (self.floor, self.rest) = (floor, 0.0);
    }

    fn total(&self) -> f64 {
        self.candidates.iter().map(|c| c.weight).sum::<f64>() + self.rest
    }

    /// The token at a part in `[0, 1)` of what all weigh; `None` if rounding leaves none there.
    fn draw(&self, logits: &[f32], scale: Scale, at: f64) -> Option<u32> {
        let mut left = at * self.total();
        let mut is_there = |weight: f64| {
            left -= weight;
            left < 0.0
        };
        let listed = self.candidates.iter().find(|c| is_there(c.weight)).map(|c| c.id);
        if listed.is_some() || self.rest <= 0.0 {
            return listed;
        }
        let mut others = (0_u32..).zip(logits).filter(|(_, logit)| **logit < self.floor);
        others.find(|(_, logit)| is_there(scale.weight(**logit))).map(|(id, _)| id)
    }
}

/// Weights below this part of the largest are added up before any is looked at.
const LIKELY: f64 = 1e-4;

/// What tokens weigh by their logits.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// The largest logit, which weighs 1, so that `min_p` compares with it directly.
    best: f64,
    temperature: f64,
}

impl Scale {
    fn new(best: f32, temperature: f32) -> Self {
        Self { best: f64::from(best), temperature: f64::from(temperature) }
    }

    fn weight(self, logit: f32) -> f64 {
        ((f64::from(logit) - self.best) / self.temperature).exp()
    }

    /// A logit below all that weigh so much.
    #[expect(clippy::cast_possible_truncation, reason = "it is below by more than it is rounded")]
    fn floor(self, weight: f64) -> f32 {
        let logit = weight.ln().mul_add(self.temperature, self.best);
        (logit - 1e-6 * (logit.abs() + 1.0)) as f32
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
mod tests;
