//! The forward pass: one for every architecture and every backend.
//!
//! Rows of several sequences go through the layers together, whether they are one sequence's next
//! token or a chunk of another's prompt; only attention looks at whose rows they are. Texts to embed
//! go through the same layers, each whole and in steps of their own ([`texts`]).

mod adapters;
mod experts;
mod gated;
mod texts;

use realm_kernels::backend::{
    Attention, Backend, BackendError, KvShape, KvType, Product, RopeShape, Span, StepLimits,
};

use self::{
    adapters::Adapters,
    experts::ExpertStep,
    gated::{Beside, Inner},
    texts::Texts,
};
use crate::{
    adapter::{AdapterError, AdapterFile, AdapterId, AdapterWork},
    architecture::{Architecture, Bands, Part, Place},
    batch::{Batch, TEXTS_MAX},
    gguf::Gguf,
    weights::{self, AdapterWeights, FeedForward, Layer, Norm, Plain, Target, Weights},
};

/// A loaded model that computes batches.
///
/// The engine holds it boxed: the backend is chosen once, at load.
pub(crate) trait Executor: Send {
    /// Computes a batch; its logits are there until the next one.
    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError>;

    /// The logits of the batch's output number `output`, for whoever needs them to do with what it
    /// likes: `(vocabulary)`.
    fn logits(&mut self, output: usize) -> &mut [f32];

    /// Computes a batch of texts; their vectors can be read until the next one.
    fn embed(&mut self, batch: &Batch) -> Result<(), BackendError>;

    /// The vector of the batch's text number `text`, as long as the model makes it.
    fn vector(&self, text: usize) -> &[f32];

    /// Bytes that an adapter takes on the device.
    fn adapter_bytes(&self, file: &Gguf) -> u64;

    /// Bytes that all adapters together compute in.
    fn adapter_step_bytes(&self) -> u64;

    /// Takes an adapter's weights to the device, for sequences that are computed with it from now
    /// on.
    fn adapt(&mut self, id: AdapterId, file: &Gguf) -> Result<AdapterWork, AdapterError>;

    /// Forgets an adapter, of which no sequence is left.
    fn forget_adapter(&mut self, id: AdapterId);

    /// The device in words.
    fn describe(&self) -> String;
}

/// The largest step and cache a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Tokens in one batch of sequences; 0 where the model generates nothing.
    pub(crate) rows: usize,
    /// Tokens in one batch of texts; 0 where the model embeds none.
    pub(crate) text_rows: usize,
    /// Rows of one batch whose logits are wanted.
    pub(crate) outputs: usize,
    /// Blocks of all layers.
    pub(crate) blocks: usize,
    pub(crate) block_tokens: usize,
    pub(crate) kv_type: KvType,
    /// Tokens that one sequence may hold.
    pub(crate) context: u32,
}

impl Capacity {
    /// The cache, of blocks of one band each.
    pub(crate) fn kv_shape(&self, architecture: &Architecture) -> KvShape {
        let bands = architecture.bands();
        KvShape {
            layers: bands.layers,
            kv_heads: architecture.kv_heads,
            head_dim: architecture.head_dim,
            blocks: self.blocks.saturating_mul(bands.count()),
            block_tokens: self.block_tokens,
            kv_type: self.kv_type,
        }
    }

    /// Bytes of activations and logits, on the device.
    pub(crate) fn activation_bytes(&self, a: &Architecture, vocabulary: usize) -> u64 {
        let heads = (a.heads + a.kv_heads) * a.head_dim;
        let head_norms = if a.has(Part::HeadNorms) { heads } else { 0 };
        let experts = a.experts.map_or(0, |experts| experts.count + 2 * a.width);
        let inner = 3 * a.feed_forward_max();
        let per_row = 3 * a.width + 2 * heads + head_norms + inner + experts;
        let per_output = 2 * a.width + vocabulary;
        let floats = self.rows_max() * per_row + self.outputs * per_output;
        (floats.saturating_add(texts::floats(self, a)) as u64).saturating_mul(4)
    }

    const fn rows_max(&self) -> usize {
        if self.rows > self.text_rows { self.rows } else { self.text_rows }
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
        let (rows, outputs) = (capacity.rows_max(), capacity.outputs);
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
    bands: Bands,
    /// Of each layer.
    places: Vec<Place>,
    weights: Weights<B>,
    /// Of sequences; `None` where the model generates nothing.
    kv: Option<B::KvCache>,
    /// `None` where the model embeds nothing.
    texts: Option<Texts<B>>,
    activations: Activations<B>,
    /// `None` where there is no adapter.
    adapters: Option<Adapters<B>>,
    /// Memory for those of a batch, of one band after the other; there are none between two.
    spans: Vec<Span<'static>>,
    /// The logits of the last batch, read from a device with a memory of its own: `(outputs,
    /// vocabulary)`.
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
        let dense = a.dense.iter().copied().max().unwrap_or(0);
        let widest = a.width.max(a.feed_forward_max()).max(a.heads * a.head_dim).max(dense);
        backend.reserve(StepLimits { rows: capacity.rows_max(), cols: widest })?;
        let shape = capacity.kv_shape(a);
        let kv = a.generates.then(|| backend.kv_cache(shape)).transpose()?;
        let texts = Texts::new(&mut backend, a, &capacity)?;
        let mut activations = Activations::new(&mut backend, a, &capacity, vocabulary)?;
        let read = match backend.host(&mut activations.logits) {
            Some(_) => 0,
            None => capacity.outputs * vocabulary,
        };
        let logits = vec![0.0; read];
        Ok(Self {
            backend,
            bands: a.bands(),
            places: a.places(),
            architecture,
            weights,
            kv,
            texts,
            activations,
            adapters: None,
            spans: Vec::new(),
            logits,
            vocabulary,
            capacity,
        })
    }

    /// The last layer's output for every row, left in the activations' `x`.
    fn layers(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let of_texts = !batch.texts.is_empty();
        let bands = if of_texts { 1 } else { self.bands.count() };
        let mut spans: Vec<Span<'_>> = std::mem::take(&mut self.spans);
        for band in 0..bands {
            spans.extend(batch.spans.iter().map(|span| Span {
                first_row: span.first_row,
                rows: span.count,
                past: span.past,
                blocks: &batch.tables[span.table(band)],
            }));
        }
        let Self {
            backend, architecture, places, weights, kv, texts, activations, adapters, ..
        } = self;
        let kv = if of_texts { texts.as_mut().map(Texts::kv) } else { kv.as_mut() };
        // Never so: who plans knows what the model does.
        let kv =
            kv.ok_or(BackendError::Shape { op: "forward", what: "cache", need: 1, have: 0 })?;
        if let Some(adapters) = adapters {
            adapters.plan(batch)?;
        }
        let mut step = LayerStep {
            backend,
            a: architecture,
            weights,
            t: activations,
            adapters: adapters.as_mut(),
            index: 0,
            rows: batch.tokens.len(),
        };
        step.embed(batch)?;
        for (index, (layer, place)) in weights.layers.iter().zip(places).enumerate() {
            // What a step of texts attends is needed until the next layer only.
            let Place { band, layer: at } =
                if of_texts { Place { band: 0, layer: 0 } } else { *place };
            let call = Attention {
                layer: at,
                heads: architecture.heads,
                scale: architecture.attention_scale,
                soft_cap: architecture.attention_cap,
                reach: architecture.reach,
                window: architecture.window(index),
                spans: &spans[band * batch.spans.len()..][..batch.spans.len()],
            };
            step.index = index;
            step.attend(layer, &call, (batch, batch.slots(band)), kv)?;
            step.feed_forward(layer)?;
        }
        self.spans = emptied(spans);
        Ok(())
    }

    /// The logits of the wanted rows, left where [`Executor::logits`] finds them.
    fn head(&mut self, outputs: &[u32]) -> Result<(), BackendError> {
        let Self { backend, architecture: a, weights, activations: t, .. } = self;
        let rows = outputs.len();
        if rows == 0 {
            return Ok(());
        }
        backend.gather_rows(&t.x, a.width, outputs, &mut t.last)?;
        let mut product = [Product { matrix: weights.head(), out: &mut t.logits }];
        if let Some(norm) = &weights.output_norm {
            backend.rms_norm(&t.last, norm, a.norm_eps, rows, &mut t.last_normed)?;
            backend.matmul(&t.last_normed, rows, &mut product)?;
        } else {
            backend.matmul(&t.last, rows, &mut product)?;
        }
        if let Some(cap) = a.logits_cap {
            backend.soft_cap(&mut t.logits, cap, rows * self.vocabulary)?;
        }
        if backend.host(&mut t.logits).is_some() {
            return Ok(());
        }
        backend.read(&t.logits, 0, &mut self.logits[..rows * self.vocabulary])
    }
}

impl<B: Backend> Executor for Forward<B> {
    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError> {
        within("rows of the batch", batch.tokens.len(), self.capacity.rows)?;
        within("outputs of the batch", batch.outputs.len(), self.capacity.outputs)?;
        self.layers(batch)?;
        self.head(&batch.outputs)
    }

    fn logits(&mut self, output: usize) -> &mut [f32] {
        let all = self.backend.host(&mut self.activations.logits).unwrap_or(&mut self.logits);
        &mut all[output * self.vocabulary..][..self.vocabulary]
    }

    fn embed(&mut self, batch: &Batch) -> Result<(), BackendError> {
        within("rows of the batch", batch.tokens.len(), self.capacity.text_rows)?;
        within("texts of the batch", batch.texts.len(), TEXTS_MAX)?;
        self.layers(batch)?;
        self.pool(batch)
    }

    fn vector(&self, text: usize) -> &[f32] {
        let len = self.architecture.vector_len();
        self.texts.as_ref().map_or(&[], |texts| texts.vector(text, len))
    }

    fn adapter_bytes(&self, file: &Gguf) -> u64 {
        let bytes = |tensor| weights::loaded_bytes(tensor, &self.architecture);
        file.tensors().iter().map(bytes).fold(0, u64::saturating_add)
    }

    fn adapter_step_bytes(&self) -> u64 {
        adapters::bytes(self.capacity.rows, &self.architecture)
    }

    fn adapt(&mut self, id: AdapterId, file: &Gguf) -> Result<AdapterWork, AdapterError> {
        let Self { backend, architecture, adapters, capacity, .. } = self;
        let file = AdapterFile::of(file, architecture)?;
        let weights = AdapterWeights::load(backend, &file, architecture)?;
        let work = weights.work;
        if adapters.is_none() {
            let made = Adapters::new(backend, capacity.rows, architecture);
            *adapters = Some(made.map_err(AdapterError::Device)?);
        }
        if let Some(adapters) = adapters {
            adapters.put(id, weights);
        }
        Ok(work)
    }

    fn forget_adapter(&mut self, id: AdapterId) {
        if self.adapters.as_mut().is_some_and(|adapters| adapters.forget(id)) {
            self.adapters = None;
        }
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }
}

/// The memory of a list without what was in it: to collect a list into one of the same size keeps it.
fn emptied(spans: Vec<Span<'_>>) -> Vec<Span<'static>> {
    spans.into_iter().map_while(|_| None).collect()
}

fn within(what: &'static str, have: usize, need: usize) -> Result<(), BackendError> {
    if have <= need { Ok(()) } else { Err(BackendError::Shape { op: "forward", what, need, have }) }
}

/// The layers at work on one batch, one after the other.
struct LayerStep<'a, B: Backend> {
    backend: &'a mut B,
    a: &'a Architecture,
    weights: &'a Weights<B>,
    t: &'a mut Activations<B>,
    adapters: Option<&'a mut Adapters<B>>,
    /// Of the layer.
    index: usize,
    rows: usize,
}

/// A half of a layer.
#[derive(Clone, Copy)]
enum Half {
    Attention,
    FeedForward,
}

impl Half {
    const fn of<T>(self, [attention, feed_forward]: &[T; 2]) -> &T {
        match self {
            Self::Attention => attention,
            Self::FeedForward => feed_forward,
        }
    }
}

impl<B: Backend> LayerStep<'_, B> {
    /// `x = norm(scale * embedding(token) + position + kind)`, of which most models have the embedding
    /// alone.
    fn embed(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let Self { backend, a, weights, t, rows, .. } = self;
        let (rows, len) = (*rows, *rows * a.width);
        backend.embed(&weights.embedding, &batch.tokens, &mut t.x)?;
        if let Some(by) = a.embedding_scale() {
            backend.scale(&mut t.x, by, len)?;
        }
        if let Some(positions) = &weights.reading.positions {
            backend.embed(positions, &batch.positions, &mut t.projected)?;
            backend.add(&mut t.x, &t.projected, len)?;
        }
        if let Some(kind) = &weights.reading.kind {
            backend.add_bias(&mut t.x, kind, rows)?;
        }
        match &weights.reading.norm {
            Some(norm) => self.norm(norm),
            None => Ok(()),
        }
    }

    /// `x = norm(x)`, by mean and variance.
    fn norm(&mut self, norm: &Norm<B>) -> Result<(), BackendError> {
        let Self { backend, a, t, rows, .. } = self;
        let both = [&norm.weight, &norm.bias];
        backend.layer_norm(&t.x, both, a.norm_eps, *rows, &mut t.normed)?;
        std::mem::swap(&mut t.x, &mut t.normed);
        Ok(())
    }

    /// Leaves in `normed` what goes into a half of a layer, where that is normed.
    fn norm_input(&mut self, layer: &Layer<B>, half: Half) -> Result<(), BackendError> {
        let Self { backend, a, t, rows, .. } = self;
        match &layer.input_norms {
            Some(norms) => backend.rms_norm(&t.x, half.of(norms), a.norm_eps, *rows, &mut t.normed),
            None => Ok(()),
        }
    }

    /// `x = x + out(attention(rope(q(norm(x))), rope(k(norm(x))), v(norm(x))))`
    fn attend(
        &mut self,
        layer: &Layer<B>,
        call: &Attention<'_>,
        (batch, slots): (&Batch, &[u32]),
        kv: &mut B::KvCache,
    ) -> Result<(), BackendError> {
        self.project(layer)?;
        self.turn(batch, self.weights.frequencies(call.window))?;
        let Self { backend, a, t, adapters, index, rows, .. } = self;
        backend.kv_store(kv, call.layer, slots, &t.k, &t.v)?;
        backend.attention(kv, call, &t.q, &mut t.attended)?;
        let mut product = [Product { matrix: &layer.attention_out, out: &mut t.projected }];
        backend.matmul(&t.attended, *rows, &mut product)?;
        if let Some(adapters) = adapters {
            let mut outputs = [(Target::AttentionOut, &mut t.projected)];
            let input = (&t.attended, a.heads * a.head_dim);
            adapters.add(backend, *index, input, &mut outputs)?;
        }
        if let Some(bias) = &layer.attention_out_bias {
            backend.add_bias(&mut t.projected, bias, *rows)?;
        }
        self.add(layer, Half::Attention)
    }

    /// Queries, keys and values, biased and normed where the architecture does that.
    fn project(&mut self, layer: &Layer<B>) -> Result<(), BackendError> {
        self.norm_input(layer, Half::Attention)?;
        let Self { backend, a, t, adapters, index, rows, .. } = self;
        let rows = *rows;
        let Activations { x, normed, q, k, v, heads_normed, .. } = &mut **t;
        let input = if layer.input_norms.is_some() { normed } else { x };
        let mut products = [
            Product { matrix: &layer.q, out: &mut *q },
            Product { matrix: &layer.k, out: &mut *k },
            Product { matrix: &layer.v, out: &mut *v },
        ];
        backend.matmul(input, rows, &mut products)?;
        if let Some(adapters) = adapters {
            let mut outputs = [(Target::Q, &mut *q), (Target::K, &mut *k), (Target::V, &mut *v)];
            adapters.add(backend, *index, (&*input, a.width), &mut outputs)?;
        }
        if let Some([of_q, of_k, of_v]) = &layer.biases {
            backend.add_bias(q, of_q, rows)?;
            backend.add_bias(k, of_k, rows)?;
            backend.add_bias(v, of_v, rows)?;
        }
        if let (Some([of_q, of_k]), Some(normed)) = (&layer.head_norms, heads_normed) {
            backend.rms_norm(q, of_q, a.norm_eps, rows * a.heads, &mut normed[0])?;
            backend.rms_norm(k, of_k, a.norm_eps, rows * a.kv_heads, &mut normed[1])?;
            std::mem::swap(q, &mut normed[0]);
            std::mem::swap(k, &mut normed[1]);
        }
        Ok(())
    }

    /// Turns queries and keys by their positions, unless those are learned.
    fn turn(&mut self, batch: &Batch, frequencies: &B::Buffer) -> Result<(), BackendError> {
        let Self { backend, a, t, .. } = self;
        if a.has(Part::LearnedPositions) {
            return Ok(());
        }
        let magnitude = a.positions.magnitude;
        let shape = |heads| RopeShape { heads, head_dim: a.head_dim, style: a.rope, magnitude };
        backend.rope(&mut t.q, &batch.positions, frequencies, shape(a.heads))?;
        backend.rope(&mut t.k, &batch.positions, frequencies, shape(a.kv_heads))
    }

    /// `x = x + down(act(gate(norm(x))) * up(norm(x)))`, or what each row's experts make of it.
    fn feed_forward(&mut self, layer: &Layer<B>) -> Result<(), BackendError> {
        self.norm_input(layer, Half::FeedForward)?;
        let Self { backend, a, t, adapters, index, rows, .. } = self;
        let rows = *rows;
        let Activations { x, normed, gate, up, hidden, projected, .. } = &mut **t;
        let input = if layer.input_norms.is_some() { normed } else { x };
        match &layer.feed_forward {
            FeedForward::Dense(gated) => {
                let mut inner = Inner { gate, up, hidden, width: a.feed_forward };
                let (layer, inputs) = (*index, a.width);
                let beside = adapters.as_deref_mut();
                let beside = beside.map(|adapters| Beside { adapters, layer, inputs });
                let rows = (&*input, rows);
                inner.compute_adapted(*backend, gated, a.curve(), rows, (projected, beside))?;
            }
            FeedForward::Plain(Plain { up, down, biases }) => {
                backend.matmul(input, rows, &mut [Product { matrix: up, out: &mut *hidden }])?;
                if let Some([of_up, _]) = biases {
                    backend.add_bias(hidden, of_up, rows)?;
                }
                backend.gelu(hidden, rows * a.feed_forward)?;
                let mut product = [Product { matrix: down, out: &mut *projected }];
                backend.matmul(hidden, rows, &mut product)?;
                if let Some([_, of_down]) = biases {
                    backend.add_bias(projected, of_down, rows)?;
                }
            }
            FeedForward::Experts(experts) => return self.experts(experts),
        }
        self.add(layer, Half::FeedForward)
    }

    /// `x = x + projected`, of which one or the other may be normed.
    fn add(&mut self, layer: &Layer<B>, half: Half) -> Result<(), BackendError> {
        let Self { backend, a, t, rows, .. } = self;
        let (rows, len) = (*rows, *rows * a.width);
        if let Some(norms) = &layer.post_norms {
            backend.rms_norm(&t.projected, half.of(norms), a.norm_eps, rows, &mut t.normed)?;
            return backend.add(&mut t.x, &t.normed, len);
        }
        backend.add(&mut t.x, &t.projected, len)?;
        match &layer.sum_norms {
            Some(norms) => self.norm(half.of(norms)),
            None => Ok(()),
        }
    }
}
