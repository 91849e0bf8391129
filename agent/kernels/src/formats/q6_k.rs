//! Q6_K: `w[i] = d * s * (q[i] - 32)`, 256 codes of six bits and a signed byte `s` for each run of
//! sixteen, under one f16 scale.
//!
//! The low four bits of twice 64 neighbouring values take the same 64 bytes, the upper two bits of
//! four times 32 the same 32.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::{Bytes, Centred};
use super::plane::Plane;
use super::search::{Scaled, scaled};

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ6K {
    pub q: [u8; 128],
    pub high: [u8; 64],
    pub factors: [i8; 16],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl Block<256, 210> for BlockQ6K {
    type Grid = Centred<64>;
    const RUN: usize = 16;

    fn from_bytes(bytes: &[u8; 210]) -> Self {
        let mut parts = Parts(bytes);
        let (q, high, factors) = (parts.take(), parts.take(), parts.take());
        let factors = factors.map(u8::cast_signed);
        Self { q, high, factors, d: f16::from_le_bytes(parts.take()) }
    }

    fn to_bytes(&self) -> [u8; 210] {
        let factors = self.factors.map(i8::cast_unsigned);
        join(&[&self.q, &self.high, &factors, &self.d.to_le_bytes()])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Scaled { d, factors, codes } = scaled::<Self::Grid, Bytes, 16>(values);
        let (q, high) = (Plane::<4, 64>::pack(&codes, 0), Plane::<2, 32>::pack(&codes, 4));
        Self { q, high, factors, d }
    }

    fn codes(&self) -> [u8; 256] {
        let mut codes = Plane::<4, 64>::fields(&self.q);
        Plane::<2, 32>::read(&self.high, 4, &mut codes);
        codes
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        let d = self.d.to_f32();
        self.factors.into_iter().map(move |factor| (d * f32::from(factor), 0.0))
    }
}
