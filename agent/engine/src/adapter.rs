//! Low-rank adapters (LoRA, arXiv 2106.09685): what a sequence that asks for one computes besides the
//! model's own weights.
//!
//! A file has the form that llama.cpp's `convert_lora_to_gguf.py` writes: `general.type` is `adapter`,
//! `adapter.type` is `lora`, and each matrix `NAME.weight` of the model that it changes has two of
//! its own, `NAME.weight.lora_a` of `(rank, inputs)` and `NAME.weight.lora_b` of `(outputs, rank)`.
//! What they come to, `alpha / rank * b * a`, is added to what the matrix makes of a row.

use std::{io, path::Path};

use realm_core::{
    desired::Sha256,
    report::{MemoryFacts, ModelFacts},
};
use realm_kernels::backend::BackendError;
use thiserror::Error;

use crate::{
    architecture::Architecture,
    gguf::{Gguf, GgufError},
    load::BATCH_TOKENS,
    weights::{self, WeightsError},
};

/// An adapter's number in its engine, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AdapterId(pub(crate) u64);

/// Which adapter a sequence is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adapted {
    pub(crate) id: AdapterId,
    /// The digest of its file, which separates what is cached of it from what others make of the
    /// same tokens.
    pub(crate) sha256: Sha256,
    pub(crate) work: AdapterWork,
}

/// What an adapter is more to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdapterWork {
    /// Thousands of multiplies and adds for each row.
    pub(crate) kops: u64,
    /// Pairs of matrices, whose products each step has that has a row of it.
    pub(crate) pairs: u64,
}

/// Why a file cannot be an adapter of a model.
#[derive(Debug, Error)]
pub enum AdapterError {
    #[error("reading the adapter's file")]
    File(#[source] GgufError),
    #[error("reading the adapter's file")]
    Read(#[source] io::Error),
    #[error("the file is no adapter: its `general.type` is `{0}`")]
    NotAnAdapter(String),
    #[error("the adapter is of the kind `{0}`, and `lora` is the only one there is")]
    Kind(String),
    #[error("the adapter is of a model of the architecture `{found}`, and this one is `{wanted}`")]
    Architecture { found: String, wanted: &'static str },
    #[error("a model that writes nothing has no adapters")]
    ReadsOnly,
    #[error("`adapter.lora.alpha` is {0}")]
    Alpha(f32),
    #[error("the adapter changes no matrix of the model")]
    Empty,
    #[error("`{tensor}` has the rank {rank}, not one from 1 to {max}")]
    Rank { tensor: String, rank: u64, max: usize },
    #[error("the adapter takes {needed} bytes and {left} are left")]
    TooLarge { needed: u64, left: u64 },
    #[error("the model's engine is gone")]
    Gone,
    #[error("the device panicked; the log has the cause")]
    Panicked,
    #[error("loading the adapter's weights")]
    Weights(#[from] WeightsError),
    #[error("allocating on the device")]
    Device(#[source] BackendError),
}

/// What the adapter in the file at `path` says of itself. Nothing is loaded.
pub fn examine_adapter(path: &Path) -> Result<ModelFacts, AdapterError> {
    examine_adapter_head(&Gguf::open(path).map_err(AdapterError::File)?)
}

/// As [`examine_adapter`], of the header of a file. It takes no cache that is not its model's.
pub fn examine_adapter_head(head: &Gguf) -> Result<ModelFacts, AdapterError> {
    check_kind(head)?;
    let facts = head.facts().map_err(AdapterError::File)?;
    let mut weights_bytes = 0_u64;
    for tensor in head.tensors() {
        let bytes = weights::loaded_matrix_bytes(tensor);
        let bytes = bytes.ok_or_else(|| WeightsError::Unexpected(tensor.name.clone()))?;
        weights_bytes = weights_bytes.saturating_add(bytes);
    }
    let floats = widest(head).saturating_mul(2).saturating_add(RANK_MAX as u64);
    let activation_bytes = floats.saturating_mul(4 * BATCH_TOKENS as u64);
    let memory =
        MemoryFacts { kv_bytes_per_block: 0, activation_bytes, kv_blocks_per_sequence: None };
    Ok(ModelFacts { memory: Some(memory), weights_bytes, ..facts })
}

/// What a model has at most of values side by side, by an adapter of it: all its adapters compute in
/// as much. Where the feed-forward is not changed it is not told, and is less than eight times as wide
/// as the rest.
fn widest(head: &Gguf) -> u64 {
    let sizes = |part: &str| {
        let tensors = head.tensors().iter().filter(move |tensor| tensor.name.contains(part));
        tensors.flat_map(|tensor| tensor.shape.iter().copied()).max()
    };
    let attends = sizes(".attn_").unwrap_or(0);
    sizes(".ffn_").map_or_else(|| attends.saturating_mul(8), |feeds| feeds.max(attends))
}

/// Refuses what is no adapter of the one kind that there is.
fn check_kind(gguf: &Gguf) -> Result<(), AdapterError> {
    let text = |key| gguf.text(key).map_err(AdapterError::File);
    let or_none = |text: Option<&str>| text.unwrap_or("none").to_owned();
    match text("general.type")? {
        Some("adapter") => {}
        other => return Err(AdapterError::NotAnAdapter(or_none(other))),
    }
    // Such a one is for the rows behind some tokens alone.
    if gguf.get("adapter.alora.invocation_tokens").is_some() {
        return Err(AdapterError::Kind("alora".to_owned()));
    }
    match text("adapter.type")? {
        Some("lora") => Ok(()),
        other => Err(AdapterError::Kind(or_none(other))),
    }
}

/// The highest rank that an adapter may have: four times what is common, and still small beside what
/// it changes.
pub(crate) const RANK_MAX: usize = 256;

/// A file that says that it is an adapter of a model.
pub(crate) struct AdapterFile<'a> {
    pub(crate) gguf: &'a Gguf,
    /// What is divided by the rank; `None` where what the matrices come to counts as it is.
    pub(crate) alpha: Option<f32>,
}

impl<'a> AdapterFile<'a> {
    pub(crate) fn of(gguf: &'a Gguf, a: &Architecture) -> Result<Self, AdapterError> {
        check_kind(gguf)?;
        match gguf.text("general.architecture").map_err(AdapterError::File)? {
            Some(found) if found == a.name => {}
            other => {
                let found = other.unwrap_or("none").to_owned();
                return Err(AdapterError::Architecture { found, wanted: a.name });
            }
        }
        if !a.generates {
            return Err(AdapterError::ReadsOnly);
        }
        let alpha = gguf.float("adapter.lora.alpha").map_err(AdapterError::File)?;
        match alpha {
            Some(alpha) if !alpha.is_finite() || alpha < 0.0 => Err(AdapterError::Alpha(alpha)),
            Some(0.0) | None => Ok(Self { gguf, alpha: None }),
            Some(_) => Ok(Self { gguf, alpha }),
        }
    }
}
