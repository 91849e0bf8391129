//! The numbers under which GGUF files know the formats.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_kernels::format::Format;

/// The format of a tensor type, or the name of one that is not read.
pub(super) fn format(kind: u32) -> Result<Format, String> {
    let name = match kind {
        0 => return Ok(Format::F32),
        1 => return Ok(Format::F16),
        3 => return Ok(Format::Q4_1),
        8 => return Ok(Format::Q8_0),
        30 => return Ok(Format::BF16),
        2 => "Q4_0",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        20 => "IQ4_NL",
        23 => "IQ4_XS",
        39 => "MXFP4",
        _ => return Err(format!("of number {kind}")),
    };
    Err(name.to_owned())
}

/// The tensor type of a format.
pub(super) const fn number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_1 => 3,
        Format::Q8_0 => 8,
        Format::Q8_1 => 9,
        Format::BF16 => 30,
    }
}

/// The number of a file that holds mostly this format, in `general.file_type`. No file holds
/// mostly activations.
pub(super) const fn file_type(format: Format) -> Option<u32> {
    match format {
        Format::F32 => Some(0),
        Format::F16 => Some(1),
        Format::Q4_1 => Some(3),
        Format::Q8_0 => Some(7),
        Format::BF16 => Some(32),
        Format::Q8_1 => None,
    }
}
