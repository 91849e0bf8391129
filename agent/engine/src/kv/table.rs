//! The blocks of one sequence.

use super::{BlockId, ChainHash, Layout, Owner};

/// The blocks of one sequence, in order. Made by [`super::BlockPool::open`] and ended by
/// [`super::BlockPool::release`], which alone give and take blocks.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlockTable {
    pub(super) owner: Owner,
    pub(super) bands: Vec<Band>,
    /// How many blocks of tokens, from the first on, are full and hashed in every band.
    pub(super) sealed: usize,
    /// The hash of the last sealed block; `None` where none is.
    pub(super) tip: Option<ChainHash>,
}

/// The blocks that hold a sequence's tokens in one band of layers.
#[derive(Debug, Default)]
pub(super) struct Band {
    /// One for each block of tokens. Those given back are still named here, and somebody else's.
    pub(super) blocks: Vec<BlockId>,
    /// How many of `blocks`, from the first on, have been given back.
    pub(super) gone: usize,
}

impl BlockTable {
    /// Of each band, a block for each block of tokens. Those that no token to come can see may be
    /// anybody's.
    pub(crate) fn bands(&self) -> impl Iterator<Item = &[BlockId]> {
        self.bands.iter().map(|band| band.blocks.as_slice())
    }

    /// Tokens at the beginning of the sequence that are there and can be found again: of a table that
    /// has just been opened, those that were cached.
    pub(crate) const fn sealed_tokens(&self, layout: &Layout) -> usize {
        self.sealed * layout.block_tokens
    }

    /// Makes room in the table, not in the pool, for so many blocks of tokens in all: a sequence that
    /// grows then allocates nothing.
    pub(crate) fn expect_blocks(&mut self, blocks: usize) {
        for Band { blocks: own, .. } in &mut self.bands {
            own.reserve_exact(blocks.saturating_sub(own.len()));
        }
    }

    /// Blocks that there is room for in the table.
    pub(crate) fn room(&self) -> usize {
        self.bands.iter().map(|band| band.blocks.capacity()).sum()
    }

    /// How many blocks the sequence holds.
    pub(crate) fn held_count(&self) -> u64 {
        self.bands.iter().map(|band| (band.blocks.len() - band.gone) as u64).sum()
    }

    /// How many blocks of a band have been given back.
    #[cfg(test)]
    pub(crate) fn gone(&self, band: usize) -> usize {
        self.bands[band].gone
    }

    /// Blocks of tokens that every band has one for.
    pub(super) fn len(&self) -> usize {
        self.bands.iter().map(|band| band.blocks.len()).min().unwrap_or(0)
    }

    /// As [`held_backwards`].
    pub(super) fn held_backwards(&self) -> impl Iterator<Item = (usize, BlockId)> {
        held_backwards(&self.bands)
    }
}

/// The blocks that a sequence holds, each with which of its blocks of tokens it is, from the last of
/// these to the first.
pub(super) fn held_backwards(bands: &[Band]) -> impl Iterator<Item = (usize, BlockId)> {
    let len = bands.iter().map(|band| band.blocks.len()).max().unwrap_or(0);
    let at = |at: usize| {
        let held = bands.iter().filter(move |band| band.gone <= at);
        held.filter_map(move |band| Some((at, *band.blocks.get(at)?)))
    };
    (0..len).rev().flat_map(at)
}
