//! How positions turn queries and keys: the frequencies, and how a model that was trained for short
//! texts is stretched to long ones.

use std::f64::consts::PI;

use super::{ArchitectureError, WIDTH_MAX, reader::Reader};

/// Values of `rope.scaling.type` that are known. Llama 3's way is no type of its own: its files
/// hold a factor for each frequency.
const SCALINGS: &[&str] = &["none", "linear", "yarn", "longrope"];

/// The base of the first model of this kind, which did not write it down.
const BASE_DEFAULT: f32 = 10_000.0;

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Positions {
    base: f32,
    /// The base in layers that attend a window, where it is another.
    local_base: Option<f32>,
    /// Dimensions of a head that positions turn.
    dims: usize,
    scaling: Scaling,
    /// What turned pairs are multiplied with.
    pub(crate) magnitude: f32,
    /// Tokens of context before the model was stretched.
    pub(crate) original_context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    None,
    /// Positions are closer to each other.
    Linear {
        factor: f64,
    },
    /// Low frequencies are slowed down, high ones are not, those between in part.
    Yarn {
        factor: f64,
        original: f64,
        fast: f64,
        slow: f64,
    },
}

impl Positions {
    pub(super) fn of(
        reader: &Reader<'_>,
        head_dim: usize,
        local_base: Option<f32>,
    ) -> Result<Self, ArchitectureError> {
        let scaling = scaling(reader)?;
        let stretch = match scaling {
            Scaling::Yarn { factor, .. } => 1.0 + 0.1 * factor.ln(),
            Scaling::None | Scaling::Linear { .. } => 1.0,
        };
        let own = match reader.float("rope.scaling.yarn_attn_factor")? {
            None => reader.float("rope.scaling.attn_factor")?,
            own => own,
        };
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        let magnitude = (stretch * f64::from(own.unwrap_or(1.0))) as f32;
        let local_base = match (local_base, reader.float("rope.freq_base_swa")?) {
            (Some(_), Some(base)) => Some(base),
            (base, _) => base,
        };
        Ok(Self {
            base: reader.float("rope.freq_base")?.unwrap_or(BASE_DEFAULT),
            local_base,
            dims: dims(reader, head_dim)?,
            scaling,
            magnitude,
            original_context: reader.unsigned("rope.scaling.original_context_length")?,
        })
    }

    /// Radians a position turns each pair of a head.
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        (0..self.dims / 2).map(|pair| self.scaled(pair)).collect()
    }

    /// The same in layers that attend a window, where it differs there.
    pub(crate) fn local_frequencies(&self) -> Option<Vec<f32>> {
        let base = self.local_base?;
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        let all = (0..self.dims / 2).map(|pair| self.unscaled(base, pair) as f32);
        Some(all.collect())
    }

    fn unscaled(&self, base: f32, pair: usize) -> f64 {
        f64::from(base).powf(-2.0 * pair as f64 / self.dims as f64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    fn scaled(&self, pair: usize) -> f32 {
        let frequency = self.unscaled(self.base, pair);
        (match self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Yarn { factor, original, fast, slow } => {
                // The pair whose angle makes so many turns over the original context.
                let at = |turns: f64| {
                    self.dims as f64 * (original / (turns * 2.0 * PI)).ln()
                        / (2.0 * f64::from(self.base).ln())
                };
                let last = self.dims as f64 - 1.0;
                let (low, high) = (at(fast).floor().max(0.0), at(slow).ceil().min(last));
                let slowed = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                frequency / factor * slowed + frequency * (1.0 - slowed)
            }
        }) as f32
    }
}

fn scaling(reader: &Reader<'_>) -> Result<Scaling, ArchitectureError> {
    // Older files have a factor and no type beside it.
    let factor = match reader.float("rope.scaling.factor")? {
        None => reader.float("rope.scale_linear")?,
        factor => factor,
    };
    match reader.text("rope.scaling.type")? {
        Some("none" | "longrope") => Ok(Scaling::None),
        None | Some("linear") => {
            Ok(factor.map_or(Scaling::None, |factor| Scaling::Linear { factor: factor.into() }))
        }
        Some("yarn") => {
            let name = "rope.scaling.original_context_length";
            let positive =
                |name: &str, default: f32| Ok(f64::from(reader.float(name)?.unwrap_or(default)));
            Ok(Scaling::Yarn {
                factor: reader.number("rope.scaling.factor")?.into(),
                original: reader.count(name, super::CONTEXT_MAX)? as f64,
                fast: positive("rope.scaling.yarn_beta_fast", 32.0)?,
                slow: positive("rope.scaling.yarn_beta_slow", 1.0)?,
            })
        }
        Some(found) => {
            Err(ArchitectureError::RopeScaling { found: found.to_owned(), known: SCALINGS })
        }
    }
}

fn dims(reader: &Reader<'_>, head_dim: usize) -> Result<usize, ArchitectureError> {
    let name = "rope.dimension_count";
    let dims = reader.optional_count(name, WIDTH_MAX)?.unwrap_or(head_dim);
    let holds = dims >= 2 && dims.is_multiple_of(2) && dims <= head_dim;
    let value = u32::try_from(dims).unwrap_or(u32::MAX);
    reader.check(name, value, holds, "it must be even and in a head")?;
    Ok(dims)
}
