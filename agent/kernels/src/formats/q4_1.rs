//! Q4_1: `w[i] = d * q[i] + m`, 32 nibbles under one f16 scale and one f16 offset.
//!
//! Byte `i` holds value `i` in its low half and value `i + 16` in its high half.

use half::f16;

use super::{q8_0::inverse, q8_1::BlockQ8_1};

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ4_1 {
    pub d: f16,
    pub m: f16,
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl BlockQ4_1 {
    pub fn from_bytes(bytes: &[u8; 20]) -> Self {
        let [d0, d1, m0, m1, q @ ..] = *bytes;
        Self { d: f16::from_le_bytes([d0, d1]), m: f16::from_le_bytes([m0, m1]), q }
    }

    pub fn to_bytes(&self) -> [u8; 20] {
        let ([d0, d1], [m0, m1]) = (self.d.to_le_bytes(), self.m.to_le_bytes());
        let mut bytes = [d0, d1, m0, m1].into_iter().chain(self.q);
        std::array::from_fn(|_| bytes.next().unwrap_or_default())
    }

    /// The block that spans the smallest to the largest value in 15 equal steps.
    pub fn quantise(values: &[f32; 32]) -> Self {
        let smallest = values.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let d = (largest - smallest) / 15.0;
        let inverse = inverse(d);
        let (low, high) = values.split_at(16);
        let mut halves = low.iter().zip(high);
        let q = std::array::from_fn(|_| {
            halves.next().map_or(0, |(low, high)| {
                nibble((low - smallest) * inverse) | (nibble((high - smallest) * inverse) << 4)
            })
        });
        Self { d: f16::from_f32(d), m: f16::from_f32(smallest), q }
    }

    pub fn dequantise(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (out, q) in out.iter_mut().zip(self.nibbles()) {
            *out = f32::from(q) * d + m;
        }
    }

    /// The product with a block of activations.
    pub fn dot(&self, activations: &BlockQ8_1) -> f64 {
        let sum: i32 = self
            .nibbles()
            .zip(activations.q)
            .map(|(w, y)| i32::from(w).wrapping_mul(i32::from(y)))
            .sum();
        f64::from(sum) * self.d.to_f64() * activations.d.to_f64()
            + self.m.to_f64() * activations.s.to_f64()
    }

    /// The 32 values in order.
    pub(crate) fn nibbles(&self) -> impl Iterator<Item = u8> {
        self.q.into_iter().map(|q| q & 15).chain(self.q.into_iter().map(|q| q >> 4))
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a step is in 0..=15 and a hair, and is cut at 15"
)]
fn nibble(step: f32) -> u8 {
    ((step + 0.5) as u8).min(15)
}
