//! Activations made ready for a matrix product: packed by tiles of rows, quantised where the
//! weights are.
//!
//! A tile is as many rows as a kernel holds in registers, and lies together: all its rows at one
//! column (or block), then the next. A kernel so reads forward from one address.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use half::bf16;

use super::grid::{Division, Grid, Place, over};
use super::pool::Pool;
use super::simd::{Kernel, LANES, Simd};
use crate::format::Format;
use crate::formats::q8_0::inverse;

/// 32 activations of one row, quantised.
///
/// What follows from the bytes and most formats need stands here too, for it is needed again for
/// each panel; a tile of them should fit the L1 cache, so the rest is computed when it is needed.
#[derive(Clone, Copy, Default)]
pub(crate) struct ActivationBlock {
    pub(crate) q: [[i8; LANES]; 2],
    /// The scale, rounded to f16 as the format stores it.
    pub(crate) d: f32,
    /// Scale times sum, rounded to f16 as Q8_1 stores it.
    pub(crate) s: f32,
    /// The rounded scale times the sum, which f32 holds exactly.
    pub(crate) sum: f32,
    /// From what sums of products start where codes are larger by [`BIASES`] than what they stand
    /// for: minus so many times the sum of `q`. In memory they are had by a fetch, which costs
    /// nothing beside products.
    lifts: [i32; BIASES.len()],
    /// The same of each half of `q`, for [`HALF_BIASES`].
    half_lifts: [[i32; 2]; HALF_BIASES.len()],
    /// The sum of each half of `q`.
    halves: [i16; 2],
}

/// Biases of codes with one scale for 32.
const BIASES: [u8; 3] = [8, 16, 128];
/// Biases of codes with one scale for sixteen.
const HALF_BIASES: [u8; 2] = [4, 32];

impl ActivationBlock {
    /// As `sum`, of one half.
    #[inline(always)]
    pub(crate) fn half_sum(&self, half: usize) -> f32 {
        self.d * f32::from(self.halves[half])
    }

    /// What the sum of products with codes starts from that are so much too large.
    #[inline(always)]
    pub(crate) fn lift(&self, bias: u8) -> i32 {
        match bias {
            0 => 0,
            8 => self.lifts[0],
            16 => self.lifts[1],
            128 => self.lifts[2],
            _ => self.halves.iter().map(|sum| i32::from(*sum) * -i32::from(bias)).sum(),
        }
    }

    /// The same of one half.
    #[inline(always)]
    pub(crate) fn half_lift(&self, bias: u8, half: usize) -> i32 {
        match bias {
            0 => 0,
            4 => self.half_lifts[0][half],
            32 => self.half_lifts[1][half],
            _ => i32::from(self.halves[half]) * -i32::from(bias),
        }
    }
}

/// Rows per tile for a batch of `rows`, when a kernel holds at most `most`.
pub(crate) fn tile_rows(rows: usize, most: usize) -> usize {
    let tile = match rows {
        0 | 1 => 1,
        2..=4 => 4,
        _ => 8,
    };
    tile.min(most)
}

/// What `weights` are multiplied with.
pub(crate) const fn partner(weights: Format) -> Format {
    match weights {
        Format::F32 | Format::F16 => Format::F32,
        // As processors with bf16 products do it, so that a model's answers do not depend on them.
        Format::BF16 => Format::BF16,
        Format::Q4_1 | Format::Q5_1 | Format::Q8_1 => Format::Q8_1,
        // Super-blocks too: a scale for each 32 activations is closer than one for 256.
        _ => Format::Q8_0,
    }
}

/// How activations lie in scratch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Floats,
    /// Floats that bf16 holds exactly.
    Rounded,
    Blocks,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Floats, Self::Rounded, Self::Blocks];

    /// The kind that weights in `format` are multiplied with.
    pub(crate) const fn of(format: Format) -> Self {
        match partner(format) {
            Format::F32 | Format::F16 => Self::Floats,
            Format::BF16 => Self::Rounded,
            _ => Self::Blocks,
        }
    }
}

/// The nearest float that bf16 holds; of two, the even one.
pub(crate) fn round_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Packs `rows` rows of `cols` floats: `out[(tile * cols + col) * tile_rows + row in tile]`.
pub(crate) fn pack(
    pool: &mut Pool,
    x: &[f32],
    (cols, tile_rows): (usize, usize),
    round: impl Fn(f32) -> f32 + Sync,
    out: &mut [f32],
) {
    let tiles = (x.len() / cols).div_ceil(tile_rows);
    let mut grids = [Grid::new(out, cols * tile_rows)];
    let place = |tile| Place { grid: 0, rows: tile..tile + 1, cols: 0..cols * tile_rows };
    let division = Division::parts_if(x.len() >= SHARED_FROM);
    over(pool, &mut grids, (tiles, division), place, |tile, mut out| {
        let rows = &x[tile * tile_rows * cols..];
        for (row, x) in rows.chunks_exact(cols).take(tile_rows).enumerate() {
            for (out, x) in out.row(0).chunks_exact_mut(tile_rows).zip(x) {
                out[row] = round(*x);
            }
        }
    });
}

/// Quantises and packs: `out[(tile * blocks + block) * tile_rows + row in tile]`.
pub(crate) fn quantise<S: Simd>(
    simd: S,
    pool: &mut Pool,
    x: &[f32],
    (cols, tile_rows): (usize, usize),
    out: &mut [ActivationBlock],
) {
    let tiles = (x.len() / cols).div_ceil(tile_rows);
    let width = cols / 32 * tile_rows;
    let mut grids = [Grid::new(out, width)];
    let place = |tile| Place { grid: 0, rows: tile..tile + 1, cols: 0..width };
    let division = Division::parts_if(x.len() >= SHARED_FROM);
    over(pool, &mut grids, (tiles, division), place, |tile, mut out| {
        let rows = &x[tile * tile_rows * cols..];
        for (row, x) in rows.chunks_exact(cols).take(tile_rows).enumerate() {
            simd.run(QuantiseRow { x, first: row, step: tile_rows, out: out.row(0) });
        }
    });
}

/// Below this many floats one thread is done before another has woken up.
pub(crate) const SHARED_FROM: usize = 8192;

/// One row into every `step`-th block from `first` on.
struct QuantiseRow<'a> {
    x: &'a [f32],
    first: usize,
    step: usize,
    out: &'a mut [ActivationBlock],
}

impl Kernel for QuantiseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let out = self.out.iter_mut().skip(self.first).step_by(self.step);
        for (x, out) in self.x.as_chunks::<32>().0.iter().zip(out) {
            quantise_block(simd, x, out);
        }
    }
}

/// The same numbers as [`crate::formats::q8_0`] and [`crate::formats::q8_1`] make.
#[inline(always)]
fn quantise_block<S: Simd>(simd: S, x: &[f32; 32], out: &mut ActivationBlock) {
    let [low, high] = x.as_chunks::<LANES>().0 else { return };
    let (low, high) = (simd.load(low), simd.load(high));
    let largest = simd.largest(simd.max(simd.abs(low), simd.abs(high)));
    let d = largest / 127.0;
    let inverse = simd.splat(inverse(d));
    let [q_low, q_high] = &mut out.q;
    simd.to_bytes(simd.round(simd.mul(low, inverse)), q_low);
    simd.to_bytes(simd.round(simd.mul(high, inverse)), q_high);
    out.halves = out.q.each_ref().map(|half| half.iter().map(|q| i16::from(*q)).sum());
    let sum = out.halves.iter().map(|half| i32::from(*half)).sum::<i32>();
    out.d = simd.round_f16(d);
    out.s = simd.round_f16(d * sum as f32);
    out.sum = out.d * sum as f32;
    out.lifts = BIASES.map(|bias| sum * -i32::from(bias));
    out.half_lifts =
        HALF_BIASES.map(|bias| out.halves.map(|sum| i32::from(sum) * -i32::from(bias)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::{Isa, Proof, with_simd};

    #[test]
    fn values_too_small_for_an_inverse_become_zero_with_every_instruction_set() {
        let mut pool = Pool::new(1);
        for isa in Isa::available() {
            let q = [[9; LANES]; 2];
            let mut out = [ActivationBlock { q, ..ActivationBlock::default() }];
            let x = [1e-40_f32; 32];
            let proof = Proof::of(isa).unwrap();
            with_simd!(proof, simd => quantise(simd, &mut pool, &x, (32, 1), &mut out));
            assert_eq!((out[0].q, out[0].lift(128)), ([[0; LANES]; 2], 0), "{isa}");
        }
    }
}
