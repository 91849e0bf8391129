//! What a caller and the tokens so far change about logits.

use std::collections::HashMap;

use realm_core::{
    engine::{Generation, Sampling},
    hook::Steer,
    refusal::Refusal,
    sampling::check_bias,
};

/// Penalties for tokens that came before, and biases.
#[derive(Clone, Debug)]
pub(super) struct Adjustment {
    repetition: f32,
    frequency: f32,
    presence: f32,
    bias: Vec<(u32, f32)>,
    /// How often the answer has each token that came before; 0 for those of the prompt alone. At
    /// most one entry for each token of the context.
    seen: HashMap<u32, u32>,
}

impl Adjustment {
    /// `None` if nothing is to be changed.
    pub(super) fn new(generation: &Generation, vocabulary: usize) -> Result<Option<Self>, Refusal> {
        let size = u32::try_from(vocabulary).unwrap_or(u32::MAX);
        check_bias(&generation.bias, size)?;
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } =
            generation.sampling;
        let repeats = (repetition_penalty - 1.0).abs() > 0.0;
        let penalises = repeats || frequency_penalty.abs() > 0.0 || presence_penalty.abs() > 0.0;
        if !penalises && generation.bias.is_empty() {
            return Ok(None);
        }
        let mut seen = HashMap::new();
        if penalises {
            let answer = generation.tokens_max.unwrap_or(0) as usize;
            seen.reserve(generation.prompt.len().saturating_add(answer).min(vocabulary));
        }
        if repeats {
            seen.extend(generation.prompt.iter().map(|&id| (id, 0)));
        }
        Ok(Some(Self {
            repetition: repetition_penalty,
            frequency: frequency_penalty,
            presence: presence_penalty,
            bias: generation.bias.clone(),
            seen,
        }))
    }

    pub(super) fn remember(&mut self, id: u32) {
        let count = self.seen.entry(id).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (&id, &count) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let by = self.repetition;
            *logit = if *logit > 0.0 { *logit / by } else { *logit * by };
            *logit -= self.frequency * count as f32;
            *logit -= if count > 0 { self.presence } else { 0.0 };
        }
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }
}

/// What a hook says of the next token; `kept` is room for the tokens that it lists.
pub(super) fn steer(steer: &Steer, logits: &mut [f32], kept: &mut Vec<(u32, f32)>) {
    match steer {
        Steer::Add(biases) => {
            for &(id, bias) in biases {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit += bias;
                }
            }
        }
        Steer::Only(ids) => {
            kept.clear();
            kept.extend(ids.iter().filter_map(|&id| Some((id, *logits.get(id as usize)?))));
            logits.fill(f32::NEG_INFINITY);
            for &mut (id, logit) in kept {
                if let Some(place) = logits.get_mut(id as usize) {
                    *place = logit;
                }
            }
        }
    }
}
