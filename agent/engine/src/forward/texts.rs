//! Texts at work: whole ones side by side, of each of which one vector remains.
//!
//! What a text's rows attend is of one layer and one step, so it lies in a cache of one layer that
//! every step overwrites: no block is held for anybody, and nothing of a text is there for the next.

use realm_kernels::backend::{Backend, BackendError, KvShape, KvType, Product};

use super::{Capacity, Forward};
use crate::{
    architecture::{Architecture, Pooling},
    batch::{Batch, TEXT_BLOCK_TOKENS, TEXTS_MAX},
};

/// What a step of texts needs, allocated at load.
pub(super) struct Texts<B: Backend> {
    kv: B::KvCache,
    pooling: Pooling,
    /// One text's rows: `(rows, width)`.
    states: Vec<f32>,
    /// `(texts, vector_len)`, or of the width of the layers while it is not yet that long.
    vectors: Vec<f32>,
    /// What goes into each matrix behind the pooling, and what comes out of the last.
    dense: Vec<B::Buffer>,
}

/// The keys and values of a step, which are not rounded: they are few.
fn kv_shape(capacity: &Capacity, a: &Architecture) -> KvShape {
    KvShape {
        layers: 1,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        // The last block of each text may be partly empty.
        blocks: capacity.text_rows.div_ceil(TEXT_BLOCK_TOKENS) + TEXTS_MAX,
        block_tokens: TEXT_BLOCK_TOKENS,
        kv_type: KvType::F32,
    }
}

/// Widths of the vectors between the matrices behind the pooling.
fn widths(a: &Architecture) -> impl Iterator<Item = usize> {
    std::iter::once(a.width).chain(a.dense.iter().copied())
}

/// Floats that steps of texts need beside the activations.
pub(super) fn floats(capacity: &Capacity, a: &Architecture) -> usize {
    if capacity.text_rows == 0 {
        return 0;
    }
    let kv = kv_shape(capacity, a).bytes().map_or(usize::MAX, |bytes| bytes / size_of::<f32>());
    let vectors = 2 * TEXTS_MAX * widths(a).sum::<usize>();
    kv.saturating_add(capacity.text_rows * a.width + vectors)
}

impl<B: Backend> Texts<B> {
    pub(super) fn new(
        backend: &mut B,
        a: &Architecture,
        capacity: &Capacity,
    ) -> Result<Option<Self>, BackendError> {
        let Some(pooling) = a.pooling.filter(|_| capacity.text_rows > 0) else { return Ok(None) };
        let widest = widths(a).max().unwrap_or(a.width);
        let dense = widths(a).filter(|_| !a.dense.is_empty());
        Ok(Some(Self {
            kv: backend.kv_cache(kv_shape(capacity, a))?,
            pooling,
            states: vec![0.0; capacity.text_rows * a.width],
            vectors: vec![0.0; TEXTS_MAX * widest],
            dense: dense
                .map(|width| backend.buffer(TEXTS_MAX * width))
                .collect::<Result<_, _>>()?,
        }))
    }

    pub(super) fn kv(&mut self) -> &mut B::KvCache {
        &mut self.kv
    }

    pub(super) fn vector(&self, text: usize, len: usize) -> &[f32] {
        self.vectors.get(text * len..(text + 1) * len).unwrap_or_default()
    }
}

impl<B: Backend> Forward<B> {
    /// The vectors of a batch's texts, of the last layer's output.
    pub(super) fn pool(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let Self { backend, architecture: a, weights, activations: t, texts, .. } = self;
        let Some(Texts { pooling, states, vectors, dense, .. }) = texts else { return Ok(()) };
        let states_of = match &weights.output_norm {
            Some(norm) => {
                let rows = batch.tokens.len();
                backend.rms_norm(&t.x, norm, a.norm_eps, rows, &mut t.normed)?;
                &t.normed
            }
            None => &t.x,
        };
        for (span, vector) in batch.spans.iter().zip(vectors.chunks_exact_mut(a.width)) {
            let (first, count) = match pooling {
                Pooling::Mean => (span.first_row, span.count),
                Pooling::First => (span.first_row, 1),
                Pooling::Last => (span.first_row + span.count - 1, 1),
            };
            let states = &mut states[..count * a.width];
            backend.read(states_of, first * a.width, states)?;
            mean(states, vector);
        }
        let count = batch.spans.len();
        for (at, (matrix, &rows)) in weights.reading.dense.iter().zip(&a.dense).enumerate() {
            let [from, to] = &mut dense[at..at + 2] else { break };
            if at == 0 {
                backend.write(from, 0, &vectors[..count * a.width])?;
            }
            backend.matmul(from, count, &mut [Product { matrix, out: &mut *to }])?;
            if at + 1 == a.dense.len() {
                backend.read(to, 0, &mut vectors[..count * rows])?;
            }
        }
        Ok(())
    }
}

/// The mean of rows as long as `out`; summed in f64, for a text may have thousands.
fn mean(rows: &[f32], out: &mut [f32]) {
    let (width, count) = (out.len(), rows.len() / out.len());
    for (column, out) in out.iter_mut().enumerate() {
        let sum: f64 = rows.iter().skip(column).step_by(width).map(|&x| f64::from(x)).sum();
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        let mean = (sum / count as f64) as f32;
        *out = mean;
    }
}
