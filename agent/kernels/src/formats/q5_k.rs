//! Q5_K: `w[i] = d * s * q[i] - min * t`, as Q4_K with codes of five bits.
//!
//! The low four bits lie as in Q4_K; bit `j` of byte `i` of `high` is the fifth of value `32 j + i`.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Counted;
use super::plane::Plane;
use super::q4_k::Factors;
use super::search::{Shifted, shifted};

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ5K {
    pub d: f16,
    pub min: f16,
    pub factors: Factors,
    pub high: [u8; 32],
    pub q: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl Block<256, 176> for BlockQ5K {
    type Grid = Counted<32>;

    fn from_bytes(bytes: &[u8; 176]) -> Self {
        let mut parts = Parts(bytes);
        let (d, min) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { d, min, factors: Factors(parts.take()), high: parts.take(), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 176] {
        let (d, min) = (self.d.to_le_bytes(), self.min.to_le_bytes());
        join(&[&d, &min, &self.factors.0, &self.high, &self.q])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Shifted { d, min, factors, min_factors, codes } =
            shifted::<Self::Grid, Counted<64>, 8>(values);
        let factors = Factors::pack(factors, min_factors);
        let (high, q) = (Plane::<1, 32>::pack(&codes, 4), Plane::<4, 32>::pack(&codes, 0));
        Self { d, min, factors, high, q }
    }

    fn codes(&self) -> [u8; 256] {
        let mut codes = Plane::<4, 32>::fields(&self.q);
        Plane::<1, 32>::read(&self.high, 4, &mut codes);
        codes
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        self.factors.scales(self.d, self.min)
    }
}
