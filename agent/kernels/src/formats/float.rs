//! F32, F16 and BF16: one value per block, little-endian.

use half::{bf16, f16};

pub(crate) fn from_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *out = f32::from_le_bytes(*value);
    }
}

pub(crate) fn from_f16(bytes: &[u8], out: &mut [f32]) {
    for (value, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *out = f16::from_le_bytes(*value).to_f32();
    }
}

pub(crate) fn from_bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *out = bf16::from_le_bytes(*value).to_f32();
    }
}
