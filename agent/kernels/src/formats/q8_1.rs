//! Q8_1: Q8_0 with the product of scale and sum, for weights that have an offset.

use half::f16;

use super::block::{Parts, Rounded, join};
use super::q8_0;

/// One block of activations.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ8_1 {
    pub d: f16,
    /// `d * sum(q)`, computed from the scale before it was rounded.
    pub s: f16,
    pub q: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_1>() == 36);

impl BlockQ8_1 {
    pub fn from_bytes(bytes: &[u8; 36]) -> Self {
        let mut parts = Parts(bytes);
        let (d, s) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { d, s, q: parts.take().map(u8::cast_signed) }
    }

    pub fn to_bytes(&self) -> [u8; 36] {
        join(&[&self.d.to_le_bytes(), &self.s.to_le_bytes(), &self.q.map(i8::cast_unsigned)])
    }

    #[expect(
        clippy::as_conversions,
        reason = "a sum of 32 bytes is at most 4096, which f32 holds exactly"
    )]
    pub fn quantise(values: &[f32; 32]) -> Self {
        let (d, q) = q8_0::nearest(values);
        let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
        Self { d: f16::from_f32(d), s: f16::from_f32(d * sum as f32), q }
    }

    pub fn dequantise(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (out, q) in out.iter_mut().zip(self.q) {
            *out = f32::from(q) * d;
        }
    }
    pub(super) fn rounded(&self) -> Rounded {
        Rounded { d: self.d.to_f64(), q: self.q, s: Some(self.s.to_f64()) }
    }
}
