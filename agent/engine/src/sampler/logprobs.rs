//! How likely tokens were.

use super::{LIKELY, Scale, largest::largest, rest};

/// Logarithms of probabilities: of a token, and of those that were likeliest, by their ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Likely {
    pub(crate) own: f32,
    /// The likeliest first, and of equals the one with the lowest id.
    pub(crate) top: Vec<(u32, f32)>,
}

/// Of token `id`, and of the `count` likeliest. A logit that is no number was never likely.
pub(super) fn of(logits: &[f32], id: u32, count: usize) -> Likely {
    let most = largest(logits);
    let scale = Scale::new(most, 1.0);
    let floor = scale.floor(LIKELY);
    let likely = logits.iter().filter(|logit| **logit >= floor).map(|logit| scale.weight(*logit));
    let sum = likely.sum::<f64>() + rest::weight(logits, floor, scale);
    let logarithm = f64::from(most) + sum.ln();
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    let of = |logit: f32| (f64::from(logit) - logarithm) as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, &logit) in (0_u32..).zip(logits).filter(|(_, logit)| !logit.is_nan()) {
        if top.len() < count || top.last().is_some_and(|&(_, least)| logit > least) {
            let at = top.partition_point(|&(_, other)| other >= logit);
            top.insert(at, (id, logit));
            top.truncate(count);
        }
    }
    for (_, logit) in &mut top {
        *logit = of(*logit);
    }
    let own = logits.get(id as usize).copied().filter(|logit| !logit.is_nan());
    Likely { own: own.map_or(f32::NEG_INFINITY, of), top }
}
