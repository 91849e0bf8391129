//! The scales and minima of sixteen rows, interleaved as their codes are.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use half::{bf16, f16};

use super::activations::ActivationBlock;
use super::simd::{LANES, Simd};

/// The scales of one block of sixteen rows.
pub(crate) trait Scales: Copy {
    /// Blocks of 32 columns in one block of the format.
    const BLOCKS: usize = 1;
    /// Runs of columns under one scale in each 32: one or two.
    const RUNS: usize = 1;
    /// What the block of one row holds.
    type Row: Copy;

    fn interleave(rows: [Self::Row; LANES]) -> Self;
    /// The scale of the block and, where the format has it, what is added for it.
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>);
    /// The same of run `run` of the block, from what [`Scales::load`] gave.
    #[inline(always)]
    fn of_run<S: Simd>(
        &self,
        _simd: S,
        loaded: (S::F, Option<S::F>),
        _run: usize,
    ) -> (S::F, Option<S::F>) {
        loaded
    }
    /// What the addend is multiplied with: the sum of the activations of a run, scaled.
    #[inline(always)]
    fn sum(x: &ActivationBlock, run: usize) -> f32 {
        if Self::RUNS == 1 { x.sum } else { x.half_sum(run) }
    }
}

/// A scale.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f16; LANES]);

impl Scales for Plain {
    type Row = f16;

    fn interleave(rows: [f16; LANES]) -> Self {
        Self(rows)
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        (simd.load_f16(&self.0), None)
    }
}

/// A power of two, which may be smaller than f16 holds.
#[derive(Clone, Copy)]
pub(crate) struct Power([bf16; LANES]);

impl Scales for Power {
    type Row = bf16;

    fn interleave(rows: [bf16; LANES]) -> Self {
        Self(rows)
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        (simd.load_bf16(&self.0), None)
    }
}

/// A scale and an offset.
#[derive(Clone, Copy)]
pub(crate) struct Offset {
    d: [f16; LANES],
    m: [f16; LANES],
}

impl Scales for Offset {
    type Row = (f16, f16);

    fn interleave(rows: [(f16, f16); LANES]) -> Self {
        Self { d: rows.map(|row| row.0), m: rows.map(|row| row.1) }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        (simd.load_f16(&self.d), Some(simd.load_f16(&self.m)))
    }

    /// As Q8_1 stores it.
    #[inline(always)]
    fn sum(x: &ActivationBlock, _run: usize) -> f32 {
        x.s
    }
}

/// A scale of the super-block and a signed factor for each run.
#[derive(Clone, Copy)]
pub(crate) struct Scaled<const FACTORS: usize> {
    d: [f16; LANES],
    factors: [[i8; LANES]; FACTORS],
}

impl<const FACTORS: usize> Scales for Scaled<FACTORS> {
    const BLOCKS: usize = 8;
    const RUNS: usize = FACTORS / 8;
    type Row = (f16, [i8; FACTORS]);

    fn interleave(rows: [(f16, [i8; FACTORS]); LANES]) -> Self {
        let factors = std::array::from_fn(|run| rows.map(|row| row.1[run]));
        Self { d: rows.map(|row| row.0), factors }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        (simd.load_f16(&self.d), None)
    }

    #[inline(always)]
    fn of_run<S: Simd>(
        &self,
        simd: S,
        (d, _): (S::F, Option<S::F>),
        run: usize,
    ) -> (S::F, Option<S::F>) {
        (simd.mul(d, simd.load_i8(&self.factors[run])), None)
    }
}

/// A scale and a minimum of the super-block, and a factor of each for each 32 columns.
#[derive(Clone, Copy)]
pub(crate) struct Shifted {
    d: [f16; LANES],
    min: [f16; LANES],
    /// Of six bits, so signed bytes hold them too.
    factors: [[[i8; LANES]; 2]; 8],
}

impl Scales for Shifted {
    const BLOCKS: usize = 8;
    type Row = (f16, f16, ([u8; 8], [u8; 8]));

    fn interleave(rows: [Self::Row; LANES]) -> Self {
        let factors = std::array::from_fn(|run| {
            [
                rows.map(|(_, _, (scales, _))| scales[run].cast_signed()),
                rows.map(|(_, _, (_, mins))| mins[run].cast_signed()),
            ]
        });
        Self { d: rows.map(|row| row.0), min: rows.map(|row| row.1), factors }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        let min = simd.mul(simd.load_f16(&self.min), simd.splat(-1.0));
        (simd.load_f16(&self.d), Some(min))
    }

    #[inline(always)]
    fn of_run<S: Simd>(
        &self,
        simd: S,
        (d, min): (S::F, Option<S::F>),
        run: usize,
    ) -> (S::F, Option<S::F>) {
        let [scales, mins] = &self.factors[run];
        let scale = simd.mul(d, simd.load_i8(scales));
        match min {
            Some(min) => (scale, Some(simd.mul(min, simd.load_i8(mins)))),
            None => (scale, None),
        }
    }
}

/// As [`Shifted`] for each sixteen columns, with both factors in one byte.
#[derive(Clone, Copy)]
pub(crate) struct Halved {
    d: [f16; LANES],
    min: [f16; LANES],
    factors: [[u8; LANES]; 16],
}

impl Scales for Halved {
    const BLOCKS: usize = 8;
    const RUNS: usize = 2;
    type Row = (f16, f16, [u8; 16]);

    fn interleave(rows: [Self::Row; LANES]) -> Self {
        let factors = std::array::from_fn(|run| rows.map(|row| row.2[run]));
        Self { d: rows.map(|row| row.0), min: rows.map(|row| row.1), factors }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> (S::F, Option<S::F>) {
        let min = simd.mul(simd.load_f16(&self.min), simd.splat(-1.0));
        (simd.load_f16(&self.d), Some(min))
    }

    #[inline(always)]
    fn of_run<S: Simd>(
        &self,
        simd: S,
        (d, min): (S::F, Option<S::F>),
        run: usize,
    ) -> (S::F, Option<S::F>) {
        let (scales, mins) = simd.load_nibbles(&self.factors[run]);
        match min {
            Some(min) => (simd.mul(d, scales), Some(simd.mul(min, mins))),
            None => (simd.mul(d, scales), None),
        }
    }
}
