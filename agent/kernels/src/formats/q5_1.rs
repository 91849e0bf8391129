//! Q5_1: `w[i] = d * q[i] + m`, 32 codes of five bits under one f16 scale and one f16 offset.
//!
//! The codes lie as in Q5_0.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Counted;
use super::plane::Plane;
use super::q4_1::spanning;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ5_1 {
    pub d: f16,
    pub m: f16,
    pub high: [u8; 4],
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl Block<32, 24> for BlockQ5_1 {
    type Grid = Counted<32>;

    fn from_bytes(bytes: &[u8; 24]) -> Self {
        let mut parts = Parts(bytes);
        let (d, m) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { d, m, high: parts.take(), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 24] {
        join(&[&self.d.to_le_bytes(), &self.m.to_le_bytes(), &self.high, &self.q])
    }

    fn quantise(values: &[f32; 32]) -> Self {
        let (d, m, codes) = spanning::<Self::Grid>(values);
        Self { d, m, high: Plane::<1, 1>::pack(&codes, 4), q: Plane::<4, 16>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 32] {
        let mut codes = Plane::<4, 16>::fields(&self.q);
        Plane::<1, 1>::read(&self.high, 4, &mut codes);
        codes
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(self.d.to_f32(), -self.m.to_f32())].into_iter()
    }
}
