//! Operations on activations that only some architectures need.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::pool::Pool;
use super::rows::{by_chunk, by_row};
use super::simd::{Kernel, LANES, Simd, exp, load_part, store_part};

/// `x = cap * tanh(x / cap)`
pub(crate) fn soft_cap<S: Simd>(simd: S, pool: &mut Pool, x: &mut [f32], cap: f32) {
    by_chunk(pool, x, |_, x| simd.run(SoftCap { x, cap }));
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Kernel for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, rest) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            simd.store(soft_cap_lanes(simd, simd.load(x), self.cap), x);
        }
        let last = soft_cap_lanes(simd, load_part(simd, rest), self.cap);
        store_part(simd, last, rest);
    }
}

/// `tanh(y)` is `1 - 2 / (exp(2 y) + 1)`, off by a unit in the last place of 1, which the cap makes
/// as many of itself.
#[inline(always)]
pub(crate) fn soft_cap_lanes<S: Simd>(simd: S, x: S::F, cap: f32) -> S::F {
    let rising = exp(simd, simd.mul(x, simd.splat(2.0 / cap)));
    let left = simd.div(simd.splat(-2.0), simd.add(rising, simd.splat(1.0)));
    simd.mul(simd.add(left, simd.splat(1.0)), simd.splat(cap))
}

/// `x = by * x`
pub(crate) fn scale(pool: &mut Pool, x: &mut [f32], by: f32) {
    by_chunk(pool, x, |_, x| x.iter_mut().for_each(|x| *x *= by));
}

/// `x = x + bias`
pub(crate) fn add_bias(pool: &mut Pool, x: &mut [f32], bias: &[f32]) {
    by_row(pool, x, bias.len(), |_, x| {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x += bias;
        }
    });
}

/// `x[rows[i]] = x[rows[i]] + factors[i] * y[i]`, on one thread: it moves far less than the products
/// before it read.
pub(crate) fn add_rows(x: &mut [f32], cols: usize, (rows, factors): (&[u32], &[f32]), y: &[f32]) {
    for ((row, factor), y) in rows.iter().zip(factors).zip(y.chunks_exact(cols)) {
        let x = &mut x[*row as usize * cols..][..cols];
        for (x, y) in x.iter_mut().zip(y) {
            *x += factor * y;
        }
    }
}
