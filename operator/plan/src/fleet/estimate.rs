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
    /// The most blocks that one sequence holds, however long it is, where it gives back those that
    /// lie behind its windows.
    pub kv_blocks_per_sequence: Option<u32>,
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
        self.kv_blocks_per_sequence.map_or(all, |most| all.min(most.max(1)))
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
    fn a_model_without_a_cache_is_explained_without_one() {
        let with = "11 MiB (8 MiB of weights, 2 MiB for 2 KV blocks, 1 MiB to compute in)";
        assert_eq!(explained(1 << 20), with);
        assert_eq!(explained(0), "9 MiB (8 MiB of weights, 1 MiB to compute in)");
    }
}
