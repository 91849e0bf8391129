//! Operations on activations that only some architectures need.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::pool::Pool;
use super::rows::{by_chunk, by_row};
use super::simd::{Kernel, LANES, Simd, exp, load_part, store_part};

/// `out = gelu(gate) * up`
pub(crate) fn gelu_mul<S: Simd>(
    simd: S,
    pool: &mut Pool,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    by_chunk(pool, out, |first, out| {
        let (gate, up) = (&gate[first..][..out.len()], &up[first..][..out.len()]);
        simd.run(GeluMul { gate, up, out });
    });
}

struct GeluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for GeluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gate, gate_rest) = self.gate.as_chunks::<LANES>();
        let (up, up_rest) = self.up.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            simd.store(gelu_mul_lanes(simd, simd.load(gate), simd.load(up)), out);
        }
        let (gate, up) = (load_part(simd, gate_rest), load_part(simd, up_rest));
        store_part(simd, gelu_mul_lanes(simd, gate, up), out_rest);
    }
}

/// `x (1 + tanh(u)) / 2` is `x / (1 + exp(-2 u))`.
#[inline(always)]
fn gelu_mul_lanes<S: Simd>(simd: S, gate: S::F, up: S::F) -> S::F {
    /// `-2 sqrt(2 / pi)`.
    const FALL: f32 = -1.595_769;
    const CUBE: f32 = 0.044_715;
    let square = simd.mul(gate, gate);
    let factor = simd.mul_add(square, simd.splat(CUBE), simd.splat(1.0));
    let falling = exp(simd, simd.mul(simd.mul(gate, factor), simd.splat(FALL)));
    let gelu = simd.div(gate, simd.add(falling, simd.splat(1.0)));
    simd.mul(gelu, up)
}

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
