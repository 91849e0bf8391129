//! The blocks of the KV cache: who holds which, and which finished prefixes can be used again.
//!
//! A full block is known by the hash of everything before and in it. The chain of hashes starts at
//! a secret mixed with the tenant's name, so a tenant finds its own prefixes and no one else's,
//! and nothing in a request changes where its chain starts.
//!
//! Where every layer attends a window, a sequence gives back the blocks that no token to come can
//! see. What they were stays findable while there is room; a prefix is used again where the blocks
//! of its own window are all there, whatever became of those before.

mod chain;
mod window;

use std::collections::{BTreeMap, HashMap};

use realm_core::name::TenantName;

pub use self::chain::Secret;
pub(crate) use self::{
    chain::{ChainHash, Namespace},
    window::Layout,
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
    tenant: TenantName,
    /// One for each block of tokens. Those given back are still named here, and somebody else's.
    blocks: Vec<BlockId>,
    /// How many of `blocks`, from the first on, have been given back.
    gone: usize,
    /// How many of `blocks`, from the first on, are full and hashed.
    sealed: usize,
    /// The hash of the last sealed block, or where the chain starts.
    tip: ChainHash,
}

impl BlockTable {
    /// A block for each block of tokens. Those that no token to come can see may be anybody's.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
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
    /// Under which hash the block can be found, while it can.
    hash: Option<ChainHash>,
    /// When it was last let go, while no one uses it and it is cached.
    idle_since: u64,
}

/// What one tenant holds.
#[derive(Debug, Default)]
struct Holding {
    /// Blocks that its sequences use.
    used: usize,
    /// Blocks that hold finished prefixes, by when they were last let go.
    idle: BTreeMap<u64, BlockId>,
}

impl Holding {
    fn all(&self) -> usize {
        self.used + self.idle.len()
    }
}

/// Every block of the cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    layout: Layout,
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    cached: HashMap<ChainHash, BlockId>,
    tenants: HashMap<TenantName, Holding>,
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
            cached: HashMap::new(),
            tenants: HashMap::new(),
            namespace,
            clock: 0,
        }
    }

    pub(crate) const fn total(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn idle(&self) -> usize {
        self.tenants.values().map(|holding| holding.idle.len()).sum()
    }

    pub(crate) fn used(&self) -> usize {
        self.total() - self.free.len() - self.idle()
    }

    /// Blocks that could be claimed now, by a tenant with the quota for them.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle()
    }

    /// Blocks that the tenant's running sequences hold.
    pub(crate) fn used_by(&self, tenant: &TenantName) -> usize {
        self.tenants.get(tenant).map_or(0, |holding| holding.used)
    }

    /// Who holds blocks, and how many.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (&TenantName, usize)> {
        let held = self.tenants.iter().map(|(tenant, holding)| (tenant, holding.used));
        held.filter(|(_, used)| *used > 0)
    }

    /// Blocks that hold the tenant's finished prefixes.
    pub(crate) fn idle_of(&self, tenant: &TenantName) -> usize {
        self.tenants.get(tenant).map_or(0, |holding| holding.idle.len())
    }

    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens a table for `tokens`, with the longest prefix that the tenant's own cache holds.
    ///
    /// The last token is always left to compute: its logits are what the prompt is for.
    pub(crate) fn open(&mut self, tenant: &TenantName, tokens: &[u32]) -> BlockTable {
        let (mut blocks, tip) = self.longest_prefix(tenant, tokens);
        let sealed = blocks.len();
        let gone = self.layout.gone(sealed * self.layout.block_tokens);
        for &block in &blocks[gone..] {
            self.hold(tenant, block);
        }
        blocks.truncate(sealed);
        BlockTable { tenant: tenant.clone(), blocks, gone, sealed, tip }
    }

    /// The blocks of the longest prefix that can be gone on from, and its hash. Those that its window
    /// hides may be any.
    fn longest_prefix(&self, tenant: &TenantName, tokens: &[u32]) -> (Vec<BlockId>, ChainHash) {
        let block_tokens = self.layout.block_tokens;
        let mut tip = self.namespace.root(tenant);
        let (mut found, mut found_tip) = (0, tip);
        let mut blocks = Vec::new();
        // From which block on all are there.
        let mut whole_from = 0;
        let reusable = tokens.len().saturating_sub(1) / block_tokens;
        for full in tokens.chunks_exact(block_tokens).take(reusable) {
            tip = tip.then(full);
            let cached = self.cached.get(&tip).copied();
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
        tenant: &TenantName,
        tokens: &[u32],
        chain: &mut Vec<ChainHash>,
    ) -> usize {
        let block_tokens = self.layout.block_tokens;
        let reusable = tokens.len().saturating_sub(1) / block_tokens;
        let (mut found, mut whole_from) = (0, 0);
        for (at, full) in tokens.chunks_exact(block_tokens).take(reusable).enumerate() {
            if chain.len() == at {
                let tip = chain.last().map_or_else(|| self.namespace.root(tenant), |tip| *tip);
                chain.push(tip.then(full));
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

    /// Blocks that nobody would use any more if `table` were released.
    pub(crate) fn freed_by(&self, table: &BlockTable) -> usize {
        let alone = |id: &&BlockId| self.blocks.get(**id as usize).is_some_and(|b| b.refs == 1);
        table.blocks[table.gone..].iter().filter(alone).count()
    }

    /// Takes a cached block into use.
    fn hold(&mut self, tenant: &TenantName, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        block.refs += 1;
        if block.refs == 1 {
            let holding = self.tenants.entry(tenant.clone()).or_default();
            holding.idle.remove(&block.idle_since);
            holding.used += 1;
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
            let block = self.claim(&table.tenant, quota)?;
            table.blocks.push(block);
        }
        Ok(())
    }

    fn claim(&mut self, tenant: &TenantName, quota: usize) -> Result<BlockId, NoBlock> {
        // More than once where the quota has been lowered since the tenant filled it.
        while self.tenants.get(tenant).map_or(0, Holding::all) >= quota {
            if !self.evict(tenant) {
                return Err(NoBlock::Quota);
            }
        }
        if self.free.is_empty() {
            // Whoever holds the most gives way, so that one tenant cannot flush another's prefixes
            // by filling the cache with its own.
            let fullest = self
                .tenants
                .iter()
                .filter(|(_, holding)| !holding.idle.is_empty())
                .max_by(|(a, x), (b, y)| x.all().cmp(&y.all()).then_with(|| b.cmp(a)))
                .map(|(tenant, _)| tenant.clone());
            if !fullest.is_some_and(|fullest| self.evict(&fullest)) {
                return Err(NoBlock::Exhausted);
            }
        }
        let id = self.free.pop().ok_or(NoBlock::Exhausted)?;
        self.blocks[id as usize].refs = 1;
        self.tenants.entry(tenant.clone()).or_default().used += 1;
        Ok(id)
    }

    /// Frees the tenant's least recently used prefix block; `false` if it has none.
    fn evict(&mut self, tenant: &TenantName) -> bool {
        let Some(holding) = self.tenants.get_mut(tenant) else { return false };
        let Some((_, id)) = holding.idle.pop_first() else { return false };
        if let Some(hash) = self.blocks[id as usize].hash.take() {
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
            table.tip = table.tip.then(&tokens[start..start + block_tokens]);
            let id = table.blocks[at];
            // Another sequence may have computed the same prefix first; its block is found, and
            // this one is simply freed in the end.
            if let std::collections::hash_map::Entry::Vacant(entry) = self.cached.entry(table.tip) {
                entry.insert(id);
                self.blocks[id as usize].hash = Some(table.tip);
            }
        }
        table.sealed = table.sealed.max(full);
    }

    /// Takes those of a sequence's blocks back that no token behind the first `computed` can see.
    pub(crate) fn slide(&mut self, table: &mut BlockTable, computed: usize) {
        let gone = self.layout.gone(computed).min(table.sealed);
        for at in table.gone..gone {
            self.let_go(&table.tenant, table.blocks[at]);
        }
        table.gone = table.gone.max(gone);
    }

    /// Takes a sequence's blocks back: findable ones stay cached for their tenant, others are free.
    pub(crate) fn release(&mut self, table: BlockTable) {
        let BlockTable { tenant, blocks, gone, sealed: _, tip: _ } = table;
        // From the end, so that a prefix outlives what continues it.
        for &id in blocks[gone..].iter().rev() {
            self.let_go(&tenant, id);
        }
        if self.tenants.get(&tenant).is_some_and(|holding| holding.all() == 0) {
            self.tenants.remove(&tenant);
        }
    }

    /// Takes a block from one of the sequences that use it.
    fn let_go(&mut self, tenant: &TenantName, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        block.refs -= 1;
        if block.refs > 0 {
            return;
        }
        let holding = self.tenants.entry(tenant.clone()).or_default();
        holding.used -= 1;
        if block.hash.is_some() {
            self.clock += 1;
            block.idle_since = self.clock;
            holding.idle.insert(self.clock, id);
        } else {
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests;
