//! Operations that only models need which read texts and write none.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::pool::Pool;
use super::rows::{by_chunk, by_row};
use super::simd::{Kernel, LANES, Simd, exp, load_part, store_part};

/// What a norm of mean and variance scales and moves a row by.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`
pub(crate) fn layer_norm<S: Simd>(
    simd: S,
    pool: &mut Pool,
    x: &[f32],
    norm: Norm<'_>,
    out: &mut [f32],
) {
    let cols = norm.weight.len();
    by_row(pool, out, cols, |row, out| {
        simd.run(LayerNorm { x: &x[row * cols..][..cols], norm, out });
    });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    norm: Norm<'a>,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Norm { weight, bias, eps } = self.norm;
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let len = self.x.len() as f32;
        let last = load_part(simd, x_rest);
        let mut sum = last;
        for x in x {
            sum = simd.add(sum, simd.load(x));
        }
        let mean = simd.sum(sum) / len;
        // Twice over the row: squares less the square of the mean cancel where the mean is large.
        let minus_mean = simd.splat(-mean);
        let mut squares = simd.splat(0.0);
        for x in x {
            let apart = simd.add(simd.load(x), minus_mean);
            squares = simd.mul_add(apart, apart, squares);
        }
        let rest: f32 = x_rest.iter().map(|x| (x - mean) * (x - mean)).sum();
        let variance = (simd.sum(squares) + rest) / len;
        let scale = simd.splat(1.0 / (variance + eps).sqrt());
        let turn = (minus_mean, scale);
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (bias, bias_rest) = bias.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for (((x, weight), bias), out) in x.iter().zip(weight).zip(bias).zip(out) {
            let by = (simd.load(weight), simd.load(bias));
            simd.store(normed(simd, simd.load(x), turn, by), out);
        }
        let by = (load_part(simd, weight_rest), load_part(simd, bias_rest));
        store_part(simd, normed(simd, last, turn, by), out_rest);
    }
}

/// `(x + minus_mean) * scale * weight + bias`
#[inline(always)]
fn normed<S: Simd>(
    simd: S,
    x: S::F,
    (minus_mean, scale): (S::F, S::F),
    (weight, bias): (S::F, S::F),
) -> S::F {
    let scaled = simd.mul(simd.add(x, minus_mean), scale);
    simd.mul_add(scaled, weight, bias)
}

/// `x = gelu(x)`
pub(crate) fn gelu<S: Simd>(simd: S, pool: &mut Pool, x: &mut [f32]) {
    by_chunk(pool, x, |_, x| simd.run(Gelu { x }));
}

struct Gelu<'a> {
    x: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, rest) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            simd.store(gelu_lanes(simd, simd.load(x)), x);
        }
        let last = gelu_lanes(simd, load_part(simd, rest));
        store_part(simd, last, rest);
    }
}

/// `x` times the part of a normal distribution below it: for a positive `x` that is `x` less the tail
/// beyond, for a negative one the tail alone.
///
/// Both tails are `erfc(z) / 2` with `z = |x| / sqrt(2)`, and `erfc(z) = t exp(p(t) - z^2)` with
/// `t = 1 / (1 + z / 2)`, where the Chebyshev fit `p` leaves 1.2e-7 of the result, however small.
#[inline(always)]
fn gelu_lanes<S: Simd>(simd: S, x: S::F) -> S::F {
    /// `1 / (2 sqrt(2))`
    const HALF_Z: f32 = 0.353_553_4;
    /// Of `p`, the highest power first.
    const P: [f32; 10] = [
        0.170_872_77,
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_08,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let size = simd.abs(x);
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.mul_add(size, simd.splat(HALF_Z), one));
    let mut p = simd.splat(P[0]);
    for coefficient in &P[1..] {
        p = simd.mul_add(p, t, simd.splat(*coefficient));
    }
    let power = simd.mul_add(simd.mul(x, simd.splat(-0.5)), x, p);
    let tail = simd.mul(simd.mul(t, exp(simd, power)), simd.mul(size, simd.splat(-0.5)));
    simd.add(simd.max(x, simd.splat(0.0)), tail)
}
