//! Q4_K: `w[i] = d * s * q[i] - min * t`, 256 nibbles, a scale `s` and a minimum `t` of six bits for
//! each run of 32, under one f16 scale of each.
//!
//! Twice 32 neighbouring values take the same 32 bytes, first the low halves, then the high ones.

use half::f16;

use super::block::{Block, Parts, join};
use super::grid::Counted;
use super::plane::Plane;
use super::search::{Shifted, shifted};

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct BlockQ4K {
    pub d: f16,
    pub min: f16,
    pub factors: Factors,
    pub q: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

/// Eight scales and eight minima of six bits in twelve bytes.
///
/// The first four of each lie in the low six bits of the first and the second four bytes. Of the
/// last four, the low halves share the last four bytes, and the upper two bits lie on top of the
/// first four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Factors(pub [u8; 12]);

impl Factors {
    pub(crate) fn pack(scales: [u8; 8], mins: [u8; 8]) -> Self {
        let ([s0, s1], [m0, m1]) = (halves(scales), halves(mins));
        let tops =
            |low: [u8; 4], high: [u8; 4]| zip(low, high, |low, high| low | ((high >> 4) << 6));
        let last = zip(s1, m1, |scale, min| (scale & 15) | (min << 4));
        Self(join(&[&tops(s0, s1), &tops(m0, m1), &last]))
    }

    /// The scales and the minima.
    pub fn unpack(self) -> ([u8; 8], [u8; 8]) {
        let mut parts = Parts(&self.0);
        let (s, m, last): ([u8; 4], [u8; 4], [u8; 4]) = (parts.take(), parts.take(), parts.take());
        let s1 = zip(last, s, |low, high| (low & 15) | ((high >> 6) << 4));
        let m1 = zip(last, m, |low, high| (low >> 4) | ((high >> 6) << 4));
        (join(&[&s.map(|s| s & 63), &s1]), join(&[&m.map(|m| m & 63), &m1]))
    }

    pub(super) fn scales(self, d: f16, min: f16) -> impl Iterator<Item = (f32, f32)> {
        let (d, min) = (d.to_f32(), min.to_f32());
        let (scales, mins) = self.unpack();
        scales.into_iter().zip(mins).map(move |(s, m)| (d * f32::from(s), min * f32::from(m)))
    }
}

fn halves(all: [u8; 8]) -> [[u8; 4]; 2] {
    let mut parts = Parts(&all);
    [parts.take(), parts.take()]
}

fn zip(a: [u8; 4], b: [u8; 4], join: impl Fn(u8, u8) -> u8) -> [u8; 4] {
    let mut pairs = a.into_iter().zip(b);
    std::array::from_fn(|_| pairs.next().map_or(0, |(a, b)| join(a, b)))
}

impl Block<256, 144> for BlockQ4K {
    type Grid = Counted<16>;

    fn from_bytes(bytes: &[u8; 144]) -> Self {
        let mut parts = Parts(bytes);
        let (d, min) = (f16::from_le_bytes(parts.take()), f16::from_le_bytes(parts.take()));
        Self { d, min, factors: Factors(parts.take()), q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 144] {
        join(&[&self.d.to_le_bytes(), &self.min.to_le_bytes(), &self.factors.0, &self.q])
    }

    fn quantise(values: &[f32; 256]) -> Self {
        let Shifted { d, min, factors, min_factors, codes } =
            shifted::<Self::Grid, Counted<64>, 8>(values);
        let factors = Factors::pack(factors, min_factors);
        Self { d, min, factors, q: Plane::<4, 32>::pack(&codes, 0) }
    }

    fn codes(&self) -> [u8; 256] {
        Plane::<4, 32>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        self.factors.scales(self.d, self.min)
    }
}
