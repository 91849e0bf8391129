//! Q5_0: `w[i] = d * (q[i] - 16)`, 32 codes of five bits under one f16 scale.
//!
//! The low four bits lie as in Q4_0; bit `i` of the 32-bit word `high` is the fifth of value `i`.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Centred;
use super::plane::Plane;
use super::search;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ5_0 {
    pub d: f16,
    pub high: [u8; 4],
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl Block<32, 22> for BlockQ5_0 {
    type Grid = Centred<32>;

    fn from_bytes(bytes: &[u8; 22]) -> Self {
        let mut parts = Parts(bytes);
        Self { d: f16::from_le_bytes(parts.take()), high: parts.take(), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 22] {
        join(&[&self.d.to_le_bytes(), &self.high, &self.q])
    }

    fn quantise(values: &[f32; 32]) -> Self {
        let d = f16::from_f32(search::scale::<Self::Grid>(values));
        let codes = search::codes::<Self::Grid, _>(values, d.to_f32());
        Self { d, high: Plane::<1, 1>::pack(&codes, 4), q: Plane::<4, 16>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 32] {
        let mut codes = Plane::<4, 16>::fields(&self.q);
        Plane::<1, 1>::read(&self.high, 4, &mut codes);
        codes
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(self.d.to_f32(), 0.0)].into_iter()
    }
}
