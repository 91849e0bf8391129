//! Model files: a GGUF header read with a limit on everything, over mapped or owned bytes.
//!
//! [`Gguf::open`] maps the file, [`Gguf::parse`] takes bytes; both read and check the whole header
//! at once. A tensor's bytes are inside the file by the time anybody can ask for them.
//! [`Gguf::parse_head`] reads the header of a file of which only the first bytes are there.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod cursor;
mod facts;
mod header;
mod kind;
mod mapping;
mod value;
pub mod writer;

use std::{collections::HashMap, fs::File, path::Path};

use realm_kernels::format::Format;
use thiserror::Error;

use self::mapping::Mapping;
pub use self::value::{Array, Value};

/// Key-value pairs a header may hold. Real files hold fewer than a hundred.
pub const PAIRS_MAX: u64 = 4096;
/// Tensors a header may list. The deepest published models list a few thousand.
pub const TENSORS_MAX: u64 = 65_536;
/// Bytes in a key; the format's own limit.
pub const KEY_BYTES_MAX: u64 = 65_535;
/// Bytes in a tensor's name; the format's own limit.
pub const NAME_BYTES_MAX: u64 = 64;
/// Bytes in a string value. Chat templates, the longest in use, take tens of thousands.
pub const STRING_BYTES_MAX: u64 = 1 << 20;
/// Elements in an array: sixteen times the largest vocabulary in use.
pub const ARRAY_LEN_MAX: u64 = 1 << 22;
/// Dimensions of a tensor; the format's own limit.
pub const DIMENSIONS_MAX: u32 = 4;
/// Largest alignment of the tensor data: a huge page of 2 MiB.
pub const ALIGNMENT_MAX: u64 = 2 << 20;

/// Why bytes are not a model file that can be read.
#[derive(Debug, Error)]
pub enum GgufError {
    #[error("opening {path}")]
    Open { path: String, source: std::io::Error },
    #[error("not a GGUF file: it starts with {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("GGUF version {found}; 2 and 3 are read")]
    Version { found: u32 },
    #[error("{what} at byte {offset} needs {needed} bytes and {left} are left")]
    Truncated { what: &'static str, offset: usize, needed: u64, left: usize },
    #[error("{what} at byte {offset}: {count}, and {max} are the most")]
    TooMany { what: &'static str, offset: usize, count: u64, max: u64 },
    #[error("{what} at byte {offset} is not UTF-8")]
    NotUtf8 { what: &'static str, offset: usize },
    #[error("`{key}` at byte {offset} has the unknown value type {kind}")]
    ValueType { key: String, offset: usize, kind: u32 },
    #[error("`{key}` at byte {offset} is an array of arrays, which no model needs")]
    NestedArray { key: String, offset: usize },
    #[error("a boolean at byte {offset} is {found}, neither 0 nor 1")]
    Boolean { offset: usize, found: u8 },
    #[error("the key `{0}` comes twice")]
    DuplicateKey(String),
    #[error("the tensor `{0}` comes twice")]
    DuplicateTensor(String),
    #[error("the alignment {0} is not a power of two from 8 to {ALIGNMENT_MAX}")]
    Alignment(u64),
    #[error("tensor `{tensor}` is in format {format}, which is not read")]
    Format { tensor: String, format: String },
    #[error("tensor `{tensor}` has the shape {shape:?}, which no memory holds")]
    Shape { tensor: String, shape: Vec<u64> },
    #[error("rows of tensor `{tensor}` have {columns} values, not whole blocks of {block}")]
    Blocks { tensor: String, columns: u64, block: usize },
    #[error("tensor `{tensor}` starts at {offset}, not on the alignment of {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    #[error("tensor `{tensor}` ends {missing} bytes behind the end of the file")]
    OutOfFile { tensor: String, missing: u64 },
    #[error("`{key}` is missing")]
    Missing { key: String },
    #[error("`{key}` is not {wanted}")]
    Type { key: String, wanted: &'static str },
}

/// One tensor of a file. Its first dimension is the contiguous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub shape: Vec<u64>,
    pub format: Format,
    /// From the start of the file.
    start: usize,
    len: usize,
}

impl TensorInfo {
    /// Bytes the tensor takes in the file.
    pub const fn bytes(&self) -> usize {
        self.len
    }

    /// Values in the tensor; the shape was checked to hold no more than a `u64` counts.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &d| product.saturating_mul(d))
    }
}

/// A model file whose header has been read and checked.
#[derive(Debug)]
pub struct Gguf {
    source: Source,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

/// What the first bytes of a file hold.
#[derive(Debug)]
pub enum Head {
    /// The whole header. The bytes of tensors are not there.
    Whole(Gguf),
    /// A part of the header: it ends no earlier than after so many bytes.
    Part { bytes_min: u64 },
}

#[derive(Debug)]
enum Source {
    Mapped(Mapping),
    Owned(Vec<u8>),
    /// The header has been read, and what follows it is elsewhere.
    Elsewhere,
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Owned(bytes) => bytes,
            Self::Elsewhere => &[],
        }
    }
}

impl Gguf {
    /// Maps the file at `path` and reads its header.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |source| GgufError::Open { path: path.display().to_string(), source };
        let file = File::open(path).map_err(failed)?;
        Self::read(Source::Mapped(Mapping::of(&file).map_err(failed)?))
    }

    /// Reads the header of a file that is already in memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::read(Source::Owned(bytes))
    }

    /// Reads the header of a file that begins with `bytes` and has `bytes_total`, if anybody knows.
    pub fn parse_head(bytes: &[u8], bytes_total: Option<u64>) -> Result<Head, GgufError> {
        let file_len = bytes_total.unwrap_or(u64::MAX);
        let header = match header::read(bytes, file_len) {
            Ok(header) => header,
            Err(GgufError::Truncated { what, offset, needed, left }) => {
                let end = u64::try_from(offset).unwrap_or(u64::MAX).saturating_add(needed);
                if file_len < end {
                    return Err(GgufError::Truncated { what, offset, needed, left });
                }
                return Ok(Head::Part { bytes_min: end });
            }
            Err(error) => return Err(error),
        };
        Ok(Head::Whole(Self::of(header, Source::Elsewhere)))
    }

    fn read(source: Source) -> Result<Self, GgufError> {
        let file_len = u64::try_from(source.bytes().len()).unwrap_or(u64::MAX);
        Ok(Self::of(header::read(source.bytes(), file_len)?, source))
    }

    fn of(header: header::Header, source: Source) -> Self {
        let header::Header { metadata, keys, tensors, names } = header;
        Self { source, metadata, keys, tensors, names }
    }

    /// The key-value pairs in the order of the file.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// The bytes of one of this file's tensors; none where only the header is there.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let end = tensor.start.saturating_add(tensor.len);
        self.source.bytes().get(tensor.start..end).unwrap_or_default()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).and_then(|&at| self.metadata.get(at)).map(|(_, value)| value)
    }

    /// A text that may be absent.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.read_as(key, "a string", Value::as_str)
    }

    /// A whole number that may be absent.
    pub fn unsigned(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.read_as(key, "a whole number of 32 bits", Value::as_u32)
    }

    /// A number that may be absent.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.read_as(key, "a 32-bit float", Value::as_f32)
    }

    /// A truth value that may be absent.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.read_as(key, "a boolean", Value::as_bool)
    }

    /// A list of texts that may be absent.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.read_as(key, "an array of strings", Value::as_strings)
    }

    fn read_as<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| GgufError::Type { key: key.to_owned(), wanted })
    }
}

/// What a key must hold, or the error that says it does not.
pub(crate) fn required<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::Missing { key: key.to_owned() })
}
