//! `out = x * transpose(weights)`, for float and for quantised weights.
//!
//! A tile of the product is sixteen outputs (a panel of weights) by one to eight rows of
//! activations, and all its sums stay in registers while the columns go by. With one row that is
//! the memory-bound product of decoding; with many, each weight is unpacked once per tile, or once
//! for all tiles where two panels go together ([`Weights::pairs`]). Every sum is added in the order of
//! the columns, so a row's result does not depend on the batch it is in, on the number of threads or
//! on the instruction set.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

mod blocks;
mod floats;

use std::ops::Range;

use super::activations::ActivationBlock;
use super::grid::{Division, Grid, Place, Tile, over};
use super::panels::{CpuMatrix, Panels, quantised};
use super::pool::Pool;
use super::simd::{Kernel, LANES, PAIR_ROWS, Simd, load_part, store_part};

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
        Activations::Blocks(_) => {
            let blocks = batch.cols / 32;
            // Two panels at a time meet so many columns of all rows, and then the next ones.
            let together =
                if batch.tile_rows == PAIR_ROWS { blocks::at_once(blocks) } else { blocks };
            together * size_of::<ActivationBlock>()
        }
    };
    let pass = (PASS_BYTES / row_bytes.max(1) / batch.tile_rows).max(1) * batch.tile_rows;
    for first in (0..batch.rows).step_by(pass) {
        let rows = first..batch.rows.min(first + pass);
        let units: usize = matrices.iter().map(|matrix| groups(matrix)).sum();
        let place = |unit| {
            let (grid, group) = locate(matrices, unit);
            let col = group * GROUP * LANES;
            let cols = col..matrices[grid].rows.min(col + GROUP * LANES);
            Place { grid, rows: rows.clone(), cols }
        };
        over(pool, grids, (units, Division::Parts), place, |unit, out| {
            let (matrix, group) = locate(matrices, unit);
            let matrix = matrices[matrix];
            let first_panel = group * GROUP;
            let panels = first_panel..matrix.len().min(first_panel + GROUP);
            let part = Part { panels, batch, first, rows: rows.len(), out };
            // One entry for each format, so that the compiler sees one kernel at a time.
            match (&matrix.panels, activations) {
                (Panels::F32(w), Activations::Floats(x)) => simd.run(Group { w, x, part }),
                (Panels::F16(w), Activations::Floats(x)) => simd.run(Group { w, x, part }),
                (Panels::BF16(w), Activations::Floats(x)) => simd.run(Group { w, x, part }),
                (panels, Activations::Blocks(x)) => {
                    quantised!(panels, w => simd.run(Group { w, x, part }), _floats => {});
                }
                // `multiply` is given the activations that its matrices need.
                _ => {}
            }
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

/// The weights of a matrix in one format.
trait Weights {
    /// The activations that they are multiplied with.
    type X;
    /// Columns in one of these.
    const STEP: usize;

    /// The product of panel `panel` of `cols` columns with one tile of activations.
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        panel: (usize, usize),
        x: &[[Self::X; R]],
    ) -> [S::F; R];
    /// Writes the products of the two panels from `panel` on with each tile of `x`, the part's: each
    /// activation that is fetched meets both.
    fn pairs<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        x: &[[Self::X; PAIR_ROWS]],
        part: &mut Part<'_>,
    );
    /// One row times a whole group of panels side by side, where that is worth while.
    #[inline(always)]
    fn group<S: Simd>(&self, _simd: S, _panel: usize, _x: &[Self::X]) -> Option<[S::F; GROUP]> {
        None
    }
}

/// A few panels of weights times some rows.
struct Group<'a, W: Weights> {
    w: &'a W,
    x: &'a [W::X],
    part: Part<'a>,
}

/// Which part of a product.
struct Part<'a> {
    panels: Range<usize>,
    batch: Batch,
    /// The first row of this pass, a multiple of `batch.tile_rows`.
    first: usize,
    rows: usize,
    out: Tile<'a, f32>,
}

impl Part<'_> {
    /// The tiles of activations that this pass is about.
    fn tiles(&self, tile_rows: usize) -> Range<usize> {
        self.first / tile_rows..(self.first + self.rows).div_ceil(tile_rows)
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

    /// The sums of one tile that [`Part::put`] wrote, to go on from.
    #[inline(always)]
    fn sums<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        (panel, tile): (usize, usize),
    ) -> [S::F; R] {
        let start = tile * R - self.first;
        let col = (panel - self.panels.start) * LANES;
        let mut sums = [simd.splat(0.0); R];
        for (row, sum) in (start..self.rows).zip(&mut sums) {
            *sum = load(simd, &self.out.row(row)[col..]);
        }
        sums
    }
}

impl<W: Weights> Kernel for Group<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (tile_rows, panels) = (self.part.batch.tile_rows, self.part.panels.clone());
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

impl<W: Weights> Group<'_, W> {
    #[inline(always)]
    fn tile_of<const R: usize>(&self, tile: usize) -> &[[W::X; R]] {
        let steps = self.part.batch.cols / W::STEP;
        &self.x.as_chunks::<R>().0[tile * steps..][..steps]
    }

    #[inline(always)]
    fn one_by_one<S: Simd, const R: usize>(&mut self, simd: S, panels: Range<usize>) {
        let cols = self.part.batch.cols;
        for panel in panels {
            for tile in self.part.tiles(R) {
                let sums = self.w.tile(simd, (panel, cols), self.tile_of::<R>(tile));
                self.part.put(simd, (panel, tile), sums);
            }
        }
    }

    /// Two panels at a time: each activation that is fetched meets both.
    #[inline(always)]
    fn two_by_two<S: Simd>(&mut self, simd: S) {
        let Part { ref panels, batch: Batch { cols, .. }, .. } = self.part;
        let (start, odd) = (panels.start, panels.len() % 2);
        let end = panels.end - odd;
        for panel in (start..end).step_by(2) {
            let tiles = self.part.tiles(PAIR_ROWS);
            let steps = cols / W::STEP;
            let x = &self.x.as_chunks().0[tiles.start * steps..tiles.end * steps];
            self.w.pairs(simd, panel, x, &mut self.part);
        }
        self.one_by_one::<S, PAIR_ROWS>(simd, end..end + odd);
    }

    /// One row times a whole group of panels; false where that does not apply.
    #[inline(always)]
    fn side_by_side<S: Simd>(&mut self, simd: S) -> bool {
        let Part { ref panels, batch, first, rows, ref mut out } = self.part;
        if panels.len() != GROUP || rows != 1 {
            return false;
        }
        let steps = batch.cols / W::STEP;
        let x = &self.x[first * steps..][..steps];
        let Some(sums) = self.w.group(simd, panels.start, x) else { return false };
        for (sum, out) in sums.into_iter().zip(out.row(0).chunks_mut(LANES)) {
            store(simd, sum, out);
        }
        true
    }
}

/// Loads sixteen lanes, or as many as `from` has.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::F {
    match from.first_chunk() {
        Some(from) => simd.load(from),
        None => load_part(simd, from),
    }
}

/// Stores sixteen lanes, or as many as `out` has room for.
#[inline(always)]
fn store<S: Simd>(simd: S, sum: S::F, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => simd.store(sum, out),
        None => store_part(simd, sum, out),
    }
}
