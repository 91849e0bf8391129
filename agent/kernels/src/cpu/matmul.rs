//! `out = x * transpose(weights)`, for float and for quantised weights.
//!
//! A tile of the product is sixteen outputs (a panel of weights) by one to sixteen rows of
//! activations, and all its sums stay in registers while the columns go by. With one row that is
//! the memory-bound product of decoding; with many, each weight is unpacked once per tile. Every
//! sum is added in the order of the columns, so a row's result does not depend on the batch it is
//! in, on the number of threads or on the instruction set.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use half::{bf16, f16};

use super::activations::ActivationBlock;
use super::grid::{Grid, Place, Tile, even, over};
use super::panels::{CpuMatrix, NibbleScales, Panels, SignedScales};
use super::pool::Pool;
use super::simd::{Kernel, LANES, Line, Simd, store_part};

/// Bytes of packed activations that one pass over the weights works on.
///
/// A quarter of the smallest L2 cache of servers (1 MiB), so that they stay there while panel after
/// panel of weights goes by.
const PASS_BYTES: usize = 256 * 1024;

/// Packed activations, in the one form that the weights need.
#[derive(Clone, Copy)]
pub(crate) enum Activations<'a> {
    Floats(&'a [f32]),
    Blocks(&'a [ActivationBlock]),
}

/// The sizes of one product.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Rows of activations that are packed together.
    pub(crate) tile_rows: usize,
}

/// Multiplies the same activations with each matrix.
pub(crate) fn multiply<S: Simd>(
    simd: S,
    pool: &mut Pool,
    activations: Activations<'_>,
    batch: Batch,
    (matrices, grids): (&[&CpuMatrix], &mut [Grid<'_, f32>]),
) {
    let row_bytes = match activations {
        Activations::Floats(_) => batch.cols * size_of::<f32>(),
        Activations::Blocks(_) => batch.cols / 32 * size_of::<ActivationBlock>(),
    };
    let pass = (PASS_BYTES / row_bytes.max(1) / batch.tile_rows).max(1) * batch.tile_rows;
    for first in (0..batch.rows).step_by(pass) {
        let rows = first..batch.rows.min(first + pass);
        let panels: usize = matrices.iter().map(|matrix| matrix.len()).sum();
        let granule = even(pool, panels);
        let place = |unit| {
            let (grid, panel) = locate(matrices, unit);
            let col = panel * LANES;
            let cols = col..matrices[grid].rows.min(col + LANES);
            Place { grid, rows: rows.clone(), cols }
        };
        over(pool, grids, (panels, granule), place, |unit, out| {
            let (matrix, panel) = locate(matrices, unit);
            let matrix = matrices[matrix];
            simd.run(Panel { matrix, panel, activations, batch, first, rows: rows.len(), out });
        });
    }
}

/// Which matrix, and which panel of it, unit `unit` is.
fn locate(matrices: &[&CpuMatrix], mut unit: usize) -> (usize, usize) {
    for (index, matrix) in matrices.iter().enumerate() {
        if unit < matrix.len() {
            return (index, unit);
        }
        unit -= matrix.len();
    }
    (matrices.len(), unit)
}

/// One panel of weights times some rows.
struct Panel<'a> {
    matrix: &'a CpuMatrix,
    panel: usize,
    activations: Activations<'a>,
    batch: Batch,
    /// The first row of this pass, a multiple of `batch.tile_rows`.
    first: usize,
    rows: usize,
    out: Tile<'a, f32>,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // The branches beyond `S::ROWS` are never taken: `tile_rows` is chosen below it.
        match self.batch.tile_rows {
            1 => self.tiles::<S, 1>(simd),
            4 => self.tiles::<S, 4>(simd),
            8 if S::ROWS >= 8 => self.tiles::<S, 8>(simd),
            _ if S::ROWS >= 16 => self.tiles::<S, 16>(simd),
            _ => {}
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(mut self, simd: S) {
        let Batch { cols, .. } = self.batch;
        let (first, last) = (self.first / R, (self.first + self.rows).div_ceil(R));
        for tile in first..last {
            let sums = match (&self.matrix.panels, self.activations) {
                (Panels::F32(w), Activations::Floats(x)) => floats::<S, f32, R>(
                    simd,
                    &w[self.panel * cols..][..cols],
                    tile_of(x, tile, cols),
                ),
                (Panels::F16(w), Activations::Floats(x)) => floats::<S, f16, R>(
                    simd,
                    &w[self.panel * cols..][..cols],
                    tile_of(x, tile, cols),
                ),
                (Panels::BF16(w), Activations::Floats(x)) => floats::<S, bf16, R>(
                    simd,
                    &w[self.panel * cols..][..cols],
                    tile_of(x, tile, cols),
                ),
                (Panels::Q8_0(w), Activations::Blocks(x)) => blocks::<S, SignedScales, 8, R>(
                    simd,
                    w.panel(self.panel, cols),
                    tile_of(x, tile, cols / 32),
                ),
                (Panels::Q4_1(w), Activations::Blocks(x)) => blocks::<S, NibbleScales, 4, R>(
                    simd,
                    w.panel(self.panel, cols),
                    tile_of(x, tile, cols / 32),
                ),
                _ => return,
            };
            let start = tile * R - self.first;
            for (row, sum) in (start..self.rows).zip(sums) {
                store(simd, sum, self.out.row(row));
            }
        }
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, sum: S::F, out: &mut [f32]) {
    match out.as_mut_array() {
        Some(out) => simd.store(sum, out),
        None => store_part(simd, sum, out),
    }
}

#[inline(always)]
fn tile_of<T, const R: usize>(x: &[T], tile: usize, steps: usize) -> &[[T; R]] {
    &x.as_chunks::<R>().0[tile * steps..][..steps]
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

/// A quantised format, sixteen rows of one block at a time.
trait Scales<const LINES: usize>: Copy {
    /// The block's weights in eight groups of four columns.
    fn unpack<S: Simd>(simd: S, lines: &[Line; LINES]) -> [S::Q; 8];
    /// `sum + (weights * x)`.
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        weights: &[S::Q; 8],
        x: &ActivationBlock,
        sum: S::F,
    ) -> S::F;
}

impl Scales<8> for SignedScales {
    #[inline(always)]
    fn unpack<S: Simd>(simd: S, lines: &[Line; 8]) -> [S::Q; 8] {
        let [a, b, c, d, e, f, g, h] = lines;
        [
            simd.signed(a),
            simd.signed(b),
            simd.signed(c),
            simd.signed(d),
            simd.signed(e),
            simd.signed(f),
            simd.signed(g),
            simd.signed(h),
        ]
    }

    #[inline(always)]
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        weights: &[S::Q; 8],
        x: &ActivationBlock,
        sum: S::F,
    ) -> S::F {
        let dot = simd.dot_signed(weights, &x.q, x.sum);
        let scale = simd.mul(simd.load_f16(&self.d), simd.splat(x.d));
        simd.mul_add(dot, scale, sum)
    }
}

impl Scales<4> for NibbleScales {
    #[inline(always)]
    fn unpack<S: Simd>(simd: S, lines: &[Line; 4]) -> [S::Q; 8] {
        let [a, b, c, d] = lines;
        let (a, b) = (simd.nibbles(a), simd.nibbles(b));
        let (c, d) = (simd.nibbles(c), simd.nibbles(d));
        [a.0, b.0, c.0, d.0, a.1, b.1, c.1, d.1]
    }

    #[inline(always)]
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        weights: &[S::Q; 8],
        x: &ActivationBlock,
        sum: S::F,
    ) -> S::F {
        let dot = simd.dot_nibbles(weights, &x.q);
        let scale = simd.mul(simd.load_f16(&self.d), simd.splat(x.d));
        let sum = simd.mul_add(dot, scale, sum);
        simd.mul_add(simd.load_f16(&self.m), simd.splat(x.s), sum)
    }
}

/// `sum[r] += d * dx[r] * dot(w, x[r]) + m * s[r]`, block by block.
#[inline(always)]
fn blocks<S: Simd, C: Scales<LINES>, const LINES: usize, const R: usize>(
    simd: S,
    (scales, quants): (&[C], &[[Line; LINES]]),
    x: &[[ActivationBlock; R]],
) -> [S::F; R] {
    let mut sums = [simd.splat(0.0); R];
    for ((scales, lines), x) in scales.iter().zip(quants).zip(x) {
        let weights = C::unpack(simd, lines);
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = scales.accumulate(simd, &weights, x, *sum);
        }
    }
    sums
}
