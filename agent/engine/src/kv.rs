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
//! A block holds tokens in one band of layers ([`layout`]): where only some layers attend a window,
//! the same tokens lie in several blocks. In layers with a window a sequence gives back those that no
//! token to come can see. What they were stays findable while there is room; a prefix is used again
//! where its blocks of other layers are all there, and of these those of its own window, whatever
//! became of those before ([`prefix`]).

mod chain;
mod given;
mod holdings;
mod layout;
mod owner;
mod pins;
mod prefix;
mod table;

use std::collections::{HashMap, hash_map::Entry};

use realm_core::name::TenantName;

pub use self::chain::Secret;
pub(crate) use self::{
    chain::{ChainHash, Namespace},
    given::{Given, Leaving},
    holdings::HeldTimes,
    layout::Layout,
    owner::{Owner, Public},
    pins::Pin,
    table::BlockTable,
};
use self::{
    holdings::Holdings,
    owner::User,
    pins::{Pins, Turn},
    table::Band,
};

/// A block's number in the pool.
pub(crate) type BlockId = u32;

/// A block's hash, and the band that it is of.
type BandHash = (ChainHash, usize);

/// Why no block could be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// The tenant's own running sequences hold all that its quota allows.
    Quota,
    /// Running sequences hold every block there is.
    Exhausted,
}

#[derive(Debug, Default)]
struct Block {
    /// Sequences that use the block.
    refs: u32,
    /// Of a block that is public in a group, how many are whose.
    members: Vec<(TenantName, u32)>,
    /// Under which hash the block can be found, and in which band, while it can.
    hash: Option<BandHash>,
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
    cached: HashMap<BandHash, BlockId>,
    holdings: Holdings,
    pins: Pins,
    namespace: Namespace,
    /// Counts releases; the least recently used is the one with the smallest count.
    clock: u64,
}

impl BlockPool {
    /// A pool of so many blocks, in all bands together.
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

    /// All blocks, of one band each, as are those that any number here counts.
    pub(crate) const fn total(&self) -> usize {
        self.blocks.len()
    }

    /// As [`BlockPool::total`], in blocks of all layers.
    pub(crate) const fn in_all_layers(&self) -> usize {
        self.layout.in_all_layers(self.total())
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
    pub(crate) fn open(&mut self, owner: &Owner, tokens: &[u32]) -> BlockTable {
        let mut chain = Vec::new();
        let sealed = self.cached_blocks(owner, tokens, &mut chain);
        chain.truncate(sealed);
        let Layout { block_tokens, .. } = self.layout;
        let band = |band| {
            let gone = self.layout.gone_in(band, sealed * block_tokens);
            let id = |hash: &ChainHash| self.cached.get(&(*hash, band)).copied();
            // Those that a window hides may be any.
            Band { blocks: chain.iter().map(|hash| id(hash).unwrap_or_default()).collect(), gone }
        };
        let bands: Vec<Band> = (0..self.layout.bands()).map(band).collect();
        for Band { blocks, gone } in &bands {
            for (at, &block) in blocks.iter().enumerate().skip(*gone) {
                self.hold(owner.of_block(at, block_tokens), block);
            }
        }
        BlockTable { owner: owner.clone(), bands, sealed, tip: chain.pop() }
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
        (0..self.layout.bands()).try_for_each(|band| self.grow_band(table, (band, tokens), quota))
    }

    /// Makes room for all `tokens` of a sequence that begins, but in layers with a window only for what
    /// its first step computes, of `rows` rows at most: these give back a block for each that they
    /// take later.
    pub(crate) fn begin(
        &mut self,
        table: &mut BlockTable,
        (tokens, rows): (usize, usize),
        quota: usize,
    ) -> Result<(), NoBlock> {
        let Layout { whole, .. } = self.layout;
        let step = tokens.min(table.sealed_tokens(&self.layout).saturating_add(rows));
        (0..self.layout.bands()).try_for_each(|band| {
            let tokens = if band < whole { tokens } else { step };
            self.grow_band(table, (band, tokens), quota)
        })
    }

    fn grow_band(
        &mut self,
        table: &mut BlockTable,
        (band, tokens): (usize, usize),
        quota: usize,
    ) -> Result<(), NoBlock> {
        let BlockTable { owner, bands, .. } = table;
        let Some(Band { blocks, .. }) = bands.get_mut(band) else { return Ok(()) };
        while blocks.len() < self.layout.blocks_for(tokens) {
            let user = owner.of_block(blocks.len(), self.layout.block_tokens);
            blocks.push(self.claim(user, quota)?);
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
        let full = (computed / block_tokens).min(table.len());
        for at in table.sealed..full {
            let start = at * block_tokens;
            let full = &tokens[start..start + block_tokens];
            let tip = self.namespace.link(&table.owner, (at, table.tip), full);
            table.tip = Some(tip);
            for (band, Band { blocks, .. }) in table.bands.iter().enumerate() {
                let (id, hash) = (blocks[at], (tip, band));
                // Another sequence may have computed the same prefix first; its block is found, and
                // this one is simply freed in the end.
                if let Entry::Vacant(entry) = self.cached.entry(hash) {
                    entry.insert(id);
                    self.blocks[id as usize].hash = Some(hash);
                }
            }
        }
        table.sealed = table.sealed.max(full);
    }

    /// Takes those of a sequence's blocks back that no token behind the first `computed` can see.
    pub(crate) fn slide(&mut self, table: &mut BlockTable, computed: usize) {
        let Layout { block_tokens, whole, .. } = self.layout;
        let gone = self.layout.gone(computed).min(table.sealed);
        let BlockTable { owner, bands, .. } = table;
        let Some(windowed) = bands.get_mut(whole..) else { return };
        let before = windowed.first().map_or(gone, |band| band.gone);
        for at in before..gone {
            for Band { blocks, .. } in &*windowed {
                self.let_go(owner.of_block(at, block_tokens), blocks[at]);
            }
        }
        for band in windowed {
            band.gone = gone.max(before);
        }
    }

    /// Takes a sequence's blocks back: findable ones stay cached and are kept by their tenant,
    /// others are free.
    pub(crate) fn release(&mut self, table: BlockTable) {
        let BlockTable { owner, bands, sealed: _, tip: _ } = table;
        // From the end, so that a prefix outlives what continues it.
        for (at, id) in table::held_backwards(&bands) {
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

#[cfg(test)]
mod tests;
