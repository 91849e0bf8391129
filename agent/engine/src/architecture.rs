//! What a model is made of, as data: one forward pass serves every architecture listed here.

use realm_kernels::backend::RopeStyle;
use thiserror::Error;

use crate::gguf::{Gguf, GgufError, required};

/// Architectures that can be run.
const KNOWN: &[Traits] = &[Traits { name: "llama", rope: RopeStyle::Norm }];

/// What distinguishes one architecture from the others.
struct Traits {
    name: &'static str,
    rope: RopeStyle,
}

/// Layers, tokens and widths are far below these in every published model; above them a product
/// of two may no longer fit where it is used.
const LAYERS_MAX: u32 = 1 << 10;
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
    #[error("positions are scaled by `{0}`, which is not supported")]
    RopeScaling(String),
}

/// The hyperparameters of one model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) feed_forward: usize,
    pub(crate) context: u32,
    pub(crate) rms_eps: f32,
    pub(crate) rope: RopeStyle,
    pub(crate) rope_base: f32,
    /// Dimensions of a head that positions turn.
    pub(crate) rope_dims: usize,
}

impl Architecture {
    /// Multiplies and adds, two per weight, of one token in the matrices of all layers.
    pub(crate) const fn ops_per_token(&self) -> u64 {
        let queries = self.heads * self.head_dim;
        let keys = self.kv_heads * self.head_dim;
        let attention = self.width * (2 * queries + 2 * keys);
        let feed_forward = 3 * self.width * self.feed_forward;
        2 * (self.layers * (attention + feed_forward)) as u64
    }
}

/// The names of the architectures that can be run.
pub fn architectures() -> Vec<&'static str> {
    KNOWN.iter().map(|known| known.name).collect()
}

/// Reads hyperparameters under one architecture's prefix.
struct Reader<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn unsigned(&self, name: &str) -> Result<Option<u32>, ArchitectureError> {
        self.gguf.unsigned(&self.key(name)).map_err(ArchitectureError::Metadata)
    }

    fn float(&self, name: &str) -> Result<Option<f32>, ArchitectureError> {
        let key = self.key(name);
        let value = self.gguf.float(&key).map_err(ArchitectureError::Metadata)?;
        match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(ArchitectureError::Number { key, value })
            }
            value => Ok(value),
        }
    }

    /// A number from 1 to `max` that must be there.
    fn count(&self, name: &str, max: u32) -> Result<usize, ArchitectureError> {
        let value =
            required(&self.key(name), self.unsigned(name)?).map_err(ArchitectureError::Metadata)?;
        self.check(name, value, value >= 1 && value <= max, "it must be positive and sane")?;
        Ok(value as usize)
    }

    fn check(
        &self,
        name: &str,
        value: u32,
        holds: bool,
        wanted: &'static str,
    ) -> Result<(), ArchitectureError> {
        let key = self.key(name);
        if holds { Ok(()) } else { Err(ArchitectureError::Value { key, value, wanted }) }
    }
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
        refuse_variants(&reader)?;
        let width = reader.count("embedding_length", WIDTH_MAX)?;
        let heads = reader.count("attention.head_count", WIDTH_MAX)?;
        let kv_heads = match reader.unsigned("attention.head_count_kv")? {
            None => heads,
            Some(_) => reader.count("attention.head_count_kv", WIDTH_MAX)?,
        };
        let head_dim = head_dim(&reader, width, heads, kv_heads)?;
        let rope_dims = match reader.unsigned("rope.dimension_count")? {
            None => head_dim,
            Some(dims) => {
                let holds = dims >= 2 && dims.is_multiple_of(2) && dims as usize <= head_dim;
                reader.check(
                    "rope.dimension_count",
                    dims,
                    holds,
                    "it must be even and in a head",
                )?;
                dims as usize
            }
        };
        let context = reader.count("context_length", CONTEXT_MAX)?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        Ok(Self {
            name: traits.name,
            layers: reader.count("block_count", LAYERS_MAX)?,
            width,
            heads,
            kv_heads,
            head_dim,
            feed_forward: reader.count("feed_forward_length", WIDTH_MAX)?,
            context: u32::try_from(context).unwrap_or(CONTEXT_MAX),
            rms_eps: required(&reader.key(epsilon), reader.float(epsilon)?)
                .map_err(ArchitectureError::Metadata)?,
            rope: traits.rope,
            // The base of the first model of this architecture, which did not write it down.
            rope_base: reader.float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_dims,
        })
    }

    /// Radians a position turns each pair of a head.
    pub(crate) fn rope_frequencies(&self) -> Vec<f32> {
        let dims = self.rope_dims as f64;
        (0..self.rope_dims / 2)
            .map(|pair| {
                let exponent = -2.0 * pair as f64 / dims;
                #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
                let frequency = f64::from(self.rope_base).powf(exponent) as f32;
                frequency
            })
            .collect()
    }
}

/// Refuses what other models of the same architecture name do differently.
fn refuse_variants(reader: &Reader<'_>) -> Result<(), ArchitectureError> {
    if let Some(experts) = reader.unsigned("expert_count")? {
        reader.check(
            "expert_count",
            experts,
            experts == 0,
            "mixtures of experts do not run yet",
        )?;
    }
    let scaling =
        reader.gguf.text(&reader.key("rope.scaling.type")).map_err(ArchitectureError::Metadata)?;
    match scaling {
        None => refuse_factor(reader, "rope.scaling.factor")?,
        Some("none") => {}
        Some(scaling) => return Err(ArchitectureError::RopeScaling(scaling.to_owned())),
    }
    refuse_factor(reader, "rope.scale_linear")
}

/// Refuses a factor that scales positions without a type beside it, as older files have it.
fn refuse_factor(reader: &Reader<'_>, name: &str) -> Result<(), ArchitectureError> {
    match reader.float(name)? {
        Some(factor) if (factor - 1.0).abs() > 0.0 => {
            Err(ArchitectureError::RopeScaling(format!("{} = {factor}", reader.key(name))))
        }
        _ => Ok(()),
    }
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
