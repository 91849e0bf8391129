//! Which format each tensor of a model gets.
//!
//! The head of a model, which often is its embedding too, is never coarser than six bits: in Q4_1 it
//! alone costs the default model eight hundredths of perplexity.

use std::{fmt, str::FromStr};

use realm_kernels::format::Format;
use thiserror::Error;

use crate::gguf::{TensorInfo, writer};

/// One format for every matrix but the head, or a mix of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    Plain(Format),
    Mix(Mix),
}

/// A format with finer ones where rounding costs a model most: in the head, and in what all of a
/// layer's results go through, the values of its attention and the last product of its feed-forward.
///
/// Named and composed as other programs name and compose them, so that files compare; what those do
/// for single sizes of models beyond that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
}

/// The coarsest format of a head.
const HEAD: Format = Format::Q6K;

/// Whether a format has fewer bits than a head should.
fn is_coarse(format: Format) -> bool {
    !format.is_float() && format != Format::Q8_0
}

/// No recipe has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no format `{0}`, but {list}", list = known())]
pub struct UnknownRecipe(String);

fn known() -> String {
    Recipe::all().map(Recipe::name).collect::<Vec<_>>().join(", ")
}

/// The format of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) format: Format,
    /// What it would be if the rows were whole blocks of that.
    pub(super) instead_of: Option<Format>,
}

/// What recipes ask of a model as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    layers: usize,
    /// Whether the embedding is the head too.
    is_tied: bool,
}

/// What a tensor is in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Numbers that are added or multiplied one by one: too few to be worth rounding.
    Vector,
    /// A matrix that is small and decides much: which expert a token goes to, where it stands.
    Kept,
    Head,
    Value(usize),
    Down(usize),
    AttentionOutput,
    Other,
}

impl Mix {
    const ALL: [Self; 7] =
        [Self::Q3KS, Self::Q3KM, Self::Q3KL, Self::Q4KS, Self::Q4KM, Self::Q5KS, Self::Q5KM];

    const fn name(self) -> &'static str {
        match self {
            Self::Q3KS => "Q3_K_S",
            Self::Q3KM => "Q3_K_M",
            Self::Q3KL => "Q3_K_L",
            Self::Q4KS => "Q4_K_S",
            Self::Q4KM => "Q4_K_M",
            Self::Q5KS => "Q5_K_S",
            Self::Q5KM => "Q5_K_M",
        }
    }

    /// The number of the mix in `general.file_type`.
    const fn file_type(self) -> u32 {
        match self {
            Self::Q3KS => 11,
            Self::Q3KM => 12,
            Self::Q3KL => 13,
            Self::Q4KS => 14,
            Self::Q4KM => 15,
            Self::Q5KS => 16,
            Self::Q5KM => 17,
        }
    }

    const fn base(self) -> Format {
        match self {
            Self::Q3KS | Self::Q3KM | Self::Q3KL => Format::Q3K,
            Self::Q4KS | Self::Q4KM => Format::Q4K,
            Self::Q5KS | Self::Q5KM => Format::Q5K,
        }
    }

    fn format(self, role: Role, layers: usize) -> Format {
        let share = |parts| layers.checked_div(parts).unwrap_or(0);
        match (self, role) {
            (_, Role::Head) => HEAD,
            (Self::Q3KM, Role::Value(layer)) if layer < 2 => Format::Q5K,
            (Self::Q3KM, Role::Down(layer)) if layer < share(16) => Format::Q5K,
            (Self::Q3KM, Role::Value(_) | Role::Down(_) | Role::AttentionOutput) => Format::Q4K,
            (Self::Q3KL, Role::Value(_) | Role::Down(_) | Role::AttentionOutput) => Format::Q5K,
            (Self::Q4KS, Role::Value(layer)) if layer < 4 => Format::Q5K,
            (Self::Q4KS, Role::Down(layer)) if layer < share(8) => Format::Q5K,
            (Self::Q4KM | Self::Q5KM, Role::Value(layer) | Role::Down(layer))
                if is_finer(layer, layers) =>
            {
                Format::Q6K
            }
            _ => self.base(),
        }
    }
}

/// About half of the layers: the first and the last eighth, and every third between.
fn is_finer(layer: usize, layers: usize) -> bool {
    let first = layers.checked_div(8).unwrap_or(0);
    let last = layers.saturating_mul(7).checked_div(8).unwrap_or(0);
    match layer.checked_sub(first) {
        None => true,
        Some(beyond) => layer >= last || beyond.checked_rem(3) == Some(2),
    }
}

impl Recipe {
    /// Every recipe there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Format::WEIGHTS.map(Self::Plain).into_iter().chain(Mix::ALL.map(Self::Mix))
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain(format) => format.name(),
            Self::Mix(mix) => mix.name(),
        }
    }

    /// The number in `general.file_type`.
    pub(super) fn file_type(self) -> Option<u32> {
        match self {
            Self::Plain(format) => writer::file_type(format).and_then(|value| value.as_u32()),
            Self::Mix(mix) => Some(mix.file_type()),
        }
    }

    pub(super) fn choose(self, tensor: &TensorInfo, model: &Model) -> Choice {
        let wanted = match (self, Role::of(tensor, model)) {
            (_, Role::Vector) => Format::F32,
            (_, Role::Kept) => tensor.format,
            (Self::Plain(format), Role::Head) if is_coarse(format) => HEAD,
            (Self::Plain(format), _) => format,
            (Self::Mix(mix), role) => mix.format(role, model.layers),
        };
        let format = fitting(wanted, tensor.shape.first().copied().unwrap_or(0));
        Choice { format, instead_of: (format != wanted).then_some(wanted) }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Recipe {
    type Err = UnknownRecipe;

    /// Upper and lower case are the same.
    fn from_str(name: &str) -> Result<Self, UnknownRecipe> {
        let mut all = Self::all();
        let found = all.find(|recipe| recipe.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownRecipe(name.to_owned()))
    }
}

/// The wanted format, or the next finer one with smaller blocks where rows are no whole blocks of it.
fn fitting(wanted: Format, cols: u64) -> Format {
    let fits = |format: Format| {
        u64::try_from(format.block_len()).is_ok_and(|block| cols.is_multiple_of(block))
    };
    let small = match wanted {
        Format::Q2K | Format::Q3K => Format::Q4_0,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        Format::IQ4XS => Format::IQ4NL,
        other => other,
    };
    [wanted, small].into_iter().find(|format| fits(*format)).unwrap_or(Format::F16)
}

impl Model {
    pub(super) fn of(tensors: &[TensorInfo]) -> Self {
        let layers = tensors.iter().filter_map(|tensor| layer(&tensor.name)).max();
        Self {
            layers: layers.map_or(0, |last| last.saturating_add(1)),
            is_tied: tensors.iter().all(|tensor| tensor.name != "output.weight"),
        }
    }
}

impl Role {
    fn of(tensor: &TensorInfo, model: &Model) -> Self {
        let name = tensor.name.as_str();
        if tensor.shape.len() < 2 {
            return Self::Vector;
        }
        let part = name.strip_suffix(".weight");
        let part = part.map(|part| part.rsplit_once('.').map_or(part, |(_, part)| part));
        let layer = layer(name).unwrap_or(0);
        match part {
            None | Some("ffn_gate_inp" | "position_embd" | "token_types") => Self::Kept,
            Some(part) if part.ends_with("_norm") => Self::Kept,
            Some("output") => Self::Head,
            Some("token_embd") if model.is_tied => Self::Head,
            Some("attn_v" | "attn_qkv") => Self::Value(layer),
            Some("attn_output") => Self::AttentionOutput,
            Some(part) if part.starts_with("ffn_down") => Self::Down(layer),
            Some(_) => Self::Other,
        }
    }
}

/// The layer that a tensor belongs to.
fn layer(name: &str) -> Option<usize> {
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_found_by_its_name_and_no_two_share_one() {
        for recipe in Recipe::all() {
            assert_eq!(recipe.name().to_lowercase().parse(), Ok(recipe));
            assert!(recipe.file_type().is_some());
        }
        let unknown = "IQ1_S".parse::<Recipe>();
        assert_eq!(unknown, Err(UnknownRecipe("IQ1_S".to_owned())));
    }

    #[test]
    fn about_half_of_the_layers_are_finer() {
        let finer: Vec<usize> = (0..16).filter(|&layer| is_finer(layer, 16)).collect();
        assert_eq!(finer, [0, 1, 4, 7, 10, 13, 14, 15]);
        let finer: Vec<usize> = (0..2).filter(|&layer| is_finer(layer, 2)).collect();
        assert_eq!(finer, [1]);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_the_next_finer_format_that_they_fit() {
        let cases = [
            (Format::Q4K, 512, Format::Q4K),
            (Format::Q2K, 576, Format::Q4_0),
            (Format::Q3K, 576, Format::Q4_0),
            (Format::Q4K, 576, Format::Q5_0),
            (Format::Q5K, 576, Format::Q5_1),
            (Format::Q6K, 576, Format::Q8_0),
            (Format::IQ4XS, 576, Format::IQ4NL),
            (Format::Q8_0, 48, Format::F16),
            (Format::Q6K, 48, Format::F16),
            (Format::BF16, 3, Format::BF16),
        ];
        for (wanted, cols, format) in cases {
            assert_eq!(fitting(wanted, cols), format, "{wanted} of {cols}");
        }
    }

    #[test]
    fn a_mix_is_finer_where_it_says_so() {
        use Format::{Q3K, Q4K, Q5K, Q6K};
        let roles = [Role::Head, Role::Value(0), Role::Value(9), Role::Down(0), Role::Down(9)];
        let cases = [
            (Mix::Q3KS, [Q6K, Q3K, Q3K, Q3K, Q3K], Q3K),
            (Mix::Q3KM, [Q6K, Q5K, Q4K, Q5K, Q4K], Q4K),
            (Mix::Q3KL, [Q6K, Q5K, Q5K, Q5K, Q5K], Q5K),
            (Mix::Q4KS, [Q6K, Q5K, Q4K, Q5K, Q4K], Q4K),
            (Mix::Q4KM, [Q6K, Q6K, Q6K, Q6K, Q6K], Q4K),
            (Mix::Q5KS, [Q6K, Q5K, Q5K, Q5K, Q5K], Q5K),
            (Mix::Q5KM, [Q6K, Q6K, Q6K, Q6K, Q6K], Q5K),
        ];
        for (mix, formats, output) in cases {
            assert_eq!(roles.map(|role| mix.format(role, 32)), formats, "{mix:?}");
            assert_eq!(mix.format(Role::AttentionOutput, 32), output, "{mix:?}");
            assert_eq!(mix.format(Role::Other, 32), mix.base(), "{mix:?}");
        }
    }
}
