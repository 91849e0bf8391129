//! The code of each format: its block, from floats, to floats, and the exact product of two rows.
//!
//! Everything here is scalar and obvious. It is what files mean, what the contract test compares
//! with, and what the tools that write model files use; the vectorised forms live in the backends.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod float;
pub mod q4_1;
pub mod q8_0;
pub mod q8_1;

use crate::format::Format;

/// Why bytes and values do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The values are no whole number of blocks.
    #[error("{len} values are no whole number of {format} blocks")]
    PartialBlock { format: Format, len: usize },
    /// There are more or fewer bytes than the values take.
    #[error("{len} values in {format} take another number of bytes than {bytes}")]
    Length { format: Format, len: usize, bytes: usize },
    /// Nothing is stored in this format, so nothing reads or writes it.
    #[error("{format} rows and {with} rows are not multiplied with each other")]
    NoProduct { format: Format, with: Format },
}

/// Turns `bytes` in `format` into `out.len()` floats.
pub fn dequantise(format: Format, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
    check(format, out.len(), bytes.len())?;
    match format {
        Format::F32 => float::from_f32(bytes, out),
        Format::F16 => float::from_f16(bytes, out),
        Format::BF16 => float::from_bf16(bytes, out),
        Format::Q8_0 => each_block(bytes, out, |block, out| {
            q8_0::BlockQ8_0::from_bytes(block).dequantise(out);
        }),
        Format::Q4_1 => each_block(bytes, out, |block, out| {
            q4_1::BlockQ4_1::from_bytes(block).dequantise(out);
        }),
        Format::Q8_1 => each_block(bytes, out, |block, out| {
            q8_1::BlockQ8_1::from_bytes(block).dequantise(out);
        }),
    }
    Ok(())
}

/// Rounds floats to `format` and returns the bytes.
pub fn quantise(format: Format, values: &[f32]) -> Result<Vec<u8>, FormatError> {
    let len = values.len();
    let bytes = format.row_bytes(len).ok_or(FormatError::PartialBlock { format, len })?;
    let mut out = Vec::with_capacity(bytes);
    let (blocks, _) = values.as_chunks::<32>();
    match format {
        Format::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Format::F16 => {
            out.extend(values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()));
        }
        Format::BF16 => {
            out.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()));
        }
        Format::Q8_0 => {
            out.extend(blocks.iter().flat_map(|b| q8_0::BlockQ8_0::quantise(b).to_bytes()));
        }
        Format::Q4_1 => {
            out.extend(blocks.iter().flat_map(|b| q4_1::BlockQ4_1::quantise(b).to_bytes()));
        }
        Format::Q8_1 => {
            out.extend(blocks.iter().flat_map(|b| q8_1::BlockQ8_1::quantise(b).to_bytes()));
        }
    }
    Ok(out)
}

/// The product of a row of weights and a row of activations of `len` values, summed in f64.
///
/// Integer formats multiply as integers within a block, so only scales and the sum over blocks are
/// rounded. This is the truth that every backend's `matmul` is measured against.
pub fn dot(
    (format, weights): (Format, &[u8]),
    (with, activations): (Format, &[u8]),
    len: usize,
) -> Result<f64, FormatError> {
    check(format, len, weights.len())?;
    check(with, len, activations.len())?;
    match (format, with) {
        (Format::Q8_0, Format::Q8_0) => Ok(pairs(weights, activations)
            .map(|(w, y)| q8_0::BlockQ8_0::from_bytes(w).dot(&q8_0::BlockQ8_0::from_bytes(y)))
            .sum()),
        (Format::Q4_1, Format::Q8_1) => Ok(pairs(weights, activations)
            .map(|(w, y)| q4_1::BlockQ4_1::from_bytes(w).dot(&q8_1::BlockQ8_1::from_bytes(y)))
            .sum()),
        (_, with) if with.is_float() => {
            let (mut w, mut y) = (vec![0.0; len], vec![0.0; len]);
            dequantise(format, weights, &mut w)?;
            dequantise(with, activations, &mut y)?;
            Ok(w.iter().zip(&y).map(|(w, y)| f64::from(*w) * f64::from(*y)).sum())
        }
        (format, with) => Err(FormatError::NoProduct { format, with }),
    }
}

fn check(format: Format, len: usize, bytes: usize) -> Result<(), FormatError> {
    match format.row_bytes(len) {
        None => Err(FormatError::PartialBlock { format, len }),
        Some(need) if need != bytes => Err(FormatError::Length { format, len, bytes }),
        Some(_) => Ok(()),
    }
}

fn each_block<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; 32]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<32>();
    for (block, out) in blocks.iter().zip(out) {
        decode(block, out);
    }
}

fn pairs<'a, const W: usize, const Y: usize>(
    weights: &'a [u8],
    activations: &'a [u8],
) -> impl Iterator<Item = (&'a [u8; W], &'a [u8; Y])> {
    weights.as_chunks::<W>().0.iter().zip(activations.as_chunks::<Y>().0)
}
