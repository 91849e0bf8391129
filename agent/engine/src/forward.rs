//! The forward pass: one for every architecture and every backend.
//!
//! Rows of several sequences go through the layers together, whether they are one sequence's next
//! token or a chunk of another's prompt; only attention looks at whose rows they are.

mod experts;

use realm_kernels::backend::{
    Attention, Backend, BackendError, KvShape, KvType, Product, Reach, RopeShape, Span,
    StepLimits,
};

use self::experts::ExpertStep;
use crate::{
    architecture::{Architecture, Part},
    batch::Batch,
    weights::{FeedForward, Gated, Layer, Weights},
};

/// A loaded model that computes batches.
///
/// The engine holds it boxed: the backend is chosen once, at load.
pub(crate) trait Executor: Send {
    /// Computes a batch; its logits can be read until the next one.
    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError>;

    /// The logits of the batch's output number `output`: `(vocabulary)`.
    fn logits(&self, output: usize) -> &[f32];

    /// The device in words.
    fn describe(&self) -> String;
}

/// The largest step and cache a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Tokens in one batch.
    pub(crate) rows: usize,
    /// Rows of one batch whose logits are wanted.
    pub(crate) outputs: usize,
    pub(crate) blocks: usize,
    pub(crate) block_tokens: usize,
    pub(crate) kv_type: KvType,
    /// Tokens that one sequence may hold.
    pub(crate) context: u32,
}

impl Capacity {
    pub(crate) const fn kv_shape(&self, architecture: &Architecture) -> KvShape {
        KvShape {
            layers: architecture.layers,
            kv_heads: architecture.kv_heads,
            head_dim: architecture.head_dim,
            blocks: self.blocks,
            block_tokens: self.block_tokens,
            kv_type: self.kv_type,
        }
    }

    /// Bytes of activations and logits, on the device and beside it.
    pub(crate) fn activation_bytes(&self, a: &Architecture, vocabulary: usize) -> u64 {
        let heads = (a.heads + a.kv_heads) * a.head_dim;
        let head_norms = if a.has(Part::HeadNorms) { heads } else { 0 };
        let experts = a.experts.map_or(0, |experts| experts.count + 2 * a.width);
        let inner = 3 * a.feed_forward_max();
        let per_row = 3 * a.width + 2 * heads + head_norms + inner + experts;
        let per_output = 2 * a.width + 2 * vocabulary;
        ((self.rows * per_row + self.outputs * per_output) as u64).saturating_mul(4)
    }
}

/// Activations between the operations.
struct Activations<B: Backend> {
    /// The residual stream: `(rows, width)`.
    x: B::Buffer,
    /// `(rows, width)`
    normed: B::Buffer,
    /// `(rows, heads, head_dim)`
    q: B::Buffer,
    /// `(rows, kv_heads, head_dim)`
    k: B::Buffer,
    /// `(rows, kv_heads, head_dim)`
    v: B::Buffer,
    /// Queries and keys once their heads are normed, where an architecture does that.
    heads_normed: Option<[B::Buffer; 2]>,
    /// `(rows, heads, head_dim)`
    attended: B::Buffer,
    /// `(rows, width)`
    projected: B::Buffer,
    /// `(rows, feed_forward)`
    gate: B::Buffer,
    /// `(rows, feed_forward)`
    up: B::Buffer,
    /// `(rows, feed_forward)`
    hidden: B::Buffer,
    experts: Option<ExpertStep<B>>,
    /// `(outputs, width)`
    last: B::Buffer,
    /// `(outputs, width)`
    last_normed: B::Buffer,
    /// `(outputs, vocabulary)`
    logits: B::Buffer,
}

impl<B: Backend> Activations<B> {
    fn new(
        backend: &mut B,
        a: &Architecture,
        capacity: &Capacity,
        vocabulary: usize,
    ) -> Result<Self, BackendError> {
        let (rows, outputs) = (capacity.rows, capacity.outputs);
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let heads_normed = if a.has(Part::HeadNorms) {
            Some([backend.buffer(rows * q)?, backend.buffer(rows * kv)?])
        } else {
            None
        };
        let inner = a.feed_forward_max();
        let experts = a.experts.map(|experts| ExpertStep::new(backend, experts, (rows, a.width)));
        Ok(Self {
            heads_normed,
            experts: experts.transpose()?,
            x: backend.buffer(rows * a.width)?,
            normed: backend.buffer(rows * a.width)?,
            q: backend.buffer(rows * q)?,
            k: backend.buffer(rows * kv)?,
            v: backend.buffer(rows * kv)?,
            attended: backend.buffer(rows * q)?,
            projected: backend.buffer(rows * a.width)?,
            gate: backend.buffer(rows * inner)?,
            up: backend.buffer(rows * inner)?,
            hidden: backend.buffer(rows * inner)?,
            last: backend.buffer(outputs * a.width)?,
            last_normed: backend.buffer(outputs * a.width)?,
            logits: backend.buffer(outputs * vocabulary)?,
        })
    }
}

/// A model on a backend.
pub(crate) struct Forward<B: Backend> {
    backend: B,
    architecture: Architecture,
    weights: Weights<B>,
    kv: B::KvCache,
    activations: Activations<B>,
    /// The logits of the last batch: `(outputs, vocabulary)`.
    logits: Vec<f32>,
    vocabulary: usize,
    capacity: Capacity,
}

impl<B: Backend> Forward<B> {
    /// Allocates everything that steps will need.
    pub(crate) fn new(
        mut backend: B,
        architecture: Architecture,
        weights: Weights<B>,
        vocabulary: usize,
        capacity: Capacity,
    ) -> Result<Self, BackendError> {
        let a = &architecture;
        let widest = a.width.max(a.feed_forward_max()).max(a.heads * a.head_dim);
        backend.reserve(StepLimits { rows: capacity.rows, cols: widest })?;
        let kv = backend.kv_cache(capacity.kv_shape(a))?;
        let activations = Activations::new(&mut backend, a, &capacity, vocabulary)?;
        let logits = vec![0.0; capacity.outputs * vocabulary];
        Ok(Self { backend, architecture, weights, kv, activations, logits, vocabulary, capacity })
    }

    fn check(&self, batch: &Batch) -> Result<(), BackendError> {
        let within = |what, have, need| {
            if have <= need {
                Ok(())
            } else {
                Err(BackendError::Shape { op: "forward", what, need, have })
            }
        };
        within("rows of the batch", batch.tokens.len(), self.capacity.rows)?;
        within("outputs of the batch", batch.outputs.len(), self.capacity.outputs)
    }

    /// The logits of the wanted rows, left in `self.logits`.
    fn head(&mut self, outputs: &[u32]) -> Result<(), BackendError> {
        let Self { backend, architecture: a, weights, activations: t, .. } = self;
        let rows = outputs.len();
        if rows == 0 {
            return Ok(());
        }
        backend.gather_rows(&t.x, a.width, outputs, &mut t.last)?;
        backend.rms_norm(&t.last, &weights.output_norm, a.rms_eps, rows, &mut t.last_normed)?;
        let mut product = [Product { matrix: weights.head(), out: &mut t.logits }];
        backend.matmul(&t.last_normed, rows, &mut product)?;
        if let Some(cap) = a.logits_cap {
            backend.soft_cap(&mut t.logits, cap, rows * self.vocabulary)?;
        }
        backend.read(&t.logits, 0, &mut self.logits[..rows * self.vocabulary])
    }
}

impl<B: Backend> Executor for Forward<B> {
    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.check(batch)?;
        let spans: Vec<Span<'_>> = batch
            .spans
            .iter()
            .map(|span| Span {
                first_row: span.first_row,
                rows: span.count,
                past: span.past,
                blocks: &batch.tables[span.table.clone()],
            })
            .collect();
        let Self { backend, architecture, weights, kv, activations, .. } = self;
        backend.embed(&weights.embedding, &batch.tokens, &mut activations.x)?;
        if let Some(by) = architecture.embedding_scale() {
            backend.scale(&mut activations.x, by, batch.tokens.len() * architecture.width)?;
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            let mut step = LayerStep {
                backend,
                a: architecture,
                layer,
                t: activations,
                rows: batch.tokens.len(),
            };
            let call = Attention {
                layer: index,
                heads: architecture.heads,
                scale: architecture.attention_scale,
                soft_cap: architecture.attention_cap,
                reach: Reach::Back,
                window: architecture.window(index),
                spans: &spans,
            };
            step.attend(&call, batch, weights.frequencies(call.window), kv)?;
            step.feed_forward()?;
        }
        self.head(&batch.outputs)
    }

    fn logits(&self, output: usize) -> &[f32] {
        &self.logits[output * self.vocabulary..][..self.vocabulary]
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }
}

/// One layer at work on one batch.
struct LayerStep<'a, B: Backend> {
    backend: &'a mut B,
    a: &'a Architecture,
    layer: &'a Layer<B>,
    t: &'a mut Activations<B>,
    rows: usize,
}

impl<B: Backend> LayerStep<'_, B> {
    /// `x = x + out(attention(rope(q(norm(x))), rope(k(norm(x))), v(norm(x))))`
    fn attend(
        &mut self,
        call: &Attention<'_>,
        batch: &Batch,
        frequencies: &B::Buffer,
        kv: &mut B::KvCache,
    ) -> Result<(), BackendError> {
        let Self { backend, a, layer, t, rows } = self;
        let rows = *rows;
        backend.rms_norm(&t.x, &layer.attention_norm, a.rms_eps, rows, &mut t.normed)?;
        let mut products = [
            Product { matrix: &layer.q, out: &mut t.q },
            Product { matrix: &layer.k, out: &mut t.k },
            Product { matrix: &layer.v, out: &mut t.v },
        ];
        backend.matmul(&t.normed, rows, &mut products)?;
        if let Some([q, k, v]) = &layer.biases {
            backend.add_bias(&mut t.q, q, rows)?;
            backend.add_bias(&mut t.k, k, rows)?;
            backend.add_bias(&mut t.v, v, rows)?;
        }
        if let (Some([q, k]), Some(normed)) = (&layer.head_norms, &mut t.heads_normed) {
            backend.rms_norm(&t.q, q, a.rms_eps, rows * a.heads, &mut normed[0])?;
            backend.rms_norm(&t.k, k, a.rms_eps, rows * a.kv_heads, &mut normed[1])?;
            std::mem::swap(&mut t.q, &mut normed[0]);
            std::mem::swap(&mut t.k, &mut normed[1]);
        }
        let magnitude = a.positions.magnitude;
        let shape = |heads| RopeShape { heads, head_dim: a.head_dim, style: a.rope, magnitude };
        backend.rope(&mut t.q, &batch.positions, frequencies, shape(a.heads))?;
        backend.rope(&mut t.k, &batch.positions, frequencies, shape(a.kv_heads))?;
        backend.kv_store(kv, call.layer, &batch.slots, &t.k, &t.v)?;
        backend.attention(kv, call, &t.q, &mut t.attended)?;
        let mut product = [Product { matrix: &layer.attention_out, out: &mut t.projected }];
        backend.matmul(&t.attended, rows, &mut product)?;
        self.add(|[attention, _]| attention)
    }

    /// `x = x + down(act(gate(norm(x))) * up(norm(x)))`, or what each row's experts make of it.
    fn feed_forward(&mut self) -> Result<(), BackendError> {
        let Self { backend, a, layer, t, rows } = self;
        let rows = *rows;
        backend.rms_norm(&t.x, &layer.feed_forward_norm, a.rms_eps, rows, &mut t.normed)?;
        match &layer.feed_forward {
            FeedForward::Dense(gated) => {
                let Activations { normed, gate, up, hidden, projected, .. } = &mut **t;
                let inner = Inner { gate, up, hidden, width: a.feed_forward };
                inner.compute(*backend, gated, a.has(Part::Gelu), (&*normed, rows), projected)?;
                self.add(|[_, feed_forward]| feed_forward)
            }
            FeedForward::Experts(experts) => self.experts(experts),
        }
    }

    /// `x = x + projected`, or what one of the layer's norms makes of it.
    fn add(
        &mut self,
        norm: impl FnOnce(&[B::Buffer; 2]) -> &B::Buffer,
    ) -> Result<(), BackendError> {
        let Self { backend, a, layer, t, rows } = self;
        let (rows, len) = (*rows, *rows * a.width);
        let Some(norms) = &layer.post_norms else {
            return backend.add(&mut t.x, &t.projected, len);
        };
        backend.rms_norm(&t.projected, norm(norms), a.rms_eps, rows, &mut t.normed)?;
        backend.add(&mut t.x, &t.normed, len)
    }
}

/// Where a feed-forward computes, and how wide it is.
struct Inner<'a, B: Backend> {
    gate: &'a mut B::Buffer,
    up: &'a mut B::Buffer,
    hidden: &'a mut B::Buffer,
    width: usize,
}

impl<B: Backend> Inner<'_, B> {
    /// `out = down(act(gate(x)) * up(x))`
    fn compute(
        self,
        backend: &mut B,
        weights: &Gated<B>,
        is_gelu: bool,
        (x, rows): (&B::Buffer, usize),
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        let Self { gate, up, hidden, width } = self;
        let mut products = [
            Product { matrix: &weights.gate, out: &mut *gate },
            Product { matrix: &weights.up, out: &mut *up },
        ];
        backend.matmul(x, rows, &mut products)?;
        if is_gelu {
            backend.gelu_mul(gate, up, rows * width, hidden)?;
        } else {
            backend.silu_mul(gate, up, rows * width, hidden)?;
        }
        backend.matmul(hidden, rows, &mut [Product { matrix: &weights.down, out }])
    }
}
