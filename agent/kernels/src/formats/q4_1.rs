//! Q4_1: `w[i] = d * q[i] + m`, 32 nibbles under one f16 scale and one f16 offset.
//!
//! Byte `i` holds value `i` in its low half and value `i + 16` in its high half.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::{Counted, Grid};
use super::plane::Plane;
use super::q8_0::inverse;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ4_1 {
    pub d: f16,
    pub m: f16,
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl Block<32, 20> for BlockQ4_1 {
    type Grid = Counted<16>;

    fn from_bytes(bytes: &[u8; 20]) -> Self {
        let mut parts = Parts(bytes);
        let (d, m) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { d, m, q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 20] {
        join(&[&self.d.to_le_bytes(), &self.m.to_le_bytes(), &self.q])
    }

    fn quantise(values: &[f32; 32]) -> Self {
        let (d, m, codes) = spanning::<Self::Grid>(values);
        Self { d, m, q: Plane::<4, 16>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 32] {
        Plane::<4, 16>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(self.d.to_f32(), -self.m.to_f32())].into_iter()
    }
}

/// The scale, the offset and the codes that span the smallest to the largest value in equal steps.
pub(super) fn spanning<G: Grid>(values: &[f32; 32]) -> (f16, f16, [u8; 32]) {
    let smallest = values.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (largest - smallest) / G::HIGHEST;
    let inverse = inverse(d);
    let codes = values.map(|value| G::code((value - smallest) * inverse));
    (f16::from_f32(d), f16::from_f32(smallest), codes)
}
