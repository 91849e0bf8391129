//! Writes a model file anew in other formats.
//!
//! [`recipe`] says which format each tensor gets, [`Plan`] settles it for one file and refuses what
//! would come out wrong, and [`Plan::write`] streams the file: a piece of a tensor for each thread is
//! in memory at a time, so that files larger than memory are written too.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod pieces;
pub mod recipe;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    ops::ControlFlow,
};

use realm_kernels::{format::Format, formats::FormatError};
use thiserror::Error;

use self::recipe::{Choice, Model, Recipe};
use crate::gguf::{
    Gguf, TensorInfo, Value,
    writer::{self, Entry},
};

/// The version of the block formats, which files with such blocks name.
const BLOCKS_VERSION: u32 = 2;

/// Why a file was not written.
#[derive(Debug, Error)]
pub enum QuantiseError {
    #[error("tensor `{tensor}` is in {from} already, and rounding it to {to} would round it twice")]
    Quantised { tensor: String, from: Format, to: Format },
    #[error("tensor `{tensor}` has values that are no numbers, or infinite")]
    NotFinite { tensor: String },
    #[error("tensor `{tensor}` has values beyond those that {format} holds")]
    Range { tensor: String, format: Format },
    #[error("converting tensor `{tensor}`")]
    Convert { tensor: String, source: FormatError },
    #[error("writing the file")]
    Write(#[source] io::Error),
    #[error("stopped before the end")]
    Stopped,
}

/// What may be done to tensors that are in blocks already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requantise {
    Refused,
    Allowed,
}

/// What becomes of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub tensor: &'a TensorInfo,
    pub format: Format,
    /// What the recipe has for it, where its rows are no whole blocks of that.
    pub instead_of: Option<Format>,
    bytes: usize,
}

/// What becomes of a file.
#[derive(Debug)]
pub struct Plan<'a> {
    gguf: &'a Gguf,
    metadata: Vec<(String, Value)>,
    parts: Vec<Part<'a>>,
}

/// What is told after each piece: the bytes of the source that are done since the last one. It may
/// break off.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

impl<'a> Plan<'a> {
    pub fn new(
        gguf: &'a Gguf,
        recipe: Recipe,
        requantise: Requantise,
    ) -> Result<Self, QuantiseError> {
        let model = Model::of(gguf.tensors());
        let parts = gguf.tensors().iter().map(|tensor| {
            let Choice { format, instead_of } = recipe.choose(tensor, &model);
            let from = tensor.format;
            if from != format && !from.is_float() && requantise == Requantise::Refused {
                let tensor = tensor.name.clone();
                return Err(QuantiseError::Quantised { tensor, from, to: format });
            }
            let bytes = bytes_in(format, tensor)?;
            Ok(Part { tensor, format, instead_of, bytes })
        });
        let parts = parts.collect::<Result<_, _>>()?;
        Ok(Self { gguf, metadata: metadata(gguf, recipe), parts })
    }

    /// What becomes of each tensor, in the order of the file.
    pub fn parts(&self) -> &[Part<'a>] {
        &self.parts
    }

    /// Bytes of tensors to read.
    pub fn bytes_to_read(&self) -> u64 {
        self.parts.iter().map(|part| length(part.tensor.bytes())).fold(0, u64::saturating_add)
    }

    /// Bytes of the file to write.
    pub fn bytes_to_write(&self) -> u64 {
        let tensors = self.parts.iter().map(|part| writer::padded(length(part.bytes)));
        tensors.fold(length(self.header().len()), u64::saturating_add)
    }

    /// Writes the file; what it is does not depend on the number of threads.
    pub fn write(
        &self,
        out: &mut impl Write,
        threads: NonZeroUsize,
        watch: Watch<'_>,
    ) -> Result<(), QuantiseError> {
        out.write_all(&self.header()).map_err(QuantiseError::Write)?;
        for part in &self.parts {
            let bytes = self.gguf.tensor_bytes(part.tensor);
            if part.tensor.format == part.format {
                pieces::copy(bytes, out, watch)?;
            } else {
                pieces::convert(part, bytes, out, threads, watch)?;
            }
            out.write_all(&writer::padding(length(part.bytes))).map_err(QuantiseError::Write)?;
        }
        out.flush().map_err(QuantiseError::Write)
    }

    fn header(&self) -> Vec<u8> {
        let entries = self.parts.iter().map(|part| Entry {
            name: &part.tensor.name,
            shape: &part.tensor.shape,
            format: part.format,
            bytes: length(part.bytes),
        });
        writer::header(&self.metadata, &entries.collect::<Vec<_>>())
    }
}

/// Bytes that a tensor takes in a format whose blocks its rows fit.
fn bytes_in(format: Format, tensor: &TensorInfo) -> Result<usize, QuantiseError> {
    let len = usize::try_from(tensor.elements()).unwrap_or(usize::MAX);
    format.row_bytes(len).ok_or_else(|| QuantiseError::Convert {
        tensor: tensor.name.clone(),
        source: FormatError::PartialBlock { format, len },
    })
}

/// The pairs of the file, with what they say of its formats.
fn metadata(gguf: &Gguf, recipe: Recipe) -> Vec<(String, Value)> {
    let mut pairs = gguf.metadata().to_vec();
    let own = [
        ("general.file_type", recipe.file_type().map(Value::U32)),
        ("general.quantization_version", Some(Value::U32(BLOCKS_VERSION))),
    ];
    for (key, value) in own {
        let Some(value) = value else { continue };
        match pairs.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => pairs.push((key.to_owned(), value)),
        }
    }
    pairs
}

fn length(len: usize) -> u64 {
    u64::try_from(len).expect("lengths count in 64 bits")
}
