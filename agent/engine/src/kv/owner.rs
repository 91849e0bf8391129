//! Whose chains the blocks of a sequence are found in.

use realm_core::name::{GroupName, TenantName};

use crate::adapter::Adapted;

/// The tenant of a sequence, what of it is public in the tenant's group, and what it is computed
/// with: keys and values of an adapter are others than the model's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) tenant: TenantName,
    pub(crate) public: Option<Public>,
    pub(crate) adapter: Option<Adapted>,
}

/// What a sequence begins with that all members of a share group may find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    pub(crate) group: GroupName,
    /// Tokens, from the first on. A block of which not all are public is the tenant's own.
    pub(crate) tokens: usize,
}

/// Who uses a block: a tenant, of a block that is public as one of the group's members.
#[derive(Clone, Copy, Debug)]
pub(super) struct User<'a> {
    pub(super) tenant: &'a TenantName,
    pub(super) group: Option<&'a GroupName>,
}

impl Owner {
    /// A tenant with nothing public, and no adapter.
    pub(crate) fn alone(tenant: &TenantName) -> Self {
        Self { tenant: tenant.clone(), public: None, adapter: None }
    }

    /// What an adapter is more for each of the sequence's rows, in thousands of operations.
    pub(crate) fn adapter_kops(&self) -> u64 {
        self.adapter.map_or(0, |adapter| adapter.work.kops)
    }

    /// The group in whose chain the sequence begins, and how many of its blocks lie there.
    pub(super) fn public_blocks(&self, block_tokens: usize) -> Option<(&GroupName, usize)> {
        let Public { group, tokens } = self.public.as_ref()?;
        let blocks = tokens / block_tokens;
        (blocks > 0).then_some((group, blocks))
    }

    /// Who uses the sequence's block of that number.
    pub(super) fn of_block(&self, at: usize, block_tokens: usize) -> User<'_> {
        let public = self.public_blocks(block_tokens).filter(|(_, blocks)| at < *blocks);
        User { tenant: &self.tenant, group: public.map(|(group, _)| group) }
    }
}
