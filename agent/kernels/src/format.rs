//! The formats that weights and activations are stored in, and what one block of each looks like.
//!
//! A tensor is rows of columns; each row is cut into blocks of [`Format::block_len`] neighbouring
//! columns and each block takes [`Format::block_bytes`] bytes, little-endian. The code of each
//! format lives in one file below [`crate::formats`].

use std::fmt;

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single precision float.
    BF16,
    /// 32 nibbles and an f16 scale: `w = d * (q - 8)`.
    Q4_0,
    /// 32 nibbles, an f16 scale and an f16 offset: `w = d * q + m`.
    Q4_1,
    /// 32 codes of five bits and an f16 scale: `w = d * (q - 16)`.
    Q5_0,
    /// 32 codes of five bits, an f16 scale and an f16 offset: `w = d * q + m`.
    Q5_1,
    /// 32 signed bytes and an f16 scale: `w = d * q`.
    Q8_0,
    /// 32 signed bytes, an f16 scale and the f16 product of scale and sum of the bytes.
    ///
    /// Made from activations only: the stored sum lets a format with an offset multiply it once.
    Q8_1,
    /// 256 codes of two bits; a scale and a minimum for each sixteen.
    Q2K,
    /// 256 codes of three bits; a scale for each sixteen.
    Q3K,
    /// 256 nibbles; a scale and a minimum for each 32.
    Q4K,
    /// 256 codes of five bits; a scale and a minimum for each 32.
    Q5K,
    /// 256 codes of six bits; a scale for each sixteen.
    Q6K,
    /// 256 signed bytes, an f32 scale and the sum of each sixteen; made from activations only.
    Q8K,
    /// 32 nibbles that choose from a table, and an f16 scale.
    IQ4NL,
    /// 256 nibbles that choose from a table; a scale for each 32.
    IQ4XS,
    /// 32 floats of four bits under a power of two.
    MXFP4,
}

impl Format {
    /// Every format in which weights may be stored.
    pub const WEIGHTS: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::MXFP4,
    ];

    /// Values in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K | Self::IQ4XS => {
                256
            }
            _ => 32,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::IQ4NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q8_1 => 36,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
            Self::IQ4XS => 136,
            Self::MXFP4 => 17,
        }
    }

    /// Bytes of one row of `cols` values; `None` when `cols` is no whole number of blocks or the
    /// product does not fit.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Bytes of a tensor of `rows` rows of `cols` values; `None` as for [`Format::row_bytes`].
    pub const fn tensor_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self.row_bytes(cols) {
            Some(row) => row.checked_mul(rows),
            None => None,
        }
    }

    /// Whether values are stored as floats, not as scaled integers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name that model files and people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q8_1 => "Q8_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8K => "Q8_K",
            Self::IQ4NL => "IQ4_NL",
            Self::IQ4XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
