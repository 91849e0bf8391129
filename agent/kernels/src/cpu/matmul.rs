//! `out = x * transpose(weights)`, for float and for quantised weights.
//!
//! A tile of the product is sixteen outputs (a panel of weights) by one to eight rows of
//! activations, and all its sums stay in registers while the columns go by. With one row that is
//! the memory-bound product of decoding; with many, each weight is unpacked once per tile. Every
//! sum is added in the order of the columns, so a row's result does not depend on the batch it is
//! in, on the number of threads or on the instruction set.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

mod blocks;

use std::ops::Range;

use half::{bf16, f16};

use super::activations::ActivationBlock;
use super::grid::{Grid, Place, Tile, even, over};
use super::panels::{CpuMatrix, Panels, quantised};
use super::pool::Pool;
use super::simd::{Kernel, LANES, PAIR_ROWS, Simd, store_part};
use blocks::blocks;

/// Bytes of packed activations that one pass over the weights works on.
///
/// A quarter of the smallest L2 cache of servers (1 MiB), so that they stay there while panel after
/// panel of weights goes by.
const PASS_BYTES: usize = 256 * 1024;

/// Panels that one unit of work takes: four lines of a row of outputs.
///
/// With one row and float weights, all four are summed side by side: one chain of dependent
/// additions would be slower than memory.
const GROUP: usize = 4;

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
        let units: usize = matrices.iter().map(|matrix| groups(matrix)).sum();
        let granule = even(pool, units);
        let place = |unit| {
            let (grid, group) = locate(matrices, unit);
            let col = group * GROUP * LANES;
            let cols = col..matrices[grid].rows.min(col + GROUP * LANES);
            Place { grid, rows: rows.clone(), cols }
        };
        over(pool, grids, (units, granule), place, |unit, out| {
            let (matrix, group) = locate(matrices, unit);
            let matrix = matrices[matrix];
            let first_panel = group * GROUP;
            let panels = first_panel..matrix.len().min(first_panel + GROUP);
            simd.run(Group { matrix, panels, activations, batch, first, rows: rows.len(), out });
        });
    }
}

fn groups(matrix: &CpuMatrix) -> usize {
    matrix.len().div_ceil(GROUP)
}

/// Which matrix, and which group of its panels, unit `unit` is.
fn locate(matrices: &[&CpuMatrix], mut unit: usize) -> (usize, usize) {
    for (index, matrix) in matrices.iter().enumerate() {
        if unit < groups(matrix) {
            return (index, unit);
        }
        unit -= groups(matrix);
    }
    (matrices.len(), unit)
}

/// A few panels of weights times some rows.
struct Group<'a> {
    matrix: &'a CpuMatrix,
    panels: Range<usize>,
    activations: Activations<'a>,
    batch: Batch,
    /// The first row of this pass, a multiple of `batch.tile_rows`.
    first: usize,
    rows: usize,
    out: Tile<'a, f32>,
}

impl Kernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (tile_rows, panels) = (self.batch.tile_rows, self.panels.clone());
        if tile_rows == 1 && self.side_by_side(simd) {
            return;
        }
        match tile_rows {
            1 => self.one_by_one::<S, 1>(simd, panels),
            4 => self.one_by_one::<S, 4>(simd, panels),
            // `tile_rows` is never chosen beyond `S::ROWS`.
            _ if S::ROWS >= PAIR_ROWS => self.two_by_two(simd),
            _ => {}
        }
    }
}

impl Group<'_> {
    /// The tiles of activations that this pass is about.
    fn tiles(&self, tile_rows: usize) -> Range<usize> {
        self.first / tile_rows..(self.first + self.rows).div_ceil(tile_rows)
    }

    #[inline(always)]
    fn one_by_one<S: Simd, const R: usize>(&mut self, simd: S, panels: Range<usize>) {
        for panel in panels {
            for tile in self.tiles(R) {
                let sums = self.tile::<S, R>(simd, panel, tile);
                self.put(simd, (panel, tile), sums);
            }
        }
    }

    /// Two panels at a time: each activation that is fetched meets both.
    #[inline(always)]
    fn two_by_two<S: Simd>(&mut self, simd: S) {
        let (start, odd) = (self.panels.start, self.panels.len() % 2);
        let end = self.panels.end - odd;
        for panel in (start..end).step_by(2) {
            for tile in self.tiles(PAIR_ROWS) {
                let [low, high] = self.pair(simd, panel, tile);
                self.put(simd, (panel, tile), low);
                self.put(simd, (panel + 1, tile), high);
            }
        }
        self.one_by_one::<S, PAIR_ROWS>(simd, end..end + odd);
    }

    /// Writes the sums of one tile, except those of rows that only fill it up.
    #[inline(always)]
    fn put<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        (panel, tile): (usize, usize),
        sums: [S::F; R],
    ) {
        let start = tile * R - self.first;
        let col = (panel - self.panels.start) * LANES;
        for (row, sum) in (start..self.rows).zip(sums) {
            store(simd, sum, &mut self.out.row(row)[col..]);
        }
    }

    /// The product of two panels with one tile of activations.
    #[inline(always)]
    fn pair<S: Simd>(&self, simd: S, panel: usize, tile: usize) -> [[S::F; PAIR_ROWS]; 2] {
        let Batch { cols, .. } = self.batch;
        match (&self.matrix.panels, self.activations) {
            (Panels::F32(w), Activations::Floats(x)) => {
                float_pair(simd, [0, 1].map(|i| lines(w, panel + i, cols)), tile_of(x, tile, cols))
            }
            (Panels::F16(w), Activations::Floats(x)) => {
                float_pair(simd, [0, 1].map(|i| lines(w, panel + i, cols)), tile_of(x, tile, cols))
            }
            (Panels::BF16(w), Activations::Floats(x)) => {
                float_pair(simd, [0, 1].map(|i| lines(w, panel + i, cols)), tile_of(x, tile, cols))
            }
            (panels, Activations::Blocks(x)) => {
                let x = tile_of(x, tile, cols / 32);
                quantised!(
                    panels,
                    w => blocks(simd, &[0, 1].map(|i| w.panel(panel + i, cols)), x),
                    // `multiply` is given the activations that its matrices need.
                    _floats => [[simd.splat(f32::NAN); PAIR_ROWS]; 2]
                )
            }
            _ => [[simd.splat(f32::NAN); PAIR_ROWS]; 2],
        }
    }

    /// The product of one panel with one tile of activations.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, simd: S, panel: usize, tile: usize) -> [S::F; R] {
        let Batch { cols, .. } = self.batch;
        match (&self.matrix.panels, self.activations) {
            (Panels::F32(w), Activations::Floats(x)) => {
                floats::<S, f32, R>(simd, lines(w, panel, cols), tile_of(x, tile, cols))
            }
            (Panels::F16(w), Activations::Floats(x)) => {
                floats::<S, f16, R>(simd, lines(w, panel, cols), tile_of(x, tile, cols))
            }
            (Panels::BF16(w), Activations::Floats(x)) => {
                floats::<S, bf16, R>(simd, lines(w, panel, cols), tile_of(x, tile, cols))
            }
            (panels, Activations::Blocks(x)) => {
                let x = tile_of(x, tile, cols / 32);
                quantised!(
                    panels,
                    w => {
                        let [sums] = blocks(simd, &[w.panel(panel, cols)], x);
                        sums
                    },
                    _floats => [simd.splat(f32::NAN); R]
                )
            }
            _ => [simd.splat(f32::NAN); R],
        }
    }

    /// One row times a whole group of float panels; false where that does not apply.
    #[inline(always)]
    fn side_by_side<S: Simd>(&mut self, simd: S) -> bool {
        let Activations::Floats(x) = self.activations else { return false };
        if self.panels.len() != GROUP || self.rows != 1 {
            return false;
        }
        let (first, cols) = (self.panels.start, self.batch.cols);
        let x = &x[self.first * cols..][..cols];
        let sums = match &self.matrix.panels {
            Panels::F32(w) => four(simd, &w[first * cols..], x),
            Panels::F16(w) => four(simd, &w[first * cols..], x),
            Panels::BF16(w) => four(simd, &w[first * cols..], x),
            _ => return false,
        };
        for (sum, out) in sums.into_iter().zip(self.out.row(0).chunks_mut(LANES)) {
            store(simd, sum, out);
        }
        true
    }
}

/// The values of one panel.
#[inline(always)]
fn lines<T>(values: &[T], panel: usize, cols: usize) -> &[T] {
    &values[panel * cols..][..cols]
}

/// Stores sixteen lanes, or as many as `out` has room for.
#[inline(always)]
fn store<S: Simd>(simd: S, sum: S::F, out: &mut [f32]) {
    match out.first_chunk_mut() {
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
