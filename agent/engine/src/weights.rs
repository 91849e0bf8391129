//! A model's weights on a device: every tensor of the file accounted for, every shape checked.

mod adapter;
mod encoding;
mod experts;

use std::collections::BTreeSet;

use realm_kernels::{
    backend::{Backend, BackendError},
    cpu::Cpu,
    formats,
};
use thiserror::Error;

use crate::{
    architecture::{Architecture, Part},
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

pub(crate) use self::{
    adapter::{AdapterWeights, Target},
    encoding::{Norm, Reading},
    experts::{Experts, FeedForward, Gated, Plain},
};

/// The weights of one layer.
pub(crate) struct Layer<B: Backend> {
    /// Of what goes into the layer's halves, where that is normed.
    pub(crate) input_norms: Option<[B::Buffer; 2]>,
    pub(crate) q: B::Matrix,
    pub(crate) k: B::Matrix,
    pub(crate) v: B::Matrix,
    /// Of queries, keys and values.
    pub(crate) biases: Option<[B::Buffer; 3]>,
    /// Of each head of queries and keys.
    pub(crate) head_norms: Option<[B::Buffer; 2]>,
    pub(crate) attention_out: B::Matrix,
    pub(crate) attention_out_bias: Option<B::Buffer>,
    pub(crate) feed_forward: FeedForward<B>,
    /// Of what attention and feed-forward give.
    pub(crate) post_norms: Option<[B::Buffer; 2]>,
    /// Of the sums with what attention and feed-forward give.
    pub(crate) sum_norms: Option<[Norm<B>; 2]>,
}

/// The weights of a model.
pub(crate) struct Weights<B: Backend> {
    pub(crate) embedding: B::Matrix,
    pub(crate) layers: Vec<Layer<B>>,
    /// `None` where the last layer's sum has been normed already.
    pub(crate) output_norm: Option<B::Buffer>,
    pub(crate) reading: Reading<B>,
    /// `None` where the embedding is the head too.
    output: Option<B::Matrix>,
    frequencies: B::Buffer,
    /// In layers that attend a window, where they differ.
    local_frequencies: Option<B::Buffer>,
}

impl<B: Backend> Weights<B> {
    /// Copies the tensors of `gguf` to the device, for sequences of at most `context` tokens.
    pub(crate) fn load(
        backend: &mut B,
        gguf: &Gguf,
        a: &Architecture,
        vocabulary: usize,
        context: u32,
    ) -> Result<Self, WeightsError> {
        let mut loader = Loader { backend, gguf, taken: BTreeSet::new() };
        let local = a.positions.local_frequencies();
        let weights = Self {
            embedding: loader.matrix("token_embd.weight", vocabulary, a.width)?,
            layers: (0..a.layers).map(|i| loader.layer(i, a)).collect::<Result<_, _>>()?,
            output_norm: if a.has(Part::SumNorms) {
                None
            } else {
                Some(loader.vector("output_norm.weight", a.width)?)
            },
            reading: loader.reading(a)?,
            output: match gguf.tensor("output.weight") {
                Some(_) => Some(loader.matrix("output.weight", vocabulary, a.width)?),
                None => None,
            },
            frequencies: loader.frequencies(a, context)?,
            local_frequencies: local.map(|all| loader.upload("frequencies", &all)).transpose()?,
        };
        loader.all_taken()?;
        Ok(weights)
    }

    /// The matrix that turns the last layer's output into logits.
    pub(crate) fn head(&self) -> &B::Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The frequencies of a layer that attends a window, or of one that attends all.
    pub(crate) fn frequencies(&self, window: Option<usize>) -> &B::Buffer {
        let local = self.local_frequencies.as_ref().filter(|_| window.is_some());
        local.unwrap_or(&self.frequencies)
    }
}

/// Bytes that a tensor takes once loaded.
pub(crate) fn loaded_bytes(tensor: &TensorInfo, a: &Architecture) -> u64 {
    let matrix = |rows: usize, cols: u64| {
        let cols = usize::try_from(cols).ok();
        let bytes = cols.and_then(|cols| Cpu::matrix_bytes(tensor.format, rows, cols));
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    };
    let rows_of = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let part = tensor.name.splitn(3, '.').nth(2).unwrap_or_default();
    match (part, tensor.shape.as_slice()) {
        ("attn_qkv.weight", [cols, _]) if a.has(Part::FusedQkv) => {
            [q, kv, kv].map(|rows| matrix(rows, *cols)).into_iter().fold(0, u64::saturating_add)
        }
        ("ffn_up.weight", [cols, _]) if a.has(Part::FusedGate) => {
            matrix(a.feed_forward, *cols).saturating_mul(2)
        }
        ("ffn_gate_inp_shexp.weight", [cols]) => matrix(1, *cols),
        (_, [cols, rows]) => matrix(rows_of(*rows), *cols),
        (_, [cols, rows, count]) => matrix(rows_of(*rows), *cols).saturating_mul(*count),
        _ => tensor.elements().saturating_mul(size_of::<f32>() as u64),
    }
}

/// The same of a tensor that is one matrix, whatever the model; nothing, of any other.
pub(crate) fn loaded_matrix_bytes(tensor: &TensorInfo) -> Option<u64> {
    let [cols, rows] = tensor.shape.as_slice() else { return None };
    let (cols, rows) = (usize::try_from(*cols).ok()?, usize::try_from(*rows).ok()?);
    Cpu::matrix_bytes(tensor.format, rows, cols).map(|bytes| bytes as u64)
}

struct Loader<'a, B: Backend> {
    backend: &'a mut B,
    gguf: &'a Gguf,
    taken: BTreeSet<&'a str>,
}

impl<'a, B: Backend> Loader<'a, B> {
    fn layer(&mut self, index: usize, a: &Architecture) -> Result<Layer<B>, WeightsError> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (q_rows, kv_rows) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let vectors = Vectors { index };
        let input_norms = [("attn_norm.weight", a.width), ("ffn_norm.weight", a.width)];
        let input_norms = vectors.load_if(self, !a.has(Part::SumNorms), input_norms)?;
        let [q, k, v] = if a.has(Part::FusedQkv) {
            self.matrices(&name("attn_qkv"), [q_rows, kv_rows, kv_rows], a.width)?
        } else {
            [
                self.matrix(&name("attn_q"), q_rows, a.width)?,
                self.matrix(&name("attn_k"), kv_rows, a.width)?,
                self.matrix(&name("attn_v"), kv_rows, a.width)?,
            ]
        };
        Ok(Layer {
            input_norms,
            q,
            k,
            v,
            biases: vectors.load_if(
                self,
                a.has(Part::Biases),
                [("attn_q.bias", q_rows), ("attn_k.bias", kv_rows), ("attn_v.bias", kv_rows)],
            )?,
            head_norms: vectors.load_if(
                self,
                a.has(Part::HeadNorms),
                [("attn_q_norm.weight", a.head_dim), ("attn_k_norm.weight", a.head_dim)],
            )?,
            attention_out: self.matrix(&name("attn_output"), a.width, q_rows)?,
            attention_out_bias: vectors
                .load_if(self, a.has(Part::OutputBiases), [("attn_output.bias", a.width)])?
                .map(|[bias]| bias),
            feed_forward: self.feed_forward(index, a)?,
            post_norms: vectors.load_if(
                self,
                a.has(Part::PostNorms),
                [("post_attention_norm.weight", a.width), ("post_ffw_norm.weight", a.width)],
            )?,
            sum_norms: self.sum_norms(index, a)?,
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
        let [matrix] = self.matrices(name, [rows], cols)?;
        Ok(matrix)
    }

    /// The matrices of so many rows each that a tensor holds one below the other.
    fn matrices<const N: usize>(
        &mut self,
        name: &str,
        rows: [usize; N],
        cols: usize,
    ) -> Result<[B::Matrix; N], WeightsError> {
        let tensor = self.take(name, &[cols, rows.iter().sum()])?;
        let mut first = 0;
        all_of(rows.map(|rows| {
            let matrix = self.part(tensor, first..first + rows, cols);
            first += rows;
            matrix
        }))
    }

    /// Some rows of a tensor, counted through all of its matrices.
    fn part(
        &mut self,
        tensor: &TensorInfo,
        rows: std::ops::Range<usize>,
        cols: usize,
    ) -> Result<B::Matrix, WeightsError> {
        let bytes_of = |rows| tensor.format.tensor_bytes(rows, cols).unwrap_or(usize::MAX);
        let bytes = self.gguf.tensor_bytes(tensor);
        let bytes = bytes.get(bytes_of(rows.start)..bytes_of(rows.end)).unwrap_or_default();
        self.backend
            .matrix(tensor.format, rows.len(), cols, bytes)
            .map_err(|source| WeightsError::Device { tensor: tensor.name.clone(), source })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Buffer, WeightsError> {
        let values = self.numbers(name, len)?;
        self.upload(name, &values)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.take(name, &[len])?;
        Self::numbers_of(tensor, self.gguf.tensor_bytes(tensor), len)
    }

    /// The first `len` values of a tensor, which `bytes` are.
    fn numbers_of(tensor: &TensorInfo, bytes: &[u8], len: usize) -> Result<Vec<f32>, WeightsError> {
        let mut values = vec![0.0; len];
        formats::dequantise(tensor.format, bytes, &mut values).map_err(|_| {
            let (tensor, format) = (tensor.name.clone(), tensor.format.to_string());
            WeightsError::Numbers { tensor, format }
        })?;
        Ok(values)
    }

    fn upload(&mut self, name: &str, values: &[f32]) -> Result<B::Buffer, WeightsError> {
        let device = |source| WeightsError::Device { tensor: name.to_owned(), source };
        let mut buffer = self.backend.buffer(values.len()).map_err(device)?;
        self.backend.write(&mut buffer, 0, values).map_err(device)?;
        Ok(buffer)
    }

    /// The frequencies of the architecture, divided by the file's own factors where it has them:
    /// one for each frequency, or two, of which long contexts take the second.
    fn frequencies(&mut self, a: &Architecture, context: u32) -> Result<B::Buffer, WeightsError> {
        let mut frequencies = a.positions.frequencies();
        let [own, short, long] = ["rope_freqs", "rope_factors_short", "rope_factors_long"]
            .map(|name| self.optional_numbers(&format!("{name}.weight"), frequencies.len()));
        let is_long = a.positions.original_context.is_some_and(|original| context > original);
        let (short, long) = (short?, long?);
        let stretched = if is_long { long } else { short };
        for factors in [own?, stretched].into_iter().flatten() {
            frequencies.iter_mut().zip(factors).for_each(|(frequency, by)| *frequency /= by);
        }
        self.upload("frequencies", &frequencies)
    }

    fn optional_numbers(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, WeightsError> {
        self.gguf.tensor(name).map(|_| self.numbers(name, len)).transpose()
    }

    fn all_taken(&self) -> Result<(), WeightsError> {
        let left = self.gguf.tensors().iter().find(|t| !self.taken.contains(t.name.as_str()));
        left.map_or(Ok(()), |tensor| Err(WeightsError::Unexpected(tensor.name.clone())))
    }
}

/// The vectors that only some architectures have, of one layer.
struct Vectors {
    index: usize,
}

impl Vectors {
    fn load_if<B: Backend, const N: usize>(
        &self,
        loader: &mut Loader<'_, B>,
        is_there: bool,
        vectors: [(&str, usize); N],
    ) -> Result<Option<[B::Buffer; N]>, WeightsError> {
        if !is_there {
            return Ok(None);
        }
        let index = self.index;
        all_of(vectors.map(|(name, len)| loader.vector(&format!("blk.{index}.{name}"), len)))
            .map(Some)
    }
}

/// All values, or the first error.
fn all_of<T, E, const N: usize>(results: [Result<T, E>; N]) -> Result<[T; N], E> {
    let mut error = None;
    let values = results.map(|result| result.map_err(|e| error = error.take().or(Some(e))).ok());
    match error {
        Some(error) => Err(error),
        None => Ok(values.map(|value| value.expect("an error would have been kept"))),
    }
}
