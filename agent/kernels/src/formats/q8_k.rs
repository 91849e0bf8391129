//! Q8_K: 256 signed bytes under one f32 scale, and the sum of each sixteen of them.
//!
//! Made from activations only, by engines that multiply super-blocks with super-blocks.

use super::block::{Parts, Rounded, join};
use super::grid::{Bytes, Grid};
use super::q8_0::inverse;

/// One block of activations.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ8K {
    pub d: f32,
    pub q: [i8; 256],
    /// Of sixteen neighbours each.
    pub sums: [i16; 16],
}

const _: () = assert!(size_of::<BlockQ8K>() == 292);

impl BlockQ8K {
    pub fn from_bytes(bytes: &[u8; 292]) -> Self {
        let mut parts = Parts(bytes);
        let d = f32::from_le_bytes(parts.take());
        let q = parts.take().map(u8::cast_signed);
        Self { d, q, sums: [0; 16].map(|_: u8| i16::from_le_bytes(parts.take())) }
    }

    pub fn to_bytes(&self) -> [u8; 292] {
        let sums = self.sums.map(i16::to_le_bytes);
        join(&[&self.d.to_le_bytes(), &self.q.map(i8::cast_unsigned), sums.as_flattened()])
    }

    /// The value furthest from zero becomes -127, whatever its sign.
    pub fn quantise(values: &[f32; 256]) -> Self {
        let most =
            values.iter().fold(0.0, |most: f32, v| if v.abs() > most.abs() { *v } else { most });
        let inverse = if inverse(most) == 0.0 { 0.0 } else { -127.0 / most };
        let q = values.map(|value| Bytes::integer(Bytes::code(value * inverse)));
        let mut runs = q.chunks(16);
        let sums = [0; 16]
            .map(|_: u8| runs.next().unwrap_or_default().iter().map(|q| i16::from(*q)).sum());
        let d = if inverse == 0.0 { 0.0 } else { 1.0 / inverse };
        Self { d, q, sums }
    }

    pub fn dequantise(&self, out: &mut [f32; 256]) {
        for (out, q) in out.iter_mut().zip(self.q) {
            *out = f32::from(q) * self.d;
        }
    }

    pub(super) fn rounded(&self) -> impl Iterator<Item = Rounded> {
        self.q.as_chunks().0.iter().map(|q| Rounded { d: f64::from(self.d), q: *q, s: None })
    }
}
