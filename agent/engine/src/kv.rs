//! The blocks of the KV cache: who holds which, and which finished prefixes can be used again.
//!
//! A full block is known by the hash of everything before and in it. The chain of hashes starts at
//! a secret mixed with the tenant's name, so a tenant finds its own prefixes and no one else's,
//! and nothing in a request changes where its chain starts.
//!
//! A sequence of a tenant in a share group may begin with tokens that are public there. Their full
//! blocks are found in the group's chain ([`owner`]), and everything behind them in the tenant's
//! own. A block that several members use is held by each of them, and its time is divided among
//! them ([`holdings`]); one that nobody uses is kept by whoever used it last.
//!
//! A tenant may want a prefix kept ([`pins`]): of its own finished ones, that goes last, and it pays
//! for that.
//!
//! Where every layer attends a window, a sequence gives back the blocks that no token to come can
//! see. What they were stays findable while there is room; a prefix is used again where the blocks
//! of its own window are all there, whatever became of those before.

mod chain;
mod holdings;
mod owner;
mod pins;
mod window;

use std::collections::HashMap;

use realm_core::name::TenantName;

pub use self::chain::Secret;
pub(crate) use self::{
    chain::{ChainHash, Namespace},
    holdings::HeldTimes,
    owner::{Owner, Public},
    pins::Pin,
    window::Layout,
};
use self::{
    holdings::Holdings,
    owner::User,
    pins::{Pins, Turn},
};

/// A block's number in the pool.
pub(crate) type BlockId = u32;

/// Why no block could be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// The tenant's own running sequences hold all that its quota allows.
    Quota,
    /// Running sequences hold every block there is.
    Exhausted,
}

/// The blocks of one sequence, in order. Made by [`BlockPool::open`] and ended by
/// [`BlockPool::release`], which alone give and take blocks.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlockTable {
    owner: Owner,
    /// One for each block of tokens. Those given back are still named here, and somebody else's.
    blocks: Vec<BlockId>,
    /// How many of `blocks`, from the first on, have been given back.
    gone: usize,
    /// How many of `blocks`, from the first on, are full and hashed.
    sealed: usize,
    /// The hash of the last sealed block; `None` where none is.
    tip: Option<ChainHash>,
}

impl BlockTable {
    /// A block for each block of tokens. Those that no token to come can see may be anybody's.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Makes room in the table, not in the pool, for so many blocks in all: a sequence that grows then
    /// allocates nothing.
    pub(crate) fn expect_blocks(&mut self, blocks: usize) {
        self.blocks.reserve_exact(blocks.saturating_sub(self.blocks.len()));
    }

    /// Blocks that there is room for in the table.
    pub(crate) const fn room(&self) -> usize {
        self.blocks.capacity()
    }

    /// How many blocks the sequence holds.
    pub(crate) const fn held_count(&self) -> u64 {
        (self.blocks.len() - self.gone) as u64
    }

    /// The blocks that the sequence holds.
    #[cfg(test)]
    pub(crate) fn held(&self) -> &[BlockId] {
        &self.blocks[self.gone..]
    }
}

#[derive(Debug, Default)]
struct Block {
    /// Sequences that use the block.
    refs: u32,
    /// Of a block that is public in a group, how many are whose.
    members: Vec<(TenantName, u32)>,
    /// Under which hash the block can be found, while it can.
    hash: Option<ChainHash>,
    /// Who keeps it and when it has its turn to go, while no one uses it and it is cached.
    idle: Option<(TenantName, Turn)>,
}

impl Block {
    /// Takes note of one more sequence that uses it; whether it is the first of its tenant.
    fn enter(&mut self, user: User<'_>) -> bool {
        self.refs += 1;
        if user.group.is_none() {
            return self.refs == 1;
        }
        if let Some((_, own)) = self.members.iter_mut().find(|(name, _)| name == user.tenant) {
            *own += 1;
            return false;
        }
        self.members.push((user.tenant.clone(), 1));
        true
    }

    /// Takes note of one sequence less; whether it was the last of its tenant.
    fn leave(&mut self, user: User<'_>) -> bool {
        self.refs -= 1;
        if user.group.is_none() {
            return self.refs == 0;
        }
        let at = self.members.iter().position(|(name, _)| name == user.tenant);
        let at = at.expect("who leaves a block has entered it");
        self.members[at].1 -= 1;
        let is_last = self.members[at].1 == 0;
        if is_last {
            self.members.swap_remove(at);
        }
        is_last
    }

    /// Sequences of the tenant that use it.
    fn refs_of(&self, user: User<'_>) -> u32 {
        if user.group.is_none() {
            return self.refs;
        }
        self.members.iter().find(|(name, _)| name == user.tenant).map_or(0, |(_, own)| *own)
    }
}

/// Every block of the cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    layout: Layout,
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    cached: HashMap<ChainHash, BlockId>,
    holdings: Holdings,
    pins: Pins,
    namespace: Namespace,
    /// Counts releases; the least recently used is the one with the smallest count.
    clock: u64,
}

impl BlockPool {
    pub(crate) fn new(blocks: u32, layout: Layout, namespace: Namespace) -> Self {
        Self {
            layout,
            blocks: (0..blocks).map(|_| Block::default()).collect(),
            free: (0..blocks).rev().collect(),
            // A block is found under one hash at most.
            cached: HashMap::with_capacity(blocks as usize),
            holdings: Holdings::default(),
            pins: Pins::default(),
            namespace,
            clock: 0,
        }
    }

    pub(crate) const fn total(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn idle(&self) -> usize {
        self.holdings.idle()
    }

    pub(crate) fn used(&self) -> usize {
        self.total() - self.free.len() - self.idle()
    }

    /// Blocks that somebody pays for: those in use, and those that whoever keeps them wants.
    pub(crate) fn paid(&self) -> usize {
        self.used() + self.holdings.wanted()
    }

    /// Blocks that could be claimed now, by a tenant with the quota for them.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle()
    }

    /// Blocks that the tenant's running sequences hold, those whole that others hold as well.
    pub(crate) fn used_by(&self, tenant: &TenantName) -> usize {
        self.holdings.of(tenant).used
    }

    /// Blocks that hold finished prefixes and are kept by the tenant.
    pub(crate) fn idle_of(&self, tenant: &TenantName) -> usize {
        self.holdings.of(tenant).idle
    }

    /// Writes into `times` how long each tenant held blocks in a time of `ns` nanoseconds, counted
    /// for each block: all together so long as there are blocks that somebody pays for.
    pub(crate) fn held_in(&self, ns: u64, times: &mut HeldTimes) {
        self.holdings.held_in(ns, times);
    }

    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens a table for `tokens`, with the longest prefix that the tenant's own cache and its
    /// group's hold.
    ///
    /// The last token is always left to compute: its logits are what the prompt is for.
    pub(crate) fn open(&mut self, owner: &Owner, tokens: &[u32]) -> BlockTable {
        let (blocks, tip) = self.longest_prefix(owner, tokens);
        let sealed = blocks.len();
        let gone = self.layout.gone(sealed * self.layout.block_tokens);
        for (at, &block) in blocks.iter().enumerate().skip(gone) {
            self.hold(owner.of_block(at, self.layout.block_tokens), block);
        }
        BlockTable { owner: owner.clone(), blocks, gone, sealed, tip }
    }

    /// The blocks of the longest prefix that can be gone on from, and its hash. Those that its window
    /// hides may be any.
    fn longest_prefix(&self, owner: &Owner, tokens: &[u32]) -> (Vec<BlockId>, Option<ChainHash>) {
        let block_tokens = self.layout.block_tokens;
        let (mut tip, mut found_tip) = (None, None);
        let mut found = 0;
        let mut blocks = Vec::new();
        // From which block on all are there.
        let mut whole_from = 0;
        let reusable = tokens.len().saturating_sub(1) / block_tokens;
        for full in tokens.chunks_exact(block_tokens).take(reusable) {
            let hash = self.namespace.link(owner, (blocks.len(), tip), full);
            tip = Some(hash);
            let cached = self.cached.get(&hash).copied();
            blocks.push(cached.unwrap_or_default());
            let len = blocks.len();
            if cached.is_none() {
                if !self.layout.is_windowed() {
                    break;
                }
                whole_from = len;
            } else if whole_from <= self.layout.gone(len * block_tokens) {
                (found, found_tip) = (len, tip);
            }
        }
        blocks.truncate(found);
        (blocks, found_tip)
    }

    /// Blocks at the beginning of `tokens` that [`BlockPool::open`] would find now. `chain` keeps
    /// their hashes, so that a second look computes none of them again.
    pub(crate) fn cached_blocks(
        &self,
        owner: &Owner,
        tokens: &[u32],
        chain: &mut Vec<ChainHash>,
    ) -> usize {
        let block_tokens = self.layout.block_tokens;
        let reusable = tokens.len().saturating_sub(1) / block_tokens;
        let (mut found, mut whole_from) = (0, 0);
        for (at, full) in tokens.chunks_exact(block_tokens).take(reusable).enumerate() {
            if chain.len() == at {
                chain.push(self.namespace.link(owner, (at, chain.last().copied()), full));
            }
            let len = at + 1;
            if chain.get(at).is_some_and(|hash| self.cached.contains_key(hash)) {
                if whole_from <= self.layout.gone(len * block_tokens) {
                    found = len;
                }
            } else if self.layout.is_windowed() {
                whole_from = len;
            } else {
                break;
            }
        }
        found
    }

    /// What would become of the blocks of `table` if it were released: how many nobody would use
    /// any more, and how many its tenant would not.
    pub(crate) fn given_by(&self, table: &BlockTable) -> Given {
        let mut given = Given::default();
        for (at, &id) in table.blocks.iter().enumerate().skip(table.gone) {
            let Some(block) = self.blocks.get(id as usize) else { continue };
            let user = table.owner.of_block(at, self.layout.block_tokens);
            given.freed += usize::from(block.refs == 1);
            given.lost += usize::from(block.refs_of(user) == 1);
        }
        given
    }

    /// Takes a cached block into use.
    fn hold(&mut self, user: User<'_>, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if let Some((keeper, turn)) = block.idle.take() {
            self.holdings.take_idle(&keeper, turn);
        }
        self.enter(user, id);
    }

    fn enter(&mut self, user: User<'_>, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        let (is_first, is_first_of_tenant) = (block.refs == 0, block.enter(user));
        if is_first_of_tenant {
            self.holdings.enter(user, is_first);
        }
    }

    /// Makes room for `tokens` tokens in all, within the tenant's quota of blocks.
    pub(crate) fn grow(
        &mut self,
        table: &mut BlockTable,
        tokens: usize,
        quota: usize,
    ) -> Result<(), NoBlock> {
        while table.blocks.len() < self.layout.blocks_for(tokens) {
            let user = table.owner.of_block(table.blocks.len(), self.layout.block_tokens);
            let block = self.claim(user, quota)?;
            table.blocks.push(block);
        }
        Ok(())
    }

    fn claim(&mut self, user: User<'_>, quota: usize) -> Result<BlockId, NoBlock> {
        // More than once where the quota has been lowered since the tenant filled it, and where
        // others kept what its group has lent it.
        while self.holdings.of(user.tenant).all() >= quota {
            if !self.evict(user.tenant) {
                return Err(NoBlock::Quota);
            }
        }
        if self.free.is_empty() {
            // Whoever holds the most gives way, so that one tenant cannot flush another's prefixes
            // by filling the cache with its own.
            let fullest = self.holdings.fullest_with_idle();
            if !fullest.is_some_and(|fullest| self.evict(&fullest)) {
                return Err(NoBlock::Exhausted);
            }
        }
        let id = self.free.pop().ok_or(NoBlock::Exhausted)?;
        self.enter(user, id);
        Ok(id)
    }

    /// Frees the least recently used prefix block that the tenant keeps; `false` if it has none.
    fn evict(&mut self, tenant: &TenantName) -> bool {
        let Some(id) = self.holdings.oldest_idle(tenant) else { return false };
        let block = &mut self.blocks[id as usize];
        block.idle = None;
        if let Some(hash) = block.hash.take() {
            self.cached.remove(&hash);
        }
        self.free.push(id);
        true
    }

    /// Makes the blocks that the first `computed` of `tokens` fill findable.
    pub(crate) fn seal(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        let block_tokens = self.layout.block_tokens;
        let full = (computed / block_tokens).min(table.blocks.len());
        for at in table.sealed..full {
            let start = at * block_tokens;
            let full = &tokens[start..start + block_tokens];
            let tip = self.namespace.link(&table.owner, (at, table.tip), full);
            table.tip = Some(tip);
            let id = table.blocks[at];
            // Another sequence may have computed the same prefix first; its block is found, and
            // this one is simply freed in the end.
            if let std::collections::hash_map::Entry::Vacant(entry) = self.cached.entry(tip) {
                entry.insert(id);
                self.blocks[id as usize].hash = Some(tip);
            }
        }
        table.sealed = table.sealed.max(full);
    }

    /// Takes those of a sequence's blocks back that no token behind the first `computed` can see.
    pub(crate) fn slide(&mut self, table: &mut BlockTable, computed: usize) {
        let gone = self.layout.gone(computed).min(table.sealed);
        for at in table.gone..gone {
            let user = table.owner.of_block(at, self.layout.block_tokens);
            self.let_go(user, table.blocks[at]);
        }
        table.gone = table.gone.max(gone);
    }

    /// Takes a sequence's blocks back: findable ones stay cached and are kept by their tenant,
    /// others are free.
    pub(crate) fn release(&mut self, table: BlockTable) {
        let BlockTable { owner, blocks, gone, sealed: _, tip: _ } = table;
        // From the end, so that a prefix outlives what continues it.
        for (at, &id) in blocks.iter().enumerate().skip(gone).rev() {
            self.let_go(owner.of_block(at, self.layout.block_tokens), id);
        }
        self.holdings.prune(&owner.tenant);
    }

    /// Takes a block from one of the sequences that use it.
    fn let_go(&mut self, user: User<'_>, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        let is_last_of_tenant = block.leave(user);
        let is_last = block.refs == 0;
        if is_last_of_tenant {
            self.holdings.leave(user, is_last);
        }
        if !is_last {
            return;
        }
        if let Some(hash) = block.hash {
            self.clock += 1;
            let turn = self.pins.turn(user.tenant, hash, self.clock);
            block.idle = Some((user.tenant.clone(), turn));
            self.holdings.put_idle(user.tenant, turn, id);
        } else {
            self.free.push(id);
        }
    }
}

/// What becomes of a sequence's blocks when it gives way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Blocks that nobody uses any more.
    pub(crate) freed: usize,
    /// Blocks that its tenant does not use any more.
    pub(crate) lost: usize,
}

#[cfg(test)]
mod tests;
