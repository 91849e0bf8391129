//! A model's weights on a device: every tensor of the file accounted for, every shape checked.

use std::collections::BTreeSet;

use realm_kernels::{
    backend::{Backend, BackendError},
    formats,
};
use thiserror::Error;

use crate::{
    architecture::Architecture,
    gguf::{Gguf, TensorInfo},
};

/// Why a file's tensors cannot be loaded.
#[derive(Debug, Error)]
pub enum WeightsError {
    #[error("the tensor `{0}` is missing")]
    Missing(String),
    #[error("the tensor `{tensor}` has the shape {found:?}, not {wanted:?}")]
    Shape { tensor: String, found: Vec<u64>, wanted: Vec<u64> },
    #[error(
        "the tensor `{0}` has no place in this architecture, and leaving it out would change the model"
    )]
    Unexpected(String),
    #[error("`{tensor}` of format {format} cannot be read as numbers")]
    Numbers { tensor: String, format: String },
    #[error("copying `{tensor}` to the device")]
    Device { tensor: String, source: BackendError },
}

/// The weights of one layer.
pub(crate) struct Layer<B: Backend> {
    pub(crate) attention_norm: B::Buffer,
    pub(crate) q: B::Matrix,
    pub(crate) k: B::Matrix,
    pub(crate) v: B::Matrix,
    pub(crate) attention_out: B::Matrix,
    pub(crate) feed_forward_norm: B::Buffer,
    pub(crate) gate: B::Matrix,
    pub(crate) up: B::Matrix,
    pub(crate) down: B::Matrix,
}

/// The weights of a model.
pub(crate) struct Weights<B: Backend> {
    pub(crate) embedding: B::Matrix,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) output_norm: B::Buffer,
    /// `None` where the embedding is the head too.
    output: Option<B::Matrix>,
    pub(crate) rope_frequencies: B::Buffer,
}

impl<B: Backend> Weights<B> {
    /// Copies the tensors of `gguf` to the device.
    pub(crate) fn load(
        backend: &mut B,
        gguf: &Gguf,
        architecture: &Architecture,
        vocabulary: usize,
    ) -> Result<Self, WeightsError> {
        let mut loader = Loader { backend, gguf, taken: BTreeSet::new() };
        let a = architecture;
        let weights = Self {
            embedding: loader.matrix("token_embd.weight", vocabulary, a.width)?,
            layers: (0..a.layers).map(|i| loader.layer(i, a)).collect::<Result<_, _>>()?,
            output_norm: loader.vector("output_norm.weight", a.width)?,
            output: match gguf.tensor("output.weight") {
                Some(_) => Some(loader.matrix("output.weight", vocabulary, a.width)?),
                None => None,
            },
            rope_frequencies: loader.rope_frequencies(a)?,
        };
        loader.all_taken()?;
        Ok(weights)
    }

    /// The matrix that turns the last layer's output into logits.
    pub(crate) fn head(&self) -> &B::Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}

struct Loader<'a, B: Backend> {
    backend: &'a mut B,
    gguf: &'a Gguf,
    taken: BTreeSet<&'a str>,
}

impl<'a, B: Backend> Loader<'a, B> {
    fn layer(&mut self, i: usize, a: &Architecture) -> Result<Layer<B>, WeightsError> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let (q_rows, kv_rows) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), a.width)?,
            q: self.matrix(&name("attn_q"), q_rows, a.width)?,
            k: self.matrix(&name("attn_k"), kv_rows, a.width)?,
            v: self.matrix(&name("attn_v"), kv_rows, a.width)?,
            attention_out: self.matrix(&name("attn_output"), a.width, q_rows)?,
            feed_forward_norm: self.vector(&name("ffn_norm"), a.width)?,
            gate: self.matrix(&name("ffn_gate"), a.feed_forward, a.width)?,
            up: self.matrix(&name("ffn_up"), a.feed_forward, a.width)?,
            down: self.matrix(&name("ffn_down"), a.width, a.feed_forward)?,
        })
    }

    /// The tensor of that name, if it has that shape. The contiguous dimension comes first.
    fn take(&mut self, name: &str, wanted: &[usize]) -> Result<&'a TensorInfo, WeightsError> {
        let tensor =
            self.gguf.tensor(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
        let wanted: Vec<u64> = wanted.iter().map(|&d| d as u64).collect();
        if tensor.shape != wanted {
            let (tensor, found) = (name.to_owned(), tensor.shape.clone());
            return Err(WeightsError::Shape { tensor, found, wanted });
        }
        self.taken.insert(&tensor.name);
        Ok(tensor)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<B::Matrix, WeightsError> {
        let tensor = self.take(name, &[cols, rows])?;
        let bytes = self.gguf.tensor_bytes(tensor);
        self.backend
            .matrix(tensor.format, rows, cols, bytes)
            .map_err(|source| WeightsError::Device { tensor: name.to_owned(), source })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Buffer, WeightsError> {
        let values = self.numbers(name, len)?;
        self.upload(name, &values)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.take(name, &[len])?;
        let mut values = vec![0.0; len];
        formats::dequantise(tensor.format, self.gguf.tensor_bytes(tensor), &mut values).map_err(
            |_| WeightsError::Numbers {
                tensor: name.to_owned(),
                format: tensor.format.to_string(),
            },
        )?;
        Ok(values)
    }

    fn upload(&mut self, name: &str, values: &[f32]) -> Result<B::Buffer, WeightsError> {
        let device = |source| WeightsError::Device { tensor: name.to_owned(), source };
        let mut buffer = self.backend.buffer(values.len()).map_err(device)?;
        self.backend.write(&mut buffer, 0, values).map_err(device)?;
        Ok(buffer)
    }

    /// The frequencies of the architecture, divided by the file's own factors where it has them.
    fn rope_frequencies(&mut self, a: &Architecture) -> Result<B::Buffer, WeightsError> {
        let name = "rope_freqs.weight";
        let mut frequencies = a.rope_frequencies();
        if self.gguf.tensor(name).is_some() {
            let factors = self.numbers(name, frequencies.len())?;
            frequencies.iter_mut().zip(factors).for_each(|(frequency, by)| *frequency /= by);
        }
        self.upload(name, &frequencies)
    }

    fn all_taken(&self) -> Result<(), WeightsError> {
        let left = self.gguf.tensors().iter().find(|t| !self.taken.contains(t.name.as_str()));
        left.map_or(Ok(()), |tensor| Err(WeightsError::Unexpected(tensor.name.clone())))
    }
}
