//! The code of each format: its block, from floats, to floats, and the exact product of two rows.
//!
//! Everything here is scalar and obvious. It is what files mean, what the contract test compares
//! with, and what the tools that write model files use; the vectorised forms live in the backends.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod block;
pub mod float;
pub mod grid;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub(crate) mod plane;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod q8_1;
pub mod q8_k;
mod search;

use crate::format::Format;
use block::{Block, Rounded};

/// Does something with the type of a quantised format's block, or something else with the others.
macro_rules! with_block {
    ($format:expr, $B:ident => $then:expr, $other:ident => $else:expr $(,)?) => {
        with_block!(@ $format, $B, $then, $other, $else,
            Q4_0 q4_0::BlockQ4_0, Q4_1 q4_1::BlockQ4_1, Q5_0 q5_0::BlockQ5_0,
            Q5_1 q5_1::BlockQ5_1, Q8_0 q8_0::BlockQ8_0, Q2K q2_k::BlockQ2K,
            Q3K q3_k::BlockQ3K, Q4K q4_k::BlockQ4K, Q5K q5_k::BlockQ5K, Q6K q6_k::BlockQ6K,
            IQ4NL iq4_nl::BlockIq4Nl, IQ4XS iq4_xs::BlockIq4Xs, MXFP4 mxfp4::BlockMxfp4)
    };
    (@ $format:expr, $B:ident, $then:expr, $other:ident, $else:expr,
        $($variant:ident $module:ident::$block:ident),*) => {
        match $format {
            $(Format::$variant => {
                type $B = $module::$block;
                $then
            })*
            $other @ (Format::F32 | Format::F16 | Format::BF16 | Format::Q8_1 | Format::Q8K) => {
                $else
            }
        }
    };
}

/// Why bytes and values do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    with_block!(
        format,
        B => each_block(bytes, out, |block, out| B::from_bytes(block).dequantise(out)),
        other => match other {
            Format::F16 => float::from_f16(bytes, out),
            Format::BF16 => float::from_bf16(bytes, out),
            Format::Q8_1 => each_block(bytes, out, |block, out| {
                q8_1::BlockQ8_1::from_bytes(block).dequantise(out);
            }),
            Format::Q8K => each_block(bytes, out, |block, out| {
                q8_k::BlockQ8K::from_bytes(block).dequantise(out);
            }),
            _ => float::from_f32(bytes, out),
        },
    );
    Ok(())
}

/// Rounds floats to `format` and returns the bytes.
pub fn quantise(format: Format, values: &[f32]) -> Result<Vec<u8>, FormatError> {
    let len = values.len();
    if format.row_bytes(len).is_none() {
        return Err(FormatError::PartialBlock { format, len });
    }
    Ok(with_block!(
        format,
        B => each_values(values, |values| B::quantise(values).to_bytes()),
        other => match other {
            Format::F16 => each_values(values, |[v]| half::f16::from_f32(*v).to_le_bytes()),
            Format::BF16 => each_values(values, |[v]| half::bf16::from_f32(*v).to_le_bytes()),
            Format::Q8_1 => each_values(values, |values| {
                q8_1::BlockQ8_1::quantise(values).to_bytes()
            }),
            Format::Q8K => each_values(values, |values| {
                q8_k::BlockQ8K::quantise(values).to_bytes()
            }),
            _ => each_values(values, |[v]| v.to_le_bytes()),
        },
    ))
}

/// The product of a row of weights and a row of activations of `len` values, summed in f64.
///
/// Integer formats multiply as integers within a run, so only scales and the sum over runs are
/// rounded. This is the truth that every backend's `matmul` is measured against.
pub fn dot(
    (format, weights): (Format, &[u8]),
    (with, activations): (Format, &[u8]),
    len: usize,
) -> Result<f64, FormatError> {
    check(format, len, weights.len())?;
    check(with, len, activations.len())?;
    if with.is_float() {
        let (mut w, mut y) = (vec![0.0; len], vec![0.0; len]);
        dequantise(format, weights, &mut w)?;
        dequantise(with, activations, &mut y)?;
        return Ok(w.iter().zip(&y).map(|(w, y)| f64::from(*w) * f64::from(*y)).sum());
    }
    let no_product = FormatError::NoProduct { format, with };
    let activations = rounded(with, activations).ok_or(no_product)?;
    with_block!(
        format,
        B => Ok(products(weights, &activations, |w, y| B::from_bytes(w).dot(y))),
        _other => Err(no_product),
    )
}

/// Activations, 32 by 32.
fn rounded(format: Format, bytes: &[u8]) -> Option<Vec<Rounded>> {
    match format {
        Format::Q8_0 => Some(blocks(bytes, |b| q8_0::BlockQ8_0::from_bytes(b).rounded()).collect()),
        Format::Q8_1 => Some(blocks(bytes, |b| q8_1::BlockQ8_1::from_bytes(b).rounded()).collect()),
        Format::Q8K => {
            let all = blocks(bytes, q8_k::BlockQ8K::from_bytes);
            Some(all.flat_map(|block| block.rounded().collect::<Vec<_>>()).collect())
        }
        _ => None,
    }
}

fn check(format: Format, len: usize, bytes: usize) -> Result<(), FormatError> {
    match format.row_bytes(len) {
        None => Err(FormatError::PartialBlock { format, len }),
        Some(need) if need != bytes => Err(FormatError::Length { format, len, bytes }),
        Some(_) => Ok(()),
    }
}

fn blocks<'a, T, const BYTES: usize>(
    bytes: &'a [u8],
    decode: impl Fn(&[u8; BYTES]) -> T + 'a,
) -> impl Iterator<Item = T> + 'a {
    bytes.as_chunks().0.iter().map(decode)
}

fn each_block<const LEN: usize, const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

fn each_values<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    encode: impl Fn(&[f32; LEN]) -> [u8; BYTES],
) -> Vec<u8> {
    values.as_chunks().0.iter().flat_map(encode).collect()
}

/// The sum of the products of blocks of `LEN` with as many activations.
fn products<const BYTES: usize>(
    weights: &[u8],
    activations: &[Rounded],
    product: impl Fn(&[u8; BYTES], &[Rounded]) -> f64,
) -> f64 {
    let blocks = weights.as_chunks().0;
    let len = activations.len().checked_div(blocks.len()).unwrap_or_default().max(1);
    blocks.iter().zip(activations.chunks(len)).map(|(w, y)| product(w, y)).sum()
}
