//! Which finished prefix a sequence can go on from.
//!
//! Layers that attend everything need all of its blocks, layers with a window those of the last
//! window, whatever became of those before.

use std::ops::Range;

use super::{BlockPool, ChainHash, Owner};

impl BlockPool {
    /// Blocks at the beginning of `tokens` that [`BlockPool::open`] would find now. `chain` keeps
    /// their hashes, so that a second look computes none of them again.
    ///
    /// The last token is always left to compute: its logits are what the prompt is for.
    pub(crate) fn cached_blocks(
        &self,
        owner: &Owner,
        tokens: &[u32],
        chain: &mut Vec<ChainHash>,
    ) -> usize {
        let block_tokens = self.layout.block_tokens;
        let reusable = tokens.len().saturating_sub(1) / block_tokens;
        let mut there = 0;
        for (at, full) in tokens.chunks_exact(block_tokens).take(reusable).enumerate() {
            if chain.len() == at {
                chain.push(self.namespace.link(owner, (at, chain.last().copied()), full));
            }
            if !self.has(chain.get(at), 0..self.layout.whole) {
                break;
            }
            there = at + 1;
        }
        self.with_its_window(chain.get(..there).unwrap_or_default())
    }

    /// How many blocks of a prefix, which is there in layers that attend everything, can be gone on
    /// from: the most whose last window is there in the others.
    fn with_its_window(&self, chain: &[ChainHash]) -> usize {
        let layout = &self.layout;
        if layout.windowed == 0 {
            return chain.len();
        }
        let mut len = chain.len();
        // From which block on all of them up to `len` are there.
        let mut from = len;
        // Even where a window is so short that nothing of it is needed, its last block is asked for:
        // what nobody has computed is not called cached.
        while from > layout.gone(len * layout.block_tokens).min(len.saturating_sub(1)) {
            from -= 1;
            if !self.has(chain.get(from), layout.whole..layout.bands()) {
                len = from;
            }
        }
        len
    }

    /// Whether the block of that hash is there in each of `bands`.
    fn has(&self, hash: Option<&ChainHash>, mut bands: Range<usize>) -> bool {
        hash.is_some_and(|hash| bands.all(|band| self.cached.contains_key(&(*hash, band))))
    }
}
