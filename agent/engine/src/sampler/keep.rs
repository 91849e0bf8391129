//! Which candidates are kept.

use super::{Candidate, Choice, largest::largest};

/// Tokens in a run of which only the largest logit is looked at first.
const RUN: usize = 64;

/// A logit that none of the `count` largest is below: as many runs hold one that is not. Below all
/// where `count` is 0 or too many for that. `room` is for the runs.
pub(super) fn floor_of(logits: &[f32], count: usize, room: &mut Vec<f32>) -> f32 {
    if !(1..logits.len().div_ceil(RUN)).contains(&count) {
        return f32::NEG_INFINITY;
    }
    room.clear();
    room.extend(logits.chunks(RUN).map(largest));
    *room.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

/// Keeps the `count` likeliest; 0 keeps all.
pub(super) fn likeliest(candidates: &mut Vec<Candidate>, count: usize) {
    if (1..candidates.len()).contains(&count) {
        sort_first(candidates, count, by_weight);
        candidates.truncate(count);
    }
}

/// Keeps the fewest likeliest whose probabilities sum to `share` of all; `false`, and nothing but their
/// order has changed, where those that are listed do not.
pub(super) fn nucleus(choice: &mut Choice, share: f64) -> bool {
    let enough = share * choice.total();
    let is_reached = keep_up_to(&mut choice.candidates, enough, by_weight);
    if is_reached {
        choice.rest = 0.0;
    }
    is_reached
}

/// Keeps the fewest whose probabilities sum to `share` of all, those first that tell about as much
/// as a token is expected to: the logarithms of their probabilities are nearest to the entropy.
pub(super) fn typical(candidates: &mut Vec<Candidate>, share: f64) {
    let total: f64 = candidates.iter().map(|c| c.weight).sum();
    // What a candidate tells, but for a constant, which is the same in what is expected.
    let tells = |c: &Candidate| -c.weight.ln();
    let expected = candidates.iter().map(|c| c.weight / total * tells(c)).sum::<f64>();
    let off = |c: &Candidate| (tells(c) - expected).abs();
    keep_share(candidates, share, |a, b| off(a).total_cmp(&off(b)).then(a.id.cmp(&b.id)));
}

fn by_weight(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Brings the first `count` of an order to the front.
fn sort_first(
    candidates: &mut [Candidate],
    count: usize,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering,
) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, &order);
    }
    candidates[..count].sort_unstable_by(order);
}

/// Keeps the fewest first of an order whose probabilities sum to `share` of all.
fn keep_share(
    candidates: &mut Vec<Candidate>,
    share: f64,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering,
) {
    let enough = share * candidates.iter().map(|c| c.weight).sum::<f64>();
    keep_up_to(candidates, enough, order);
}

/// Keeps the fewest first of an order that weigh `enough`; says whether all do.
fn keep_up_to(
    candidates: &mut Vec<Candidate>,
    enough: f64,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering,
) -> bool {
    /// What is kept is mostly little; sorting this many first spares sorting a whole vocabulary.
    const SORTED_FIRST: usize = 256;
    for count in [SORTED_FIRST.min(candidates.len()), candidates.len()] {
        sort_first(candidates, count, &order);
        let mut sum = 0.0;
        let reached = candidates[..count].iter().position(|c| {
            sum += c.weight;
            sum >= enough
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return true;
        }
    }
    false
}
