//! What becomes of blocks when sequences give way.

use std::collections::HashMap;

use realm_core::name::TenantName;

use super::{BlockId, BlockPool, BlockTable};

/// What becomes of a sequence's blocks when it gives way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Blocks that nobody uses any more.
    pub(crate) freed: usize,
    /// Blocks that its tenant does not use any more.
    pub(crate) lost: usize,
}

/// Sequences that give way together: a block that only they use is free when the last of them goes.
#[derive(Debug, Default)]
pub(crate) struct Leaving<'a> {
    /// How many sequences of whom use a block.
    users: HashMap<BlockId, Vec<(&'a TenantName, u32)>>,
}

impl<'a> Leaving<'a> {
    pub(crate) fn add(&mut self, table: &'a BlockTable) {
        let tenant = &table.owner.tenant;
        for (_, id) in table.held_backwards() {
            let users = self.users.entry(id).or_default();
            match users.iter_mut().find(|(name, _)| *name == tenant) {
                Some((_, count)) => *count += 1,
                None => users.push((tenant, 1)),
            }
        }
    }

    /// How many of those that leave use a block: of all, and of the tenant.
    fn of(&self, id: BlockId, tenant: &TenantName) -> (u32, u32) {
        let users = self.users.get(&id).map_or(&[][..], Vec::as_slice);
        let own = users.iter().filter(|(name, _)| *name == tenant);
        (users.iter().map(|(_, count)| count).sum(), own.map(|(_, count)| count).sum())
    }
}

impl BlockPool {
    /// What would become of the blocks of `table` if it were released behind those that leave: how
    /// many nobody would use any more, and how many its tenant would not.
    pub(crate) fn given_by(&self, table: &BlockTable, leaving: &Leaving<'_>) -> Given {
        let mut given = Given::default();
        for (at, id) in table.held_backwards() {
            let Some(block) = self.blocks.get(id as usize) else { continue };
            let user = table.owner.of_block(at, self.layout.block_tokens);
            let (all, own) = leaving.of(id, user.tenant);
            given.freed += usize::from(block.refs == all + 1);
            given.lost += usize::from(block.refs_of(user) == own + 1);
        }
        given
    }
}
