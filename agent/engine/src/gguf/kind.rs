//! The numbers under which GGUF files know the formats.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_kernels::format::Format;

/// The format of a tensor type, or the name of one that is not read.
pub(super) fn format(kind: u32) -> Result<Format, String> {
    let known = Format::WEIGHTS.into_iter().find(|format| number(*format) == kind);
    known.ok_or_else(|| match kind {
        9 => "Q8_1".to_owned(),
        15 => "Q8_K".to_owned(),
        _ => format!("of number {kind}"),
    })
}

/// The tensor type of a format.
pub(super) const fn number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q5_0 => 6,
        Format::Q5_1 => 7,
        Format::Q8_0 => 8,
        Format::Q8_1 => 9,
        Format::Q2K => 10,
        Format::Q3K => 11,
        Format::Q4K => 12,
        Format::Q5K => 13,
        Format::Q6K => 14,
        Format::Q8K => 15,
        Format::IQ4NL => 20,
        Format::IQ4XS => 23,
        Format::BF16 => 30,
        Format::MXFP4 => 39,
    }
}

/// The number of a file that holds mostly this format, in `general.file_type`. Of the mixtures that
/// carry one format's name it is the smallest, which is the one with the least of others. No file
/// holds mostly activations.
pub(super) const fn file_type(format: Format) -> Option<u32> {
    match format {
        Format::F32 => Some(0),
        Format::F16 => Some(1),
        Format::Q4_0 => Some(2),
        Format::Q4_1 => Some(3),
        Format::Q8_0 => Some(7),
        Format::Q5_0 => Some(8),
        Format::Q5_1 => Some(9),
        Format::Q2K => Some(10),
        Format::Q3K => Some(11),
        Format::Q4K => Some(14),
        Format::Q5K => Some(16),
        Format::Q6K => Some(18),
        Format::IQ4NL => Some(25),
        Format::IQ4XS => Some(30),
        Format::BF16 => Some(32),
        Format::MXFP4 => Some(38),
        Format::Q8_1 | Format::Q8K => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_for_weights_is_found_under_its_number_and_others_are_named() {
        for known in Format::WEIGHTS {
            assert_eq!(format(number(known)), Ok(known));
            assert!(file_type(known).is_some());
        }
        for (kind, name) in [(9, "Q8_1"), (15, "Q8_K"), (16, "of number 16")] {
            assert_eq!(format(kind), Err(name.to_owned()));
        }
    }
}
