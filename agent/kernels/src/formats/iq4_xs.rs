//! IQ4_XS: `w[i] = d * (s - 32) * table[q[i]]`, 256 nibbles that choose from the integers of IQ4_NL
//! and a scale `s` of six bits for each run of 32, under one f16 scale.
//!
//! The nibbles of each run lie as in Q4_0. The low halves of the scales share the bytes of
//! `factors`, two in each; the upper two bits lie in `high`, four in each.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::{Centred, Grid, NonLinear};
use super::plane::Plane;
use super::search::{Scaled, scaled};

/// The scales of runs.
type Factor = Centred<64>;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockIq4Xs {
    pub d: f16,
    pub high: [u8; 2],
    pub factors: [u8; 4],
    pub q: [u8; 128],
}

const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

impl BlockIq4Xs {
    /// The scale of each run, still without the one of the block.
    pub fn factors(&self) -> [i8; 8] {
        let mut codes = Plane::<4, 1>::fields(&self.factors);
        Plane::<2, 1>::read(&self.high, 4, &mut codes);
        codes.map(Factor::integer)
    }
}

impl Block<256, 136> for BlockIq4Xs {
    type Grid = NonLinear;

    fn from_bytes(bytes: &[u8; 136]) -> Self {
        let mut parts = Parts(bytes);
        let d = f16::from_le_bytes(parts.take());
        Self { d, high: parts.take(), factors: parts.take(), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 136] {
        join(&[&self.d.to_le_bytes(), &self.high, &self.factors, &self.q])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Scaled { d, factors, codes } = scaled::<Self::Grid, Factor, 8>(values);
        let factors = factors.map(|factor| Factor::code(f32::from(factor)));
        let (high, factors) = (Plane::<2, 1>::pack(&factors, 4), Plane::<4, 1>::pack(&factors, 0));
        Self { d, high, factors, q: Plane::<4, 16>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 256] {
        Plane::<4, 16>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        let d = self.d.to_f32();
        self.factors().into_iter().map(move |factor| (d * f32::from(factor), 0.0))
    }
}
