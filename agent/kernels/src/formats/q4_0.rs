//! Q4_0: `w[i] = d * (q[i] - 8)`, 32 nibbles under one f16 scale.
//!
//! Byte `i` holds value `i` in its low half and value `i + 16` in its high half.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Centred;
use super::plane::Plane;
use super::search;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ4_0 {
    pub d: f16,
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl Block<32, 18> for BlockQ4_0 {
    type Grid = Centred<16>;

    fn from_bytes(bytes: &[u8; 18]) -> Self {
        let mut parts = Parts(bytes);
        Self { d: f16::from_le_bytes(parts.take()), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 18] {
        join(&[&self.d.to_le_bytes(), &self.q])
    }

    fn quantise(values: &[f32; 32]) -> Self {
        let d = f16::from_f32(search::scale::<Self::Grid>(values));
        let codes = search::codes::<Self::Grid, _>(values, d.to_f32());
        Self { d, q: Plane::<4, 16>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 32] {
        Plane::<4, 16>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(self.d.to_f32(), 0.0)].into_iter()
    }
}
