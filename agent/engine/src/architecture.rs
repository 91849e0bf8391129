//! What a model is made of, as data: one forward pass serves every architecture listed here.

mod bands;
mod pooling;
mod positions;
mod reader;

use realm_kernels::backend::{Curve, Reach, RopeStyle};
use thiserror::Error;

use self::reader::Reader;
pub(crate) use self::{
    bands::{Bands, Place},
    pooling::Pooling,
    positions::Positions,
};
use crate::gguf::{Gguf, GgufError, required};

/// What a layer has beside what every layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Queries, keys and values have biases.
    Biases,
    /// Each head of queries and keys is normed.
    HeadNorms,
    /// What attention and feed-forward give is normed before it is added.
    PostNorms,
    /// Queries, keys and values are one matrix.
    FusedQkv,
    /// Gate and up are one matrix.
    FusedGate,
    /// Embeddings are multiplied with the square root of their width.
    ScaledEmbedding,
    /// Scores and logits are bounded.
    SoftCaps,
    /// The gate is a GELU; elsewhere it is a SiLU.
    Gelu,
    /// Embeddings and each sum of them with what a layer adds are normed, by mean and variance;
    /// what goes into a layer is not.
    SumNorms,
    /// Positions are vectors that are added to embeddings; elsewhere they turn queries and keys.
    LearnedPositions,
    /// What attention gives has a bias, and so have both matrices of a feed-forward.
    OutputBiases,
    /// The feed-forward has no gate: a GELU bends it.
    Ungated,
}

/// The experts of each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Experts {
    pub(crate) count: usize,
    /// How many of them each row goes to.
    pub(crate) used: usize,
    pub(crate) shares: Shares,
    /// The width of the one that every row goes to as well.
    pub(crate) shared: Option<usize>,
}

/// By what share experts are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shares {
    AmongChosen,
    AmongAll,
}

/// What distinguishes one architecture from the others.
struct Traits {
    name: &'static str,
    rope: RopeStyle,
    parts: &'static [Part],
    /// Whether it only reads: it attends both ways, and has no logits.
    reads_only: bool,
    /// Whether its models of texts are trained so that the first numbers of a vector are one.
    /// Those of nomic-bert are scaled by all numbers before they are cut, and so are not.
    shortens: bool,
    /// How experts are weighed, where there may be some.
    experts: Option<Shares>,
    /// Where only some layers attend a window: each layer of that number attends all.
    global_every: Option<u32>,
    /// The base of the frequencies in layers that attend a window, where it is one of its own.
    local_base: Option<f32>,
    /// Layers of the one model that scales by its width instead of its heads' dimension.
    scaled_by_width: Option<u32>,
}

const PLAIN: Traits = Traits {
    name: "",
    rope: RopeStyle::Neox,
    parts: &[],
    reads_only: false,
    shortens: false,
    experts: None,
    global_every: None,
    local_base: None,
    scaled_by_width: None,
};

/// Architectures that can be run. Files of Mistral, Mixtral and SmolLM models call theirs `llama`.
const KNOWN: &[Traits] = &[
    Traits { name: "llama", rope: RopeStyle::Norm, experts: Some(Shares::AmongChosen), ..PLAIN },
    Traits { name: "qwen2", parts: &[Part::Biases], ..PLAIN },
    Traits { name: "qwen2moe", parts: &[Part::Biases], experts: Some(Shares::AmongAll), ..PLAIN },
    Traits { name: "qwen3", parts: &[Part::HeadNorms], shortens: true, ..PLAIN },
    Traits {
        name: "qwen3moe",
        parts: &[Part::HeadNorms],
        experts: Some(Shares::AmongChosen),
        ..PLAIN
    },
    Traits { name: "phi3", parts: &[Part::FusedQkv, Part::FusedGate], ..PLAIN },
    Traits {
        name: "gemma2",
        parts: &[Part::PostNorms, Part::ScaledEmbedding, Part::SoftCaps, Part::Gelu],
        global_every: Some(2),
        scaled_by_width: Some(46),
        ..PLAIN
    },
    Traits {
        name: "gemma3",
        parts: &[Part::HeadNorms, Part::PostNorms, Part::ScaledEmbedding, Part::Gelu],
        global_every: Some(6),
        local_base: Some(10_000.0),
        scaled_by_width: Some(62),
        ..PLAIN
    },
    Traits {
        name: "gemma-embedding",
        parts: &[Part::HeadNorms, Part::PostNorms, Part::ScaledEmbedding, Part::Gelu],
        reads_only: true,
        shortens: true,
        global_every: Some(6),
        local_base: Some(10_000.0),
        ..PLAIN
    },
    Traits {
        name: "bert",
        parts: &[
            Part::Biases,
            Part::SumNorms,
            Part::LearnedPositions,
            Part::OutputBiases,
            Part::Ungated,
        ],
        reads_only: true,
        ..PLAIN
    },
    Traits {
        name: "nomic-bert",
        parts: &[Part::FusedQkv, Part::SumNorms],
        reads_only: true,
        ..PLAIN
    },
];

/// Layers, tokens and widths are far below these in every published model; above them a product
/// of two may no longer fit where it is used.
const LAYERS_MAX: u32 = 1 << 10;
const EXPERTS_MAX: u32 = 1 << 10;
const WIDTH_MAX: u32 = 1 << 20;
const CONTEXT_MAX: u32 = 1 << 24;

/// Why a file's architecture cannot be run.
#[derive(Debug, Error)]
pub enum ArchitectureError {
    #[error("reading the hyperparameters")]
    Metadata(#[source] GgufError),
    #[error("the architecture `{found}` is not known; known are {known:?}")]
    Unknown { found: String, known: Vec<&'static str> },
    #[error("`{key}` is {value}; {wanted}")]
    Value { key: String, value: u32, wanted: &'static str },
    #[error("`{key}` is {value}, which no forward pass can use")]
    Number { key: String, value: f32 },
    #[error("positions are scaled by `{found}`; known are {known:?}")]
    RopeScaling { found: String, known: &'static [&'static str] },
}

/// The hyperparameters of one model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    parts: &'static [Part],
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// The width of a feed-forward, or of one expert.
    pub(crate) feed_forward: usize,
    pub(crate) experts: Option<Experts>,
    pub(crate) context: u32,
    pub(crate) norm_eps: f32,
    /// Whether it has logits, and rows attend nothing behind them.
    pub(crate) generates: bool,
    pub(crate) reach: Reach,
    /// How it makes one vector of a text, where its file says so.
    pub(crate) pooling: Option<Pooling>,
    /// Whether the first numbers of such a vector are one themselves.
    pub(crate) shortens: bool,
    /// Rows of the matrices that such a vector goes through, one after the other.
    pub(crate) dense: Vec<usize>,
    pub(crate) rope: RopeStyle,
    pub(crate) positions: Positions,
    /// What products of queries and keys are multiplied with.
    pub(crate) attention_scale: f32,
    /// Bounds of those products, and of logits.
    pub(crate) attention_cap: Option<f32>,
    pub(crate) logits_cap: Option<f32>,
    /// Tokens that a layer attends, where that is not all.
    window: Option<usize>,
    global_every: Option<u32>,
}

impl Architecture {
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// How far the gates of feed-forwards open.
    pub(crate) fn curve(&self) -> Curve {
        if self.has(Part::Gelu) { Curve::Gelu } else { Curve::Silu }
    }

    /// How many tokens a layer attends; `None` is all.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        let is_global =
            self.global_every.is_some_and(|every| (layer + 1).is_multiple_of(every as usize));
        self.window.filter(|_| !is_global)
    }

    /// How many tokens layers with a window attend, where there are any.
    pub(crate) fn window_max(&self) -> Option<usize> {
        (0..self.layers).filter_map(|layer| self.window(layer)).max()
    }

    /// The bands that its layers are cached in.
    pub(crate) fn bands(&self) -> Bands {
        let windowed = (0..self.layers).filter(|&layer| self.window(layer).is_some()).count();
        Bands::of(self.layers - windowed, windowed)
    }

    /// Where each of its layers is cached.
    pub(crate) fn places(&self) -> Vec<Place> {
        let bands = self.bands();
        let (mut whole, mut windowed) = (0.., 0..);
        let place = |layer| {
            let is_windowed = self.window(layer).is_some();
            let nth = if is_windowed { windowed.next() } else { whole.next() };
            bands.place(is_windowed, nth.unwrap_or(0))
        };
        (0..self.layers).map(place).collect()
    }

    /// The width of the widest feed-forward of a layer.
    pub(crate) fn feed_forward_max(&self) -> usize {
        let shared = self.experts.and_then(|experts| experts.shared);
        self.feed_forward.max(shared.unwrap_or(0))
    }

    /// The width of the vector of a text.
    pub(crate) fn vector_len(&self) -> usize {
        self.dense.last().copied().unwrap_or(self.width)
    }

    /// What embeddings are multiplied with, if anything.
    pub(crate) fn embedding_scale(&self) -> Option<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        self.has(Part::ScaledEmbedding).then(|| (self.width as f64).sqrt() as f32)
    }

    /// Values of the widest row that an adapter reads or makes.
    pub(crate) fn adapted_width(&self) -> usize {
        self.width.max(self.feed_forward).max(self.heads * self.head_dim)
    }

    /// Multiplies and adds, two per weight, of one token in the matrices of all layers.
    pub(crate) fn ops_per_token(&self) -> u64 {
        let queries = self.heads * self.head_dim;
        let keys = self.kv_heads * self.head_dim;
        let attention = self.width * (2 * queries + 2 * keys);
        let (used, shared) =
            self.experts.map_or((1, 0), |experts| (experts.used, experts.shared.unwrap_or(0)));
        let matrices = if self.has(Part::Ungated) { 2 } else { 3 };
        let feed_forward = matrices * self.width * (self.feed_forward * used + shared);
        2 * (self.layers * (attention + feed_forward)) as u64
    }
}

/// The names of the architectures that can be run.
pub fn architectures() -> Vec<&'static str> {
    KNOWN.iter().map(|known| known.name).collect()
}

impl Architecture {
    /// Reads the hyperparameters of `gguf`.
    pub(crate) fn of(gguf: &Gguf) -> Result<Self, ArchitectureError> {
        let key = "general.architecture";
        let found = gguf
            .text(key)
            .and_then(|name| required(key, name))
            .map_err(ArchitectureError::Metadata)?;
        let traits = KNOWN.iter().find(|known| known.name == found).ok_or_else(|| {
            ArchitectureError::Unknown { found: found.to_owned(), known: architectures() }
        })?;
        let reader = Reader { gguf, prefix: traits.name };
        let layers = reader.count("block_count", LAYERS_MAX)?;
        let width = reader.count("embedding_length", WIDTH_MAX)?;
        let heads = reader.count("attention.head_count", WIDTH_MAX)?;
        let kv_heads =
            reader.optional_count("attention.head_count_kv", WIDTH_MAX)?.unwrap_or(heads);
        let head_dim = head_dim(&reader, width, heads, kv_heads)?;
        let context = reader.count("context_length", CONTEXT_MAX)?;
        let context = u32::try_from(context).unwrap_or(CONTEXT_MAX);
        let cap = |name| {
            let cap = reader.float(name)?;
            Ok(cap.filter(|_| traits.parts.contains(&Part::SoftCaps)))
        };
        let is_causal = reader.boolean("attention.causal")?.unwrap_or(!traits.reads_only);
        let norm_eps = if traits.parts.contains(&Part::SumNorms) {
            "attention.layer_norm_epsilon"
        } else {
            "attention.layer_norm_rms_epsilon"
        };
        Ok(Self {
            name: traits.name,
            parts: traits.parts,
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            feed_forward: match reader.optional_count("expert_feed_forward_length", WIDTH_MAX)? {
                Some(width) => width,
                None => reader.count("feed_forward_length", WIDTH_MAX)?,
            },
            experts: experts(&reader, traits)?,
            context,
            norm_eps: reader.number(norm_eps)?,
            generates: is_causal && !traits.reads_only,
            reach: if is_causal { Reach::Back } else { Reach::Both },
            pooling: pooling::pooling(&reader)?,
            shortens: traits.shortens,
            dense: pooling::dense(&reader, width)?,
            rope: traits.rope,
            positions: Positions::of(&reader, head_dim, traits.local_base)?,
            attention_scale: attention_scale(&reader, traits, (layers, width, heads), head_dim)?,
            attention_cap: cap("attn_logit_softcapping")?,
            logits_cap: cap("final_logit_softcapping")?,
            window: window(&reader, traits)?,
            global_every: traits.global_every,
        })
    }
}

/// The experts of each layer. Files say 0 where there are none.
fn experts(reader: &Reader<'_>, traits: &Traits) -> Result<Option<Experts>, ArchitectureError> {
    let name = "expert_count";
    let Some(count) = reader.unsigned(name)?.filter(|&count| count > 0) else { return Ok(None) };
    let Some(shares) = traits.experts else {
        reader.check(name, count, false, "this architecture has no experts")?;
        return Ok(None);
    };
    let count = reader.count(name, EXPERTS_MAX)?;
    let most = u32::try_from(count).unwrap_or(EXPERTS_MAX);
    let used = reader.count("expert_used_count", most)?;
    let shared = reader.optional_count("expert_shared_feed_forward_length", WIDTH_MAX)?;
    Ok(Some(Experts { count, used, shares, shared }))
}

/// Tokens that layers with a window attend. Files say 0 where there is none.
fn window(reader: &Reader<'_>, traits: &Traits) -> Result<Option<usize>, ArchitectureError> {
    let name = "attention.sliding_window";
    let mut window = reader.unsigned(name)?;
    if traits.global_every.is_some() {
        window = Some(required(&reader.key(name), window).map_err(ArchitectureError::Metadata)?);
    }
    Ok(window.filter(|&window| window > 0).map(|window| window as usize))
}

fn attention_scale(
    reader: &Reader<'_>,
    traits: &Traits,
    (layers, width, heads): (usize, usize, usize),
    head_dim: usize,
) -> Result<f32, ArchitectureError> {
    if let Some(scale) = reader.float("attention.scale")? {
        return Ok(scale);
    }
    let by_width = traits.scaled_by_width.is_some_and(|of| of as usize == layers);
    let per_head = if by_width { width as f64 / heads as f64 } else { head_dim as f64 };
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    let scale = (1.0 / per_head.sqrt()) as f32;
    Ok(scale)
}

fn head_dim(
    reader: &Reader<'_>,
    width: usize,
    heads: usize,
    kv_heads: usize,
) -> Result<usize, ArchitectureError> {
    let as_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    reader.check(
        "attention.head_count_kv",
        as_u32(kv_heads),
        heads.is_multiple_of(kv_heads),
        "it must divide the number of heads",
    )?;
    let head_dim = if reader.unsigned("attention.key_length")?.is_some() {
        reader.count("attention.key_length", WIDTH_MAX)?
    } else {
        let holds = width.is_multiple_of(heads);
        reader.check("attention.head_count", as_u32(heads), holds, "it must divide the width")?;
        width / heads
    };
    if let Some(value) = reader.unsigned("attention.value_length")? {
        let holds = value as usize == head_dim;
        reader.check("attention.value_length", value, holds, "it must equal the key length")?;
    }
    reader.check(
        "attention.head_count",
        as_u32(heads),
        heads.checked_mul(head_dim).is_some_and(|all| all <= WIDTH_MAX as usize),
        "the heads together must be sane",
    )?;
    Ok(head_dim)
}
