//! What a device must be able to do for a model to run on it.
//!
//! A step calls the operations below in the order of the forward pass. Activations are f32 and stay
//! on the device in [`Backend::Buffer`]s, row-major, one row per token of the batch; the host passes
//! only token ids, positions, slots and block tables. A buffer may be longer than an operation
//! needs: an operation reads and writes its first `rows * cols` values and leaves the rest alone.
//!
//! Everything is allocated at load, by [`Backend::buffer`], [`Backend::matrix`],
//! [`Backend::kv_cache`] and [`Backend::reserve`]. A step allocates nothing that grows with tokens.
//!
//! A backend is right when [`crate::contract::run`] finds nothing against it.

use crate::format::Format;

/// Why a backend refused to allocate or to compute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The device has no room for an allocation.
    #[error("the device has no room for {bytes} bytes")]
    OutOfMemory { bytes: usize },
    /// Weights were to be locked in memory, and the system does not let the process lock so much.
    #[error("the system lets no {bytes} bytes more be locked in memory (RLIMIT_MEMLOCK)")]
    NotLocked { bytes: usize },
    /// A buffer, matrix or list does not have the size that the operation needs.
    #[error("{op}: {what} is {have}, needs {need}")]
    Shape { op: &'static str, what: &'static str, need: usize, have: usize },
    /// A token id, position, slot, block, layer or row lies outside of what exists.
    #[error("{op}: {what} {index} is outside of {limit}")]
    Range { op: &'static str, what: &'static str, index: usize, limit: usize },
    /// The backend has no kernel for this format.
    #[error("no kernel for weights in {format}")]
    UnsupportedFormat { format: Format },
    /// The device, or what drives it, has failed; most such failures last until it is opened anew.
    #[error("{op}: the device failed: {error}")]
    Device { op: &'static str, error: String },
}

/// How a KV cache holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    F16,
    F32,
    /// Signed bytes, with an f16 for each [`KV_GROUP`] dimensions of a token's key or value in a head.
    Q8_0,
}

/// Dimensions that share a scale in a cache of [`KvType::Q8_0`]; the last ones of a head may be fewer.
pub const KV_GROUP: usize = 32;

impl KvType {
    /// Bytes of one token's key or value in one head.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => head_dim.saturating_mul(2),
            Self::F32 => head_dim.saturating_mul(4),
            Self::Q8_0 => head_dim.saturating_add(head_dim.div_ceil(KV_GROUP).saturating_mul(2)),
        }
    }
}

/// The size of a paged KV cache. Slot `s` is token `s % block_tokens` of block `s / block_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Blocks in the pool, for all sequences together.
    pub blocks: usize,
    /// Tokens in one block, a multiple of 16.
    pub block_tokens: usize,
    pub kv_type: KvType,
}

impl KvShape {
    /// Bytes of keys and values of all layers; `None` when the product does not fit.
    pub fn bytes(&self) -> Option<usize> {
        let Self { layers, kv_heads, head_dim, blocks, block_tokens, kv_type } = *self;
        [layers, kv_heads, blocks, block_tokens, kv_type.row_bytes(head_dim)]
            .into_iter()
            .try_fold(2_usize, usize::checked_mul)
    }
}

/// The largest step that will be asked for; scratch memory is sized by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens in one batch.
    pub rows: usize,
    /// Columns of the widest matrix.
    pub cols: usize,
}

/// Which two elements of a head rotary positions turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Neighbours: `2i` and `2i + 1`.
    Norm,
    /// Halves: `i` and `i + n`, where `n` is the number of frequencies.
    Neox,
}

/// How far a gate of a feed-forward opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / (1 + exp(-2 u))` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`: the form with a
    /// hyperbolic tangent.
    Gelu,
}

/// The heads that [`Backend::rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeShape {
    pub heads: usize,
    pub head_dim: usize,
    pub style: RopeStyle,
    /// What each pair is multiplied with when it is turned: 1, unless a model that was trained for
    /// short texts is stretched to long ones.
    pub magnitude: f32,
}

/// One matrix to multiply the activations with, and where the product goes.
pub struct Product<'a, B: Backend> {
    /// `(outputs, inputs)`
    pub matrix: &'a B::Matrix,
    /// `(rows, outputs)`
    pub out: &'a mut B::Buffer,
}

/// The rows of one sequence in a batch, and where its keys and values lie.
///
/// Row `first_row + i` is the token at position `past + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The first row of the batch that belongs to this sequence.
    pub first_row: usize,
    /// How many rows of the batch belong to it.
    pub rows: usize,
    /// Tokens of the sequence before `first_row`.
    pub past: usize,
    /// The sequence's blocks, in order; at least enough for `past + rows` tokens.
    pub blocks: &'a [u32],
}

/// Which tokens of its sequence a row attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Itself and those before it.
    Back,
    /// Those before and behind it alike: models that read a text and write none.
    Both,
}

/// One layer's attention over a batch.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    pub layer: usize,
    /// Query heads, a multiple of the cache's `kv_heads`; head `h` reads KV head
    /// `h / (heads / kv_heads)`.
    pub heads: usize,
    /// What a product of query and key is multiplied with before the softmax.
    pub scale: f32,
    /// Bounds each scaled product by `cap * tanh(product / cap)`.
    pub soft_cap: Option<f32>,
    pub reach: Reach,
    /// How many tokens a row attends, itself and those just before it; `None` is all. Where it
    /// attends both ways, those at most half a window away.
    pub window: Option<usize>,
    pub spans: &'a [Span<'a>],
}

/// A device that holds weights and computes on them.
///
/// Every operation checks its shapes and indices before it touches memory and returns
/// [`BackendError::Shape`] or [`BackendError::Range`] with its outputs untouched.
pub trait Backend: Send + Sized + 'static {
    /// f32 activations on the device.
    type Buffer: Send;
    /// Weights, laid out as the backend likes.
    type Matrix: Send + Sync;
    /// Keys and values of all layers, in blocks.
    type KvCache: Send;

    /// The device in words, such as `cpu avx512 2 threads`.
    fn describe(&self) -> String;

    /// The format that activations are rounded to before they meet weights of `weights`.
    ///
    /// [`Format::F32`] where they are not rounded.
    fn activations(&self, weights: Format) -> Format;

    /// Allocates `len` floats, all zero.
    fn buffer(&mut self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// Copies weights to the device: `bytes` are `rows` rows of `cols` values in `format`.
    fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self::Matrix, BackendError>;

    /// Allocates a KV cache.
    fn kv_cache(&mut self, shape: KvShape) -> Result<Self::KvCache, BackendError>;

    /// Sizes the scratch memory; called at load, before the first operation.
    fn reserve(&mut self, limits: StepLimits) -> Result<(), BackendError>;

    /// Copies `values` into `buffer` from element `at` on.
    fn write(
        &mut self,
        buffer: &mut Self::Buffer,
        at: usize,
        values: &[f32],
    ) -> Result<(), BackendError>;

    /// Copies `out.len()` floats out of `buffer` from element `at` on, once all operations before
    /// have ended.
    fn read(
        &mut self,
        buffer: &Self::Buffer,
        at: usize,
        out: &mut [f32],
    ) -> Result<(), BackendError>;

    /// The floats of `buffer` themselves, once all operations before have ended, where the host and
    /// the device have one memory; `None` where they must be read.
    fn host<'a>(&mut self, buffer: &'a mut Self::Buffer) -> Option<&'a mut [f32]>;

    /// `out[i] = table[ids[i]]`, dequantised. `out`: `(ids.len(), table.cols)`.
    fn embed(
        &mut self,
        table: &Self::Matrix,
        ids: &[u32],
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = x / sqrt(mean(x * x) + eps) * weight`, row by row.
    ///
    /// `x` and `out`: `(rows, weight.len)`; `weight` is exactly as long as a row.
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = x * transpose(matrix)` for each product; all matrices have the same columns.
    ///
    /// `x`: `(rows, cols)`. Products that share `x` belong in one call: the activations are
    /// quantised once and the device is woken once.
    fn matmul(
        &mut self,
        x: &Self::Buffer,
        rows: usize,
        products: &mut [Product<'_, Self>],
    ) -> Result<(), BackendError>;

    /// Turns each pair of each head of row `i` by `positions[i] * frequencies[pair]` radians and
    /// multiplies it with the magnitude.
    ///
    /// `x`: `(positions.len(), heads, head_dim)`; `frequencies` has at most `head_dim / 2` entries
    /// and the elements beyond twice their number stay as they are.
    fn rope(
        &mut self,
        x: &mut Self::Buffer,
        positions: &[u32],
        frequencies: &Self::Buffer,
        shape: RopeShape,
    ) -> Result<(), BackendError>;

    /// Stores row `i` of `k` and `v`, `(slots.len(), kv_heads, head_dim)`, at `slots[i]`.
    fn kv_store(
        &mut self,
        kv: &mut Self::KvCache,
        layer: usize,
        slots: &[u32],
        k: &Self::Buffer,
        v: &Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Attention of each span's rows over its sequence, or over what they reach of it:
    /// `softmax(soft_cap(q * k * scale)) * v`.
    ///
    /// `q` and `out`: `(rows of the batch, heads, head_dim)`. The keys and values of the spans' own
    /// rows have been stored before. Rows in no span are left alone; what lies in a block beyond
    /// the sequence's length never reaches the result, nor does a block whose tokens a window hides
    /// from all rows of its span.
    fn attention(
        &mut self,
        kv: &Self::KvCache,
        call: &Attention<'_>,
        q: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = curve(gate) * up` over the first `len` elements.
    fn gated(
        &mut self,
        curve: Curve,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        len: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `x = cap * tanh(x / cap)` over the first `len` elements; `cap` is positive.
    fn soft_cap(&mut self, x: &mut Self::Buffer, cap: f32, len: usize) -> Result<(), BackendError>;

    /// `x = by * x` over the first `len` elements.
    fn scale(&mut self, x: &mut Self::Buffer, by: f32, len: usize) -> Result<(), BackendError>;

    /// `x = x + bias`, row by row. `x`: `(rows, bias.len)`; `bias` is exactly as long as a row.
    fn add_bias(
        &mut self,
        x: &mut Self::Buffer,
        bias: &Self::Buffer,
        rows: usize,
    ) -> Result<(), BackendError>;

    /// `x = x + y` over the first `len` elements.
    fn add(
        &mut self,
        x: &mut Self::Buffer,
        y: &Self::Buffer,
        len: usize,
    ) -> Result<(), BackendError>;

    /// `x[rows[i]] = x[rows[i]] + factors[i] * y[i]`. `x`: `(any, cols)`; `y`: `(rows.len(), cols)`;
    /// there are as many factors as rows, and no row comes twice.
    fn add_rows(
        &mut self,
        x: &mut Self::Buffer,
        cols: usize,
        rows: &[u32],
        factors: &[f32],
        y: &Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out[i] = x[rows[i]]`. `x`: `(any, cols)`; `out`: `(rows.len(), cols)`.
    fn gather_rows(
        &mut self,
        x: &Self::Buffer,
        cols: usize,
        rows: &[u32],
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, row by row.
    ///
    /// `x` and `out`: `(rows, weight.len)`; weight and bias are exactly as long as a row.
    fn layer_norm(
        &mut self,
        x: &Self::Buffer,
        weight_and_bias: [&Self::Buffer; 2],
        eps: f32,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `x = x / 2 * (1 + erf(x / sqrt(2)))` over the first `len` elements: the GELU as it is defined.
    fn gelu(&mut self, x: &mut Self::Buffer, len: usize) -> Result<(), BackendError>;
}
