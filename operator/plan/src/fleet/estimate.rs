//! What a model will take of a node's memory.

use std::fmt;

use crate::validate::ValidModel;

/// Tokens of one block of KV cache, as the engine has them and `spec.kvBlocks` counts them.
const BLOCK_TOKENS: u32 = 32;

/// Whole contexts that a model gets KV cache for where its spec says nothing and there is room.
const CONTEXTS_MAX: u32 = 4;

/// What a loaded model takes of a node's memory, by the header of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub weights_bytes: u64,
    pub kv_bytes_per_block: u64,
    /// What a step of a full batch computes in.
    pub activation_bytes: u64,
    /// Tokens of context the model was trained for.
    pub context: u32,
    /// What of its blocks one sequence holds at most, where layers attend a window.
    pub kv_blocks_per_sequence: Option<SequenceBlocks>,
}

/// What a sequence holds of its KV blocks where it gives back those that lie behind windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceBlocks {
    /// Equal parts of a block: one for each band of layers.
    pub bands: u32,
    /// Of these parts, those of layers that attend everything: a sequence holds all its own.
    pub whole: u32,
    /// Of each other part, as many as it holds at most, however long it is.
    pub windowed_max: u32,
}

impl SequenceBlocks {
    /// The most blocks that a sequence of `all` blocks holds, the last of them perhaps in part.
    fn held_of(&self, all: u32) -> u32 {
        let Self { bands, whole, windowed_max } = *self;
        let windowed = u64::from(bands.saturating_sub(whole)) * u64::from(all.min(windowed_max));
        let parts = windowed.saturating_add(u64::from(whole) * u64::from(all));
        let blocks = parts.div_ceil(u64::from(bands.max(1)));
        u32::try_from(blocks).unwrap_or(u32::MAX).clamp(1, all.max(1))
    }
}

impl Estimate {
    /// Bytes of the model with so many blocks of KV cache.
    pub fn bytes(&self, kv_blocks: u32) -> u64 {
        let kv = self.kv_bytes_per_block.saturating_mul(u64::from(kv_blocks));
        self.weights_bytes.saturating_add(kv).saturating_add(self.activation_bytes)
    }

    /// The fewest blocks that `model` can be loaded with: those it asks for, else those of one
    /// context.
    pub(super) fn kv_blocks_min(&self, model: &ValidModel) -> u32 {
        model.kv_blocks.unwrap_or_else(|| self.context_blocks(model))
    }

    /// The blocks that `model` gets where so many bytes are free, and none if it does not fit.
    pub(super) fn kv_blocks_within(&self, model: &ValidModel, free: u64) -> Option<u32> {
        let fits = |blocks: &u32| self.bytes(*blocks) <= free;
        if model.kv_blocks.is_some() {
            return model.kv_blocks.filter(fits);
        }
        let context = self.context_blocks(model);
        (1..=CONTEXTS_MAX).rev().map(|contexts| context.saturating_mul(contexts)).find(fits)
    }

    fn context_blocks(&self, model: &ValidModel) -> u32 {
        let all = model.context.unwrap_or(self.context).div_ceil(BLOCK_TOKENS).max(1);
        self.kv_blocks_per_sequence.map_or(all, |held| held.held_of(all))
    }

    /// The parts of what `kv_blocks` blocks take, for people.
    pub(super) fn explain(&self, kv_blocks: u32) -> String {
        let kv = match self.kv_bytes_per_block.saturating_mul(u64::from(kv_blocks)) {
            // It reads texts, and keeps nothing of them.
            0 => String::new(),
            kv => format!(", {} for {kv_blocks} KV blocks", Bytes(kv)),
        };
        format!(
            "{} ({} of weights{kv}, {} to compute in)",
            Bytes(self.bytes(kv_blocks)),
            Bytes(self.weights_bytes),
            Bytes(self.activation_bytes)
        )
    }
}

/// A number of bytes for people: in MiB, rounded up, so that what is needed never looks smaller
/// than what is free.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(kv_bytes_per_block: u64) -> String {
        let (weights_bytes, activation_bytes) = (8 << 20, 1 << 20);
        let (context, kv_blocks_per_sequence) = (64, None);
        Estimate {
            weights_bytes,
            kv_bytes_per_block,
            activation_bytes,
            context,
            kv_blocks_per_sequence,
        }
        .explain(2)
    }

    #[test]
    fn a_sequence_holds_all_its_blocks_of_some_layers_and_a_windows_of_the_others() {
        let held = |bands, whole, windowed_max| {
            let held = SequenceBlocks { bands, whole, windowed_max };
            [1, 24, 25, 256, 1024].map(|all| held.held_of(all))
        };
        assert_eq!(held(1, 0, 25), [1, 24, 25, 25, 25]);
        // Gemma 3 of 270 million parameters: (256 + 5 * 25) / 6 and (1024 + 5 * 25) / 6.
        assert_eq!(held(6, 1, 25), [1, 24, 25, 64, 192]);
        assert_eq!(held(6, 6, 25), [1, 24, 25, 256, 1024]);
        assert_eq!(held(0, 0, 0), [1; 5]);
        assert_eq!(held(u32::MAX, 1, u32::MAX), [1, 24, 25, 256, 1024]);
    }

    #[test]
    fn a_model_without_a_cache_is_explained_without_one() {
        let with = "11 MiB (8 MiB of weights, 2 MiB for 2 KV blocks, 1 MiB to compute in)";
        assert_eq!(explained(1 << 20), with);
        assert_eq!(explained(0), "9 MiB (8 MiB of weights, 1 MiB to compute in)");
    }
}
