//! Sixteen lanes of arithmetic, and one implementation of them per instruction set.
//!
//! A kernel is written once, against [`Simd`], and runs with the instruction set whose proof token
//! it is given: a token can only be had where the processor has the instructions. All
//! implementations do the same operations in the same order, fused where it says fused, so a
//! kernel's results are bit for bit the same with each of them; [`scalar::Scalar`] is the oracle.

#![expect(clippy::inline_always, reason = "intrinsics compile to instructions only when inlined")]

pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

use half::{bf16, f16};

/// How many values one operation works on: a 512-bit register of f32.
pub(crate) const LANES: usize = 16;

/// Rows of activations in the product of two panels at once.
pub(crate) const PAIR_ROWS: usize = 8;

/// One value per lane, in memory.
pub(crate) type Lanes = [f32; LANES];

/// One cache line of quantised weights: four neighbouring columns of each of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// A piece of arithmetic written against [`Simd`].
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, and so must all it calls with the token. Closures cannot be: what
    /// does arithmetic within one calls a function for each instruction.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The operations of one instruction set, on values that never leave registers if all goes well.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The most rows of activations that a tile of a matrix product holds in registers.
    const ROWS: usize;
    /// Sums of sixteen values that stay in registers beside what is added to them.
    const SUMS: usize;

    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixty-four bytes of weights.
    type Q: Copy;

    /// Runs a kernel with the instructions of this set enabled.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// Asks for the cache line in which `from` begins, for it to be there when it is loaded.
    fn fetch<T>(self, from: &T);

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &Lanes) -> Self::F;
    fn store(self, value: Self::F, to: &mut Lanes);
    fn load_f16(self, from: &[f16; LANES]) -> Self::F;
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::F;
    fn load_i8(self, from: &[i8; LANES]) -> Self::F;
    /// The low and the high halves of bytes.
    fn load_nibbles(self, from: &[u8; LANES]) -> (Self::F, Self::F);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// The nearest integer, halves to even.
    fn round(self, a: Self::F) -> Self::F;
    /// Two to the power of `n`, an integer in `-126..=127`.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `value` where `x >= limit`, zero elsewhere.
    fn keep_from(self, value: Self::F, x: Self::F, limit: f32) -> Self::F;
    /// The largest lane; which of equal zeros is left open.
    fn largest(self, value: Self::F) -> f32;
    /// `value` rounded to f16 and back.
    fn round_f16(self, value: f32) -> f32;
    /// Integers in `-127..=127` to bytes.
    fn to_bytes(self, value: Self::F, to: &mut [i8; LANES]);

    /// Signed bytes, for [`Simd::dot_signed`].
    fn signed(self, line: &Line) -> Self::Q;
    /// Bytes as they are.
    fn bytes(self, line: &Line) -> Self::Q;
    /// Each byte `shift` bits to the right, to the left where that is negative, as far as `mask`
    /// has bits.
    fn field(self, bytes: Self::Q, shift: i32, mask: u8) -> Self::Q;
    fn or(self, a: Self::Q, b: Self::Q) -> Self::Q;
    /// What `table` has for each byte, all below sixteen, for [`Simd::dot_signed`].
    fn lookup(self, bytes: Self::Q, table: &[i8; 16]) -> Self::Q;
    /// The same sum in all lanes.
    fn start(self, sum: i32) -> Self::I;
    /// What sums of [`Simd::dot_signed`] start from; `lift` is -128 times the sum of all activations.
    fn start_signed(self, lift: i32) -> Self::I;
    /// Adds the products of sixteen rows of sixteen bytes from [`Simd::signed`] or
    /// [`Simd::lookup`], of each of `P` panels, with sixteen activations, none of them -128.
    fn dot_signed<const P: usize>(
        self,
        sums: [Self::I; P],
        weights: &[[Self::Q; 4]; P],
        x: &[i8; 16],
    ) -> [Self::I; P];
    /// As [`Simd::dot_signed`] with unsigned weights of `BITS` bits, six at most.
    fn dot<const BITS: u32, const P: usize>(
        self,
        sums: [Self::I; P],
        weights: &[[Self::Q; 4]; P],
        x: &[i8; 16],
    ) -> [Self::I; P];
    fn to_floats(self, sums: Self::I) -> Self::F;
    /// As many integer products as `rounds` asks for, in registers; returns how many multiplies and
    /// adds that was, and a number that depends on all of them.
    fn spin_dots(self, rounds: u64) -> (u64, i32);

    /// The sum over lanes, always added in the same order.
    #[inline(always)]
    fn sum(self, value: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            let (low, high) = lanes.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                *low += *high;
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// Loads up to sixteen values, the rest zero.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(simd: S, from: &[f32]) -> S::F {
    let mut lanes = [0.0; LANES];
    for (lane, value) in lanes.iter_mut().zip(from) {
        *lane = *value;
    }
    simd.load(&lanes)
}

/// Stores the first `to.len()` lanes.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(simd: S, value: S::F, to: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    simd.store(value, &mut lanes);
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to = lane;
    }
}

/// Below this, `exp` is zero: the smallest result that is no denormal.
const EXP_MIN: f32 = -87.0;
/// Above this, `exp` stays where it is: the largest result that is finite.
const EXP_MAX: f32 = 88.0;

/// `exp(x)` within two units in the last place; zero below -87.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then `exp(x) = 2^n exp(r)` by a polynomial in `r`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    // ln 2 in two parts: the first has few enough bits that `n` times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // 1/k! for k = 7 down to 2: the truncated rest is below 2^-24 for |r| <= 0.3466.
    const TAYLOR: [f32; 6] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0];

    let bounded = simd.min(simd.max(x, simd.splat(EXP_MIN)), simd.splat(EXP_MAX));
    let n = simd.round(simd.mul(bounded, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-LN2_HIGH), bounded);
    let r = simd.mul_add(n, simd.splat(-LN2_LOW), r);
    let mut p = simd.splat(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        p = simd.mul_add(p, r, simd.splat(*coefficient));
    }
    let p = simd.mul_add(simd.mul(r, r), p, r);
    let p = simd.add(p, simd.splat(1.0));
    simd.keep_from(simd.mul(p, simd.pow2(n)), x, EXP_MIN)
}
