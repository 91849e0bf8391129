//! The product of float weights.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use half::{bf16, f16};

use super::{GROUP, Part, Weights};
use crate::cpu::arena::Piece;
use crate::cpu::simd::{LANES, PAIR_ROWS, Simd};

/// The values of one panel.
#[inline(always)]
fn lines<T>(values: &[T], panel: usize, cols: usize) -> &[T] {
    &values[panel * cols..][..cols]
}

/// Panels of sixteen rows of one float format.
impl<E: Element> Weights for Piece<[E; LANES]> {
    type X = f32;
    const STEP: usize = 1;

    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        (panel, cols): (usize, usize),
        x: &[[f32; R]],
    ) -> [S::F; R] {
        floats(simd, lines(self, panel, cols), x)
    }

    #[inline(always)]
    fn pairs<S: Simd>(&self, simd: S, panel: usize, x: &[[f32; PAIR_ROWS]], part: &mut Part<'_>) {
        let cols = part.batch.cols;
        let panels = [lines(self, panel, cols), lines(self, panel + 1, cols)];
        for (tile, x) in part.tiles(PAIR_ROWS).zip(x.chunks_exact(cols)) {
            let [low, high] = float_pair(simd, panels, x);
            part.put(simd, (panel, tile), low);
            part.put(simd, (panel + 1, tile), high);
        }
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, panel: usize, x: &[f32]) -> Option<[S::F; GROUP]> {
        Some(four(simd, &self[panel * x.len()..], x))
    }
}

/// A float format, sixteen values at a time.
pub(crate) trait Element: Copy {
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::F;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::F {
        simd.load(from)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::F {
        simd.load_f16(from)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::F {
        simd.load_bf16(from)
    }
}

/// `sum[r] += w[col] * x[col][r]`, column by column.
#[inline(always)]
fn floats<S: Simd, E: Element, const R: usize>(
    simd: S,
    weights: &[[E; LANES]],
    x: &[[f32; R]],
) -> [S::F; R] {
    let mut sums = [simd.splat(0.0); R];
    for (weights, x) in weights.iter().zip(x) {
        let weights = E::load(simd, weights);
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = simd.mul_add(weights, simd.splat(*x), *sum);
        }
    }
    sums
}

/// As [`floats`] for two panels.
#[inline(always)]
fn float_pair<S: Simd, E: Element>(
    simd: S,
    [a, b]: [&[[E; LANES]]; 2],
    x: &[[f32; PAIR_ROWS]],
) -> [[S::F; PAIR_ROWS]; 2] {
    let mut sums = [[simd.splat(0.0); PAIR_ROWS]; 2];
    let [low, high] = &mut sums;
    for ((a, b), x) in a.iter().zip(b).zip(x) {
        let (a, b) = (E::load(simd, a), E::load(simd, b));
        for ((low, high), x) in low.iter_mut().zip(high.iter_mut()).zip(x) {
            let x = simd.splat(*x);
            *low = simd.mul_add(a, x, *low);
            *high = simd.mul_add(b, x, *high);
        }
    }
    sums
}

/// As [`floats`] for one row and four panels of as many columns each.
#[inline(always)]
fn four<S: Simd, E: Element>(simd: S, weights: &[[E; LANES]], x: &[f32]) -> [S::F; GROUP] {
    let mut panels = weights.chunks_exact(x.len());
    let [first, second, third, fourth] =
        std::array::from_fn(|_| panels.next().unwrap_or_default().iter());
    let mut sums = [simd.splat(0.0); GROUP];
    for ((((w0, w1), w2), w3), x) in first.zip(second).zip(third).zip(fourth).zip(x) {
        let x = simd.splat(*x);
        for (sum, weights) in sums.iter_mut().zip([w0, w1, w2, w3]) {
            *sum = simd.mul_add(E::load(simd, weights), x, *sum);
        }
    }
    sums
}
