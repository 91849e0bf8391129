//! The product of quantised weights: one kernel for all formats.
//!
//! What differs between formats is how a line of codes becomes bytes ([`Codes`]) and where a run's
//! scale comes from ([`Scales`]); the integer product between the two is the same.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

mod bytes;

pub(super) use self::bytes::at_once;
use self::bytes::{Bytes, Packed, Unpacked};
use super::{Part, Weights};
use crate::cpu::activations::ActivationBlock;
use crate::cpu::codes::Codes;
use crate::cpu::panels::{Blocks, Panel};
use crate::cpu::scales::Scales;
use crate::cpu::simd::{PAIR_ROWS, Simd};

/// Tiles from which on weights are unpacked once for all of them. With fewer, putting the bytes down
/// and the sums between takes longer than unpacking again; with eight it hangs on the format.
const UNPACKED_FROM: usize = 5;

impl<C: Codes, T: Scales> Weights for Blocks<C, T> {
    type X = ActivationBlock;
    const STEP: usize = 32;

    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        (panel, cols): (usize, usize),
        x: &[[ActivationBlock; R]],
    ) -> [S::F; R] {
        let [sums] = blocks(simd, &[self.panel(panel, cols)], x);
        sums
    }

    /// Weights are unpacked once for all tiles, some lines at a time; between those the sums of a tile
    /// wait where the product goes. For few tiles they are unpacked where they are multiplied.
    #[inline(always)]
    fn pairs<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        x: &[[ActivationBlock; PAIR_ROWS]],
        part: &mut Part<'_>,
    ) {
        let tiles = part.tiles(PAIR_ROWS);
        let cols = part.batch.cols;
        let panels = [self.panel(panel, cols), self.panel(panel + 1, cols)];
        let lines = cols / 32;
        if tiles.len() < UNPACKED_FROM {
            for (tile, x) in tiles.zip(x.chunks_exact(lines)) {
                let [low, high] = blocks(simd, &panels, x);
                part.put(simd, (panel, tile), low);
                part.put(simd, (panel + 1, tile), high);
            }
            return;
        }
        let mut unpacked = Unpacked::new(simd);
        for first in (0..lines).step_by(at_once(lines)) {
            let bytes = unpacked.fill(simd, &panels, first);
            for (tile, x) in tiles.clone().zip(x.chunks_exact(lines)) {
                let x = &x[first..][..bytes.len()];
                let mut sums = [[simd.splat(0.0); PAIR_ROWS]; 2];
                if first > 0 {
                    sums = [panel, panel + 1].map(|panel| part.sums(simd, (panel, tile)));
                }
                add_blocks(simd, &panels, (&bytes, first), x, &mut sums);
                let [low, high] = sums;
                part.put(simd, (panel, tile), low);
                part.put(simd, (panel + 1, tile), high);
            }
        }
    }
}

/// The scale of a run and what is added for it, of sixteen rows.
type RunScales<S> = (<S as Simd>::F, Option<<S as Simd>::F>);

/// The products of `P` panels of weights and `R` rows of activations.
#[inline(always)]
pub(super) fn blocks<S: Simd, C: Codes, T: Scales, const P: usize, const R: usize>(
    simd: S,
    panels: &[Panel<'_, C, T>; P],
    x: &[[ActivationBlock; R]],
) -> [[S::F; R]; P] {
    let mut sums = [[simd.splat(0.0); R]; P];
    add_blocks(simd, panels, (&Packed(panels), 0), x, &mut sums);
    sums
}

/// `sums[p][r] += d[p] * dx[r] * dot(w[p], x[r]) + m[p] * s[r]`, run by run, from line `first` of the
/// panels on, the beginning of a block of the format.
///
/// An activation that is fetched meets all panels, a weight that is unpacked all rows. Weights are
/// unpacked sixteen columns at a time: with two panels and eight rows, sixteen sums and eight
/// registers of weights are what fits.
#[inline(always)]
fn add_blocks<S: Simd, C: Codes, T: Scales, const P: usize, const R: usize>(
    simd: S,
    panels: &[Panel<'_, C, T>; P],
    (bytes, first): (&impl Bytes<S, P>, usize),
    x: &[[ActivationBlock; R]],
    sums: &mut [[S::F; R]; P],
) {
    for (step, x) in x.chunks_exact(T::BLOCKS).enumerate() {
        let (line, step) = (step * T::BLOCKS, first / T::BLOCKS + step);
        let mut loaded = [(simd.splat(0.0), None); P];
        if T::BLOCKS > 1 {
            for (loaded, panel) in loaded.iter_mut().zip(panels) {
                *loaded = panel.scales[step].load(simd);
            }
        }
        for (block, x) in x.iter().enumerate() {
            let (line, run) = (line + block, block * T::RUNS);
            let weights = bytes.half(simd, line, 0);
            let mut dots = start::<S, C, T, P, R>(simd, x, 0);
            add_products::<S, C, P, R>(simd, &weights, (x, 0), &mut dots);
            if T::RUNS == 2 {
                let scales = of_run(simd, panels, &loaded, (step, run));
                add_scaled::<S, T, P, R>(simd, &scales, (x, 0), &dots, sums);
                dots = start::<S, C, T, P, R>(simd, x, 1);
            }
            let weights = bytes.half(simd, line, 1);
            add_products::<S, C, P, R>(simd, &weights, (x, 1), &mut dots);
            let last = T::RUNS - 1;
            let scales = of_run(simd, panels, &loaded, (step, run + last));
            add_scaled::<S, T, P, R>(simd, &scales, (x, last), &dots, sums);
        }
    }
}

/// The scales of one run of a step.
#[inline(always)]
fn of_run<S: Simd, C: Codes, T: Scales, const P: usize>(
    simd: S,
    panels: &[Panel<'_, C, T>; P],
    loaded: &[RunScales<S>; P],
    (step, run): (usize, usize),
) -> [RunScales<S>; P] {
    let mut scales = *loaded;
    for (scales, panel) in scales.iter_mut().zip(panels) {
        let all = &panel.scales[step];
        // A block's only scale is loaded when its sums are there: before, no register is free.
        *scales = if T::BLOCKS > 1 { all.of_run(simd, *scales, run) } else { all.load(simd) };
    }
    scales
}

#[inline(always)]
fn start<S: Simd, C: Codes, T: Scales, const P: usize, const R: usize>(
    simd: S,
    x: &[ActivationBlock; R],
    run: usize,
) -> [[S::I; P]; R] {
    let mut dots = [[simd.start(0); P]; R];
    for (dots, x) in dots.iter_mut().zip(x) {
        *dots = [C::start(simd, x, (T::RUNS == 2).then_some(run)); P];
    }
    dots
}

#[inline(always)]
fn add_products<S: Simd, C: Codes, const P: usize, const R: usize>(
    simd: S,
    weights: &[[S::Q; 4]; P],
    (x, half): (&[ActivationBlock; R], usize),
    dots: &mut [[S::I; P]; R],
) {
    for (dots, x) in dots.iter_mut().zip(x) {
        *dots = C::dot(simd, *dots, weights, &x.q[half]);
    }
}

/// Row by row, so that the short loop is the inner one: compilers unroll both only then, and sums stay
/// in registers.
#[inline(always)]
fn add_scaled<S: Simd, T: Scales, const P: usize, const R: usize>(
    simd: S,
    scales: &[RunScales<S>; P],
    (x, run): (&[ActivationBlock; R], usize),
    dots: &[[S::I; P]; R],
    sums: &mut [[S::F; R]; P],
) {
    for (row, (dots, x)) in dots.iter().zip(x).enumerate() {
        for ((sums, dot), (d, m)) in sums.iter_mut().zip(dots).zip(scales) {
            let scale = simd.mul(*d, simd.splat(x.d));
            sums[row] = simd.mul_add(simd.to_floats(*dot), scale, sums[row]);
            if let Some(m) = m {
                sums[row] = simd.mul_add(*m, simd.splat(T::sum(x, run)), sums[row]);
            }
        }
    }
}
