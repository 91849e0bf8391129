//! MXFP4: `w[i] = 2^(e - 127) * fp4[i]`, 32 floats of four bits under a power of two, as the OCP
//! specification of microscaling formats has it.
//!
//! The nibbles lie as in Q4_0. The integers are twice the floats, so the scale here is half of the
//! block's. An exponent of 255 makes the whole block no number.

use super::block::{Block, Parts, join};
use super::grid::{Fp4, Grid};
use super::plane::Plane;
use super::q8_0::inverse;

/// One block as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockMxfp4 {
    pub e: u8,
    pub q: [u8; 16],
}

const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl BlockMxfp4 {
    /// `2^(e - 128)`, which is a denormal float for the two smallest exponents.
    pub(crate) fn scale(e: u8) -> f32 {
        match e {
            0 => f32::from_bits(1 << 21),
            u8::MAX => f32::NAN,
            e => f32::from_bits(u32::from(e) << 23) / 2.0,
        }
    }

    fn codes_under(e: u8, values: &[f32; 32]) -> [u8; 32] {
        let inverse = inverse(Self::scale(e));
        values.map(|value| Fp4::code(value * inverse))
    }
}

impl Block<32, 17> for BlockMxfp4 {
    type Grid = Fp4;

    fn from_bytes(bytes: &[u8; 17]) -> Self {
        let mut parts = Parts(bytes);
        let [e] = parts.take();
        Self { e, q: parts.take() }
    }

    fn to_bytes(&self) -> [u8; 17] {
        join(&[&[self.e], &self.q])
    }

    /// The specification takes the exponent of the largest value, less two; one more loses less
    /// where that value would be cut.
    fn quantise(values: &[f32; 32]) -> Self {
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let [_, _, low, high] = largest.to_le_bytes();
        let exponent = u16::from_le_bytes([low, high]) >> 7;
        let plain = u8::try_from(exponent).unwrap_or_default().saturating_sub(2).min(253);
        let error = |e: &u8| {
            let (scale, codes) = (Self::scale(*e), Self::codes_under(*e, values));
            let errors = values.iter().zip(codes).map(|(value, code)| {
                f64::from(value - scale * f32::from(Fp4::integer(code))).powi(2)
            });
            errors.sum::<f64>()
        };
        let tried = [plain, plain.saturating_add(1)].into_iter();
        let e = tried.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(plain);
        Self { e, q: Plane::<4, 16>::pack(&Self::codes_under(e, values), 0) }
    }

    fn codes(&self) -> [u8; 32] {
        Plane::<4, 16>::fields(&self.q)
    }

    fn scales(&self) -> impl Iterator<Item = (f32, f32)> {
        [(Self::scale(self.e), 0.0)].into_iter()
    }
}
