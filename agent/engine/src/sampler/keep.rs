//! Which candidates are kept.

use super::Candidate;

/// Keeps the `count` likeliest; 0 keeps all.
pub(super) fn likeliest(candidates: &mut Vec<Candidate>, count: usize) {
    if (1..candidates.len()).contains(&count) {
        sort_first(candidates, count, by_weight);
        candidates.truncate(count);
    }
}

/// Keeps the fewest likeliest whose probabilities sum to `share` of all.
pub(super) fn nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    keep_share(candidates, share, by_weight);
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
    /// What is kept is mostly little; sorting this many first spares sorting a whole vocabulary.
    const SORTED_FIRST: usize = 256;
    let enough = share * candidates.iter().map(|c| c.weight).sum::<f64>();
    for count in [SORTED_FIRST.min(candidates.len()), candidates.len()] {
        sort_first(candidates, count, &order);
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
