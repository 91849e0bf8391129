//! Q8_0: `w[i] = d * q[i]`, 32 signed bytes under one f16 scale.

use half::f16;

use super::block::{Block, Parts, Rounded, join};
use super::grid::Bytes;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ8_0 {
    pub d: f16,
    pub q: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl Block<32, 34> for BlockQ8_0 {
    type Grid = Bytes;

    fn from_bytes(bytes: &[u8; 34]) -> Self {
        let mut parts = Parts(bytes);
        let d = f16::from_le_bytes(parts.take());
        Self { d, q: parts.take().map(u8::cast_signed) }
    }

    fn to_bytes(&self) -> [u8; 34] {
        join(&[&self.d.to_le_bytes(), &self.codes()])
    }

    /// The nearest block: `d = max |x| / 127`, each `q` the nearest integer to `x / d`.
    fn quantise(values: &[f32; 32]) -> Self {
        let (d, q) = nearest(values);
        Self { d: f16::from_f32(d), q }
    }

    fn codes(&self) -> [u8; 32] {
        self.q.map(i8::cast_unsigned)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(self.d.to_f32(), 0.0)].into_iter()
    }
}

impl BlockQ8_0 {
    pub(super) fn rounded(&self) -> Rounded {
        Rounded { d: self.d.to_f64(), q: self.q, s: None }
    }
}

/// The scale, not yet rounded to f16, and the bytes of the nearest block.
///
/// Halves go to the even neighbour, as vector units round, so that a backend makes the same bytes.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "|value * inverse| is at most 127 and a hair, which rounds into an i8"
)]
pub(crate) fn nearest(values: &[f32; 32]) -> (f32, [i8; 32]) {
    let d = scale(values);
    let inverse = inverse(d);
    (d, values.map(|value| (value * inverse).round_ties_even() as i8))
}

/// The scale of which a byte holds the value of the largest magnitude.
pub(crate) fn scale(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0
}

/// What values are multiplied with to be divided by `d`; 0 where `d` is zero or so small that its
/// inverse is no number, and f16 holds neither.
#[inline]
pub(crate) fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_too_small_for_an_inverse_become_zero() {
        for tiny in [0.0, 1e-40, -1e-40, f32::from_bits(1)] {
            let block = BlockQ8_0::quantise(&[tiny; 32]);
            assert_eq!(block, BlockQ8_0 { d: f16::ZERO, q: [0; 32] });
        }
    }
}
