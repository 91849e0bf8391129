//! Q2_K: `w[i] = d * s * q[i] - min * t`, 256 codes of two bits, a scale `s` and a minimum `t` of
//! four bits for each run of sixteen, under one f16 scale of each.
//!
//! Four times 32 neighbouring values take the same 32 bytes, two bits after two bits.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Counted;
use super::plane::Plane;
use super::search::{Shifted, shifted};

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ2K {
    /// Of each run, the scale in the low half and the minimum in the high one.
    pub factors: [u8; 16],
    pub q: [u8; 64],
    pub d: f16,
    pub min: f16,
}

const _: () = assert!(size_of::<BlockQ2K>() == 84);

impl Block<256, 84> for BlockQ2K {
    type Grid = Counted<4>;
    const RUN: usize = 16;

    fn from_bytes(bytes: &[u8; 84]) -> Self {
        let mut parts = Parts(bytes);
        let (factors, q) = (parts.take(), parts.take());
        let (d, min) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { factors, q, d, min }
    }

    fn to_bytes(&self) -> [u8; 84] {
        join(&[&self.factors, &self.q, &self.d.to_le_bytes(), &self.min.to_le_bytes()])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Shifted { d, min, factors, min_factors, codes } =
            shifted::<Self::Grid, Counted<16>, 16>(values);
        let mut both = [0; 32];
        let (low, high) = both.split_at_mut(16);
        low.copy_from_slice(&factors);
        high.copy_from_slice(&min_factors);
        Self { factors: Plane::<4, 16>::pack(&both, 0), q: Plane::<2, 32>::pack(&codes, 0), d, min }
    }

    fn codes(&self) -> [u8; 256] {
        Plane::<2, 32>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        let (d, min) = (self.d.to_f32(), self.min.to_f32());
        self.factors.into_iter().map(move |f| (d * f32::from(f & 15), min * f32::from(f >> 4)))
    }
}
