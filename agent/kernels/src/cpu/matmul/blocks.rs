//! The product of quantised weights: one kernel for all formats.
//!
//! What differs between formats is how a line of codes becomes bytes ([`Codes`]) and where a run's
//! scale comes from ([`Scales`]); the integer product between the two is the same.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use crate::cpu::activations::ActivationBlock;
use crate::cpu::codes::Codes;
use crate::cpu::panels::Panel;
use crate::cpu::scales::Scales;
use crate::cpu::simd::Simd;

/// `sum[p][r] += d[p] * dx[r] * dot(w[p], x[r]) + m[p] * s[r]`, run by run, for `P` panels of weights
/// and `R` rows of activations.
///
/// An activation that is fetched meets all panels, a weight that is unpacked all rows. Weights are
/// unpacked sixteen columns at a time: with two panels and eight rows, sixteen sums and eight
/// registers of weights are what fits.
#[inline(always)]
pub(super) fn blocks<S: Simd, C: Codes, T: Scales, const P: usize, const R: usize>(
    simd: S,
    panels: &[Panel<'_, C, T>; P],
    x: &[[ActivationBlock; R]],
) -> [[S::F; R]; P] {
    let mut sums = [[simd.splat(0.0); R]; P];
    for (step, x) in x.chunks_exact(T::BLOCKS).enumerate() {
        let scales = panels.each_ref().map(|panel| &panel.scales[step]);
        let loaded = scales.map(|scales| scales.load(simd));
        for (block, x) in x.iter().enumerate() {
            let lines = panels.each_ref().map(|panel| &panel.lines[step * T::BLOCKS + block]);
            let of_run = |run| {
                let mut all = loaded;
                for (one, scales) in all.iter_mut().zip(scales) {
                    *one = scales.of_run(simd, *one, block * T::RUNS + run);
                }
                all
            };
            let weights = lines.map(|lines| C::half(simd, lines, 0));
            let mut dots = start::<S, C, T, P, R>(simd, x, 0);
            add_products::<S, C, P, R>(simd, &weights, (x, 0), &mut dots);
            if T::RUNS == 2 {
                add_scaled::<S, T, P, R>(simd, of_run(0), (x, 0), &dots, &mut sums);
                dots = start::<S, C, T, P, R>(simd, x, 1);
            }
            let weights = lines.map(|lines| C::half(simd, lines, 1));
            add_products::<S, C, P, R>(simd, &weights, (x, 1), &mut dots);
            let last = T::RUNS - 1;
            add_scaled::<S, T, P, R>(simd, of_run(last), (x, last), &dots, &mut sums);
        }
    }
    sums
}

#[inline(always)]
fn start<S: Simd, C: Codes, T: Scales, const P: usize, const R: usize>(
    simd: S,
    x: &[ActivationBlock; R],
    run: usize,
) -> [[S::I; R]; P] {
    let mut dots = [[simd.start(0); R]; P];
    for (i, x) in x.iter().enumerate() {
        let start = C::start(simd, if T::RUNS == 1 { x.lift } else { x.lifts[run] });
        for dots in &mut dots {
            dots[i] = start;
        }
    }
    dots
}

#[inline(always)]
fn add_products<S: Simd, C: Codes, const P: usize, const R: usize>(
    simd: S,
    weights: &[[S::Q; 4]; P],
    (x, half): (&[ActivationBlock; R], usize),
    dots: &mut [[S::I; R]; P],
) {
    for (i, x) in x.iter().enumerate() {
        for (dots, weights) in dots.iter_mut().zip(weights) {
            dots[i] = C::dot(simd, dots[i], weights, &x.q[half]);
        }
    }
}

#[inline(always)]
fn add_scaled<S: Simd, T: Scales, const P: usize, const R: usize>(
    simd: S,
    scales: [(S::F, Option<S::F>); P],
    (x, run): (&[ActivationBlock; R], usize),
    dots: &[[S::I; R]; P],
    sums: &mut [[S::F; R]; P],
) {
    for ((sums, dots), (d, m)) in sums.iter_mut().zip(dots).zip(scales) {
        for ((sum, dot), x) in sums.iter_mut().zip(dots).zip(x) {
            let scale = simd.mul(d, simd.splat(x.d));
            *sum = simd.mul_add(simd.to_floats(*dot), scale, *sum);
            if let Some(m) = m {
                *sum = simd.mul_add(m, simd.splat(T::sum(x, run)), *sum);
            }
        }
    }
}
