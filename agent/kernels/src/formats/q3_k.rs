//! Q3_K: `w[i] = d * (s - 32) * (q[i] - 4)`, 256 codes of three bits and a scale `s` of six bits for
//! each run of sixteen, under one f16 scale.
//!
//! The low two bits lie as in Q2_K; bit `j` of byte `i` of `high` is the third of value `32 j + i`.
//! The low four bits of the scales lie in the first eight bytes of `factors`, the high two in the
//! last four.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::{Centred, Grid};
use super::plane::Plane;
use super::search::{Scaled, scaled};

/// The scales of runs.
type Factor = Centred<64>;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ3K {
    pub high: [u8; 32],
    pub q: [u8; 64],
    pub factors: [u8; 12],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    /// The scale of each run, still without the one of the block.
    pub fn factors(&self) -> [i8; 16] {
        let (low, high) = self.factors.split_at(8);
        let mut codes = Plane::<4, 8>::fields(low);
        Plane::<2, 4>::read(high, 4, &mut codes);
        codes.map(Factor::integer)
    }
}

impl Block<256, 110> for BlockQ3K {
    type Grid = Centred<8>;
    const RUN: usize = 16;

    fn from_bytes(bytes: &[u8; 110]) -> Self {
        let mut parts = Parts(bytes);
        let (high, q, factors) = (parts.take(), parts.take(), parts.take());
        Self { high, q, factors, d: f16::from_le_bytes(parts.take()) }
    }

    fn to_bytes(&self) -> [u8; 110] {
        join(&[&self.high, &self.q, &self.factors, &self.d.to_le_bytes()])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Scaled { d, factors, codes } = scaled::<Self::Grid, Factor, 16>(values);
        let factors = factors.map(|factor| Factor::code(f32::from(factor)));
        let low = Plane::<4, 8>::pack::<8>(&factors, 0);
        let high = Plane::<2, 4>::pack::<4>(&factors, 4);
        let factors = join(&[&low, &high]);
        Self {
            high: Plane::<1, 32>::pack(&codes, 2),
            q: Plane::<2, 32>::pack(&codes, 0),
            factors,
            d,
        }
    }

    fn codes(&self) -> [u8; 256] {
        let mut codes = Plane::<2, 32>::fields(&self.q);
        Plane::<1, 32>::read(&self.high, 2, &mut codes);
        codes
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        let d = self.d.to_f32();
        self.factors().into_iter().map(move |factor| (d * f32::from(factor), 0.0))
    }
}
