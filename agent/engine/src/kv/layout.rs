//! How a sequence's tokens lie in blocks, and which of them a window hides for good.

/// Tokens in blocks, of which one holds some tokens in one band of layers.
///
/// Most models have layers of one kind and so one band. Where some attend a window and others all,
/// each kind has bands of its own: the same tokens lie in a block of each band, and a sequence gives
/// back those of bands with windows. Whoever looks at the cache from outside counts blocks of all
/// layers, each as large as one in every band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) block_tokens: usize,
    /// Bands of layers that attend everything. They come first.
    pub(crate) whole: usize,
    /// Bands of layers that attend a window.
    pub(crate) windowed: usize,
    /// Tokens that each row attends there, itself among them, in the layer that attends most.
    pub(crate) window: usize,
}

impl Layout {
    /// Of a model whose layers all attend the window, if there is one.
    pub(crate) const fn of_one_kind(block_tokens: usize, window: Option<usize>) -> Self {
        match window {
            None => Self { block_tokens, whole: 1, windowed: 0, window: 0 },
            Some(window) => Self { block_tokens, whole: 0, windowed: 1, window },
        }
    }

    /// How many blocks hold the same tokens.
    pub(crate) const fn bands(&self) -> usize {
        self.whole + self.windowed
    }

    /// Blocks of one band that are `blocks` of all layers.
    pub(crate) const fn in_bands(&self, blocks: usize) -> usize {
        blocks.saturating_mul(self.bands())
    }

    /// Blocks of all layers that hold as much as `blocks` of one band, the last of them perhaps in
    /// part.
    pub(crate) const fn in_all_layers(&self, blocks: usize) -> usize {
        blocks.div_ceil(self.bands())
    }

    /// The same of whole blocks only: with what is rounded up these are never more than there are.
    pub(crate) const fn whole_blocks(&self, blocks: usize) -> usize {
        blocks / self.bands()
    }

    /// Blocks that `tokens` tokens lie in, in each band.
    pub(crate) const fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Blocks, from a sequence's first on, that no token behind the first `computed` can see in
    /// layers with a window.
    pub(crate) const fn gone(&self, computed: usize) -> usize {
        if self.windowed == 0 {
            return 0;
        }
        (computed + 1).saturating_sub(self.window) / self.block_tokens
    }

    /// The same in one band.
    pub(crate) const fn gone_in(&self, band: usize, computed: usize) -> usize {
        if band < self.whole { 0 } else { self.gone(computed) }
    }

    /// The most blocks that a sequence holds in a band with a window, where no step computes more
    /// than `rows` of its tokens.
    pub(crate) const fn seen_max(&self, rows: usize) -> usize {
        // What the first row of a step sees before itself begins within a block.
        self.blocks_for(self.window.saturating_add(rows)).saturating_add(1)
    }

    /// The most blocks that a sequence of `tokens` tokens holds at once in all bands, of which no
    /// step computes more than `rows`.
    pub(crate) fn held_max(&self, tokens: usize, rows: usize) -> usize {
        let all = self.blocks_for(tokens);
        let seen = all.min(self.seen_max(rows));
        self.whole.saturating_mul(all).saturating_add(self.windowed.saturating_mul(seen))
    }

    /// The most tokens of a sequence that never holds more than `blocks` blocks in all bands.
    pub(crate) fn tokens_max(&self, blocks: usize, rows: usize) -> usize {
        let seen = self.seen_max(rows);
        let before_windows_end = blocks / self.bands();
        let in_each = if before_windows_end < seen || self.windowed == 0 {
            before_windows_end
        } else {
            // From there on only the bands without a window grow.
            let left = blocks - self.windowed * seen;
            left.checked_div(self.whole).unwrap_or(usize::MAX)
        };
        in_each.saturating_mul(self.block_tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_many_tokens_as_blocks_hold_and_none_more(
            (whole, windowed, window) in (0..4_usize, 0..5_usize, 1..40_usize),
            (blocks, rows) in (0..200_usize, 1..40_usize),
        ) {
            prop_assume!(whole + windowed > 0);
            let layout = Layout { block_tokens: 4, whole, windowed, window };
            let tokens = layout.tokens_max(blocks, rows);
            prop_assert!(layout.held_max(tokens, rows) <= blocks);
            let kept = layout.tokens_max(blocks, 0);
            if (1..usize::MAX).contains(&kept) {
                prop_assert!(layout.kept_blocks(kept, 0) <= blocks);
            }
            if tokens < usize::MAX {
                prop_assert!(layout.held_max(tokens + 1, rows) > blocks);
            }
        }
    }
}
