//! Model files: a GGUF header read with a limit on everything, over mapped or owned bytes.
//!
//! [`Gguf::open`] maps the file, [`Gguf::parse`] takes bytes; both read and check the whole header
//! at once. A tensor's bytes are inside the file by the time anybody can ask for them.
//! [`Gguf::parse_head`] reads the header of a file of which only the first bytes are there.
//! A model in several files is one of these as well, once [`Gguf::join`] has them all.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod cursor;
mod facts;
mod header;
mod kind;
mod mapping;
mod split;
mod value;
pub mod writer;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use realm_core::split::PARTS_MAX;
use realm_kernels::format::Format;
use thiserror::Error;

use self::mapping::Mapping;
pub use self::{
    split::beside,
    value::{Array, Value},
};

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
    #[error("the file is part {number} of {count}, and a model is opened by the first")]
    PartNotFirst { number: u32, count: u32 },
    #[error("the file is split into {count} parts, and {PARTS_MAX} are the most")]
    PartsTooMany { count: u32 },
    #[error("the file has {count} parts and {given} are given")]
    PartsMissing { count: u32, given: usize },
    #[error("reading {path}")]
    Part { path: String, source: Box<Self> },
    #[error("part {number} says that it is number {found}")]
    PartNumber { number: u32, found: u32 },
    #[error("part {number} is of another file than the first: it says otherwise of `{key}`")]
    PartOfOther { number: u32, key: String },
    #[error("the parts have {found} tensors together, and the first says {wanted}")]
    PartsTensors { found: usize, wanted: u32 },
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
    /// Which of the model's files it is in.
    part: usize,
    /// From the start of that file.
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

/// A model file whose header has been read and checked, or all parts of one that is split.
#[derive(Debug)]
pub struct Gguf {
    /// Never empty.
    sources: Vec<Source>,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

/// What the first bytes of a file hold.
#[derive(Debug)]
pub enum Head {
    /// The whole header, of a file or of a part of one. The bytes of tensors are not there.
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
    /// Opens the file at `path`, with all others beside it where its name says that it is the first
    /// of several parts.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_parts(&beside(path)?)
    }

    /// Maps the files at `paths`, which are all parts of one in their order, and reads their headers.
    pub fn open_parts(paths: &[PathBuf]) -> Result<Self, GgufError> {
        let map = |path: &PathBuf| {
            let name = path.display().to_string();
            let failed = |source| GgufError::Open { path: name.clone(), source };
            let file = File::open(path).map_err(failed)?;
            let mapping = Mapping::of(&file).map_err(failed)?;
            Self::read(Source::Mapped(mapping)).map_err(|error| match paths.len() {
                0 | 1 => error,
                _ => GgufError::Part { path: name.clone(), source: Box::new(error) },
            })
        };
        Self::join(paths.iter().map(map).collect::<Result<_, _>>()?)
    }

    /// Reads the header of a whole file that is already in memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::join(vec![Self::read(Source::Owned(bytes))?])
    }

    /// Makes one of all parts of a file, in their order.
    pub fn join(parts: Vec<Self>) -> Result<Self, GgufError> {
        split::join(parts)
    }

    /// How many parts the file says that it is split into, this one among them.
    pub fn part_count(&self) -> Result<u32, GgufError> {
        split::count(self)
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
        Self { sources: vec![source], metadata, keys, tensors, names }
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
        let source = self.sources.get(tensor.part);
        source.and_then(|source| source.bytes().get(tensor.start..end)).unwrap_or_default()
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
