//! Prefixes that somebody wants to go on from: of what is kept for their tenant, they go last.
//!
//! What is wanted is named by its hashes and not by blocks, so that it need not be computed yet, and
//! is wanted still when it has gone and is computed again. It changes nobody's part of the cache:
//! only the order in which a tenant's own finished prefixes give way.

use std::collections::HashMap;

use realm_core::name::TenantName;

use super::{BandHash, BlockPool, Layout, Owner};

/// When a kept block has its turn to go: those that are wanted after all that are not, and of either
/// kind what was let go longest ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) is_wanted: bool,
    since: u64,
}

/// Full blocks of one prefix, wanted until [`BlockPool::unpin`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Pin {
    tenant: TenantName,
    hashes: Vec<BandHash>,
}

impl Pin {
    pub(crate) const fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// How many blocks it is of.
    pub(crate) const fn len(&self) -> usize {
        self.hashes.len()
    }
}

#[cfg(test)]
impl Pin {
    pub(crate) fn has(&self, hash: Option<BandHash>) -> bool {
        hash.is_some_and(|hash| self.hashes.contains(&hash))
    }
}

/// How often each tenant wants which block.
#[derive(Debug, Default)]
pub(super) struct Pins(HashMap<TenantName, HashMap<BandHash, u32>>);

impl Pins {
    /// When a block that its keeper lets go at `since` has its turn. Only what the keeper itself wants
    /// is wanted: nobody makes another one keep anything.
    pub(super) fn turn(&self, keeper: &TenantName, hash: BandHash, since: u64) -> Turn {
        let is_wanted = self.0.get(keeper).is_some_and(|own| own.contains_key(&hash));
        Turn { is_wanted, since }
    }

    fn add(&mut self, tenant: &TenantName, hash: BandHash) {
        *self.0.entry(tenant.clone()).or_default().entry(hash).or_default() += 1;
    }

    fn take(&mut self, tenant: &TenantName, hash: BandHash) {
        let Some(own) = self.0.get_mut(tenant) else { return };
        if let Some(count) = own.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                own.remove(&hash);
            }
        }
        if own.is_empty() {
            self.0.remove(tenant);
        }
    }
}

impl Layout {
    /// From which block of a band on a prefix of `tokens` tokens is to be kept, of which the first
    /// `kept_tokens` are already: what its window hides from all that may follow is needed no more.
    /// Who goes on from exactly the prefix computes its last token again, whose window begins earlier.
    fn kept_from(&self, band: usize, tokens: usize, kept_tokens: usize) -> usize {
        let before_last = tokens.saturating_sub(1);
        let full = before_last - before_last % self.block_tokens;
        (kept_tokens / self.block_tokens).max(self.gone_in(band, full))
    }

    /// How many blocks of all bands such a prefix counts. The last one of each counts where it is not
    /// full, and one of each at least, so that no prefix counts nothing.
    pub(crate) fn kept_blocks(&self, tokens: usize, kept_tokens: usize) -> usize {
        let all = self.blocks_for(tokens);
        let of_band = |band| all.saturating_sub(self.kept_from(band, tokens, kept_tokens)).max(1);
        (0..self.bands()).map(of_band).sum()
    }
}

impl BlockPool {
    /// Wants the full blocks of `tokens` behind those of the first `kept_tokens`, whether or not they
    /// are there yet.
    pub(crate) fn pin(&mut self, owner: &Owner, tokens: &[u32], kept_tokens: usize) -> Pin {
        let (mut hashes, mut tip) = (Vec::new(), None);
        for (at, full) in tokens.chunks_exact(self.layout.block_tokens).enumerate() {
            let hash = self.namespace.link(owner, (at, tip), full);
            tip = Some(hash);
            for band in 0..self.layout.bands() {
                if at >= self.layout.kept_from(band, tokens.len(), kept_tokens) {
                    hashes.push((hash, band));
                    self.pins.add(&owner.tenant, (hash, band));
                    self.reorder((hash, band));
                }
            }
        }
        Pin { tenant: owner.tenant.clone(), hashes }
    }

    pub(crate) fn unpin(&mut self, pin: Pin) {
        let Pin { tenant, hashes } = pin;
        for hash in hashes {
            self.pins.take(&tenant, hash);
            self.reorder(hash);
        }
    }

    /// Gives a block that is kept its turn anew.
    fn reorder(&mut self, hash: BandHash) {
        let Some(&id) = self.cached.get(&hash) else { return };
        let Some((keeper, before)) = self.blocks[id as usize].idle.take() else { return };
        let turn = self.pins.turn(&keeper, hash, before.since);
        self.holdings.take_idle(&keeper, before);
        self.holdings.put_idle(&keeper, turn, id);
        self.blocks[id as usize].idle = Some((keeper, turn));
    }
}
