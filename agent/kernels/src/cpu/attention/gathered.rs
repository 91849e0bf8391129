//! What queries have gathered of the values that they have walked over: sums under the largest score
//! so far (the online softmax), and how those of two parts of a sequence come together.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use std::ops::Range;

use crate::cpu::simd::{LANES, Lanes, Simd, exp};

/// What up to `N` queries have gathered so far.
pub(super) struct Gathered<'a, const N: usize> {
    pub(super) largest: [f32; N],
    pub(super) total: [f32; N],
    /// `(head_dim / 16, query)`
    pub(super) sums: &'a mut [[Lanes; N]],
}

impl<'a, const N: usize> Gathered<'a, N> {
    /// Nothing.
    #[inline(always)]
    pub(super) fn new(sums: &'a mut [[Lanes; N]]) -> Self {
        sums.as_flattened_mut().fill([0.0; LANES]);
        Self { largest: [f32::NEG_INFINITY; N], total: [0.0; N], sums }
    }

    /// Adds what was gathered of the part of the sequence that comes next.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, part: &Gathered<'_, N>) {
        for query in 0..N {
            let whole = (&mut self.largest[query], &mut self.total[query]);
            let of_part = (part.largest[query], part.total[query]);
            let Some(factors) = join(simd, whole, of_part) else { continue };
            for (sums, of_part) in self.sums.iter_mut().zip(&*part.sums) {
                add_line(simd, &mut sums[query], &of_part[query], factors);
            }
        }
    }

    /// Scales what query `query` has gathered by `exp(grown)`.
    #[inline(always)]
    fn shrink<S: Simd>(&mut self, simd: S, query: usize, grown: f32) {
        let factor = exp_of(simd, grown);
        for sums in &mut *self.sums {
            let sum = simd.mul(simd.load(&sums[query]), simd.splat(factor));
            simd.store(sum, &mut sums[query]);
        }
        self.total[query] *= factor;
    }
}

#[inline(always)]
fn exp_of<S: Simd>(simd: S, value: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    simd.store(exp(simd, simd.splat(value)), &mut lanes);
    lanes[0]
}

/// Takes the largest score and the total of a part to those of all before it, and says by what the
/// sums of both are to be scaled; `None` where the part has nothing. What the first part has comes out
/// as it is.
#[inline(always)]
pub(super) fn join<S: Simd>(
    simd: S,
    (largest, total): (&mut f32, &mut f32),
    (of_part, total_of_part): (f32, f32),
) -> Option<[f32; 2]> {
    if of_part == f32::NEG_INFINITY {
        return None;
    }
    let factors = if *largest >= of_part {
        [1.0, exp_of(simd, of_part - *largest)]
    } else {
        [exp_of(simd, *largest - of_part), 1.0]
    };
    *largest = largest.max(of_part);
    *total = *total * factors[0] + total_of_part * factors[1];
    Some(factors)
}

/// `sums = sums * factors[0] + of_part * factors[1]`
#[inline(always)]
pub(super) fn add_line<S: Simd>(simd: S, sums: &mut Lanes, of_part: &Lanes, factors: [f32; 2]) {
    let before = simd.mul(simd.load(sums), simd.splat(factors[0]));
    simd.store(simd.mul_add(simd.load(of_part), simd.splat(factors[1]), before), sums);
}

/// Turns the scores of the tokens that are `seen` into weights, and the rest to zero. `scores` are
/// those from line `first` of the step on.
///
/// What has been gathered so far is scaled down where the largest score has grown.
#[inline(always)]
pub(super) fn weigh<S: Simd, const N: usize>(
    simd: S,
    scores: &mut [Lanes],
    (first, seen): (usize, Range<usize>),
    query: usize,
    gathered: &mut Gathered<'_, N>,
) {
    let flat = scores.as_flattened_mut();
    let within = |token: usize| token.saturating_sub(first * LANES).min(flat.len());
    let (before, beyond) = (within(seen.start), within(seen.end));
    // Whole lines of tokens that the query does not see weigh nothing.
    let (whole_from, whole_to) = (before / LANES, beyond.div_ceil(LANES));
    if before >= beyond {
        scores.fill([0.0; LANES]);
        return;
    }
    flat[whole_from * LANES..before].fill(f32::NEG_INFINITY);
    flat[beyond..whole_to * LANES].fill(f32::NEG_INFINITY);
    scores[..whole_from].fill([0.0; LANES]);
    scores[whole_to..].fill([0.0; LANES]);
    let scores = &mut scores[whole_from..whole_to];
    let mut largest = simd.splat(gathered.largest[query]);
    for score in scores.iter() {
        largest = simd.max(largest, simd.load(score));
    }
    let largest = simd.largest(largest);
    let grown = gathered.largest[query] - largest;
    let mut total = simd.splat(0.0);
    let offset = simd.splat(-largest);
    for score in scores.iter_mut() {
        let weight = exp(simd, simd.add(simd.load(score), offset));
        total = simd.add(total, weight);
        simd.store(weight, score);
    }
    let total = simd.sum(total);
    if grown < 0.0 {
        gathered.shrink(simd, query, grown);
    }
    gathered.total[query] += total;
    gathered.largest[query] = largest;
}
