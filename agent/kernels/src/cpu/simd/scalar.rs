//! The oracle: each operation as a loop over sixteen numbers.

#![expect(clippy::inline_always, reason = "one form for all instruction sets")]

use std::array::from_fn;

use half::{bf16, f16};

use super::{Kernel, LANES, Lanes, Line, Simd};

/// Needs nothing of the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    const ROWS: usize = super::PAIR_ROWS;
    // No registers to run out of.
    const SUMS: usize = usize::MAX;

    type F = Lanes;
    type I = [i32; LANES];
    type Q = [u8; 64];

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn fetch<T>(self, _from: &T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Lanes {
        *from
    }

    #[inline(always)]
    fn store(self, value: Lanes, to: &mut Lanes) {
        *to = value;
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Lanes {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Lanes {
        from.map(bf16::to_f32)
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "n is an integer in -126..=127, so the exponent is in 1..=254"
    )]
    fn pow2(self, n: Lanes) -> Lanes {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn keep_from(self, value: Lanes, x: Lanes, limit: f32) -> Lanes {
        from_fn(|i| if x[i] >= limit { value[i] } else { 0.0 })
    }

    #[inline(always)]
    fn largest(self, value: Lanes) -> f32 {
        value.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn round_f16(self, value: f32) -> f32 {
        f16::from_f32(value).to_f32()
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the values are integers in -127..=127")]
    fn to_bytes(self, value: Lanes, to: &mut [i8; LANES]) {
        *to = value.map(|value| value as i8);
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Lanes {
        from.map(f32::from)
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES]) -> (Lanes, Lanes) {
        (from.map(|byte| f32::from(byte & 15)), from.map(|byte| f32::from(byte >> 4)))
    }

    #[inline(always)]
    fn signed(self, line: &Line) -> [u8; 64] {
        line.0
    }

    #[inline(always)]
    fn bytes(self, line: &Line) -> [u8; 64] {
        line.0
    }

    #[inline(always)]
    fn field(self, bytes: [u8; 64], shift: i32, mask: u8) -> [u8; 64] {
        let left = shift < 0;
        bytes.map(|byte| {
            mask & if left { byte << shift.unsigned_abs() } else { byte >> shift.unsigned_abs() }
        })
    }

    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn lookup(self, bytes: [u8; 64], table: &[i8; 16]) -> [u8; 64] {
        bytes.map(|byte| table[usize::from(byte & 15)].cast_unsigned())
    }

    #[inline(always)]
    fn start(self, sum: i32) -> [i32; LANES] {
        [sum; LANES]
    }

    #[inline(always)]
    fn start_signed(self, _lift: i32) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn dot_signed<const P: usize>(
        self,
        mut sums: [[i32; LANES]; P],
        weights: &[[[u8; 64]; 4]; P],
        x: &[i8; 16],
    ) -> [[i32; LANES]; P] {
        for (sums, weights) in sums.iter_mut().zip(weights) {
            for (group, weights) in weights.iter().enumerate() {
                for (i, weight) in weights.iter().enumerate() {
                    let y = i32::from(x[group * 4 + i % 4]);
                    sums[i / 4] += i32::from(weight.cast_signed()) * y;
                }
            }
        }
        sums
    }

    /// Weights of six bits and less are the same signed and unsigned.
    #[inline(always)]
    fn dot<const BITS: u32, const P: usize>(
        self,
        sums: [[i32; LANES]; P],
        weights: &[[[u8; 64]; 4]; P],
        x: &[i8; 16],
    ) -> [[i32; LANES]; P] {
        self.dot_signed(sums, weights, x)
    }

    #[inline(always)]
    fn to_floats(self, sums: [i32; LANES]) -> Lanes {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn spin_dots(self, rounds: u64) -> (u64, i32) {
        let mut weights = std::hint::black_box([3_i8; 64]);
        let mut total = 0_i32;
        for _ in 0..rounds {
            for weight in &mut weights {
                total = total.wrapping_add(i32::from(*weight) * 5);
                *weight = weight.wrapping_add(1);
            }
        }
        (rounds * 128, total)
    }
}
