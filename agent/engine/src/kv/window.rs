//! How a sequence's tokens lie in blocks, and which of them a window hides for good.

/// Tokens in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) block_tokens: usize,
    /// Tokens that each row attends, itself among them, where no layer attends more.
    pub(crate) window: Option<usize>,
}

impl Layout {
    pub(crate) const fn is_windowed(&self) -> bool {
        self.window.is_some()
    }

    /// Blocks that `tokens` tokens lie in.
    pub(crate) const fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Blocks, from a sequence's first on, that no token behind the first `computed` can see.
    pub(crate) fn gone(&self, computed: usize) -> usize {
        let hidden = self.window.map_or(0, |window| (computed + 1).saturating_sub(window));
        hidden / self.block_tokens
    }

    /// The most blocks that a sequence of `tokens` tokens holds at once, of which no step computes
    /// more than `rows`.
    pub(crate) fn held_max(&self, tokens: usize, rows: usize) -> usize {
        let all = self.blocks_for(tokens);
        // What the first row of a step sees before itself begins within a block.
        let seen = |window: usize| self.blocks_for(window.saturating_add(rows)).saturating_add(1);
        self.window.map_or(all, |window| all.min(seen(window)))
    }

    /// The most tokens of a sequence that never holds more than `blocks` blocks.
    pub(crate) fn tokens_max(&self, blocks: usize, rows: usize) -> usize {
        if blocks >= self.held_max(usize::MAX, rows) {
            return usize::MAX;
        }
        blocks.saturating_mul(self.block_tokens)
    }
}
