//! What each tenant holds of the blocks, and what the members of each group use together.

use std::collections::{BTreeMap, HashMap, VecDeque};

use realm_core::{
    books::Divider,
    name::{GroupName, TenantName},
};

use super::{BlockId, owner::User, pins::Turn};

/// What one tenant holds.
#[derive(Debug, Default)]
struct Holding {
    /// Blocks that its sequences use.
    used: usize,
    /// Of `used`, those that are public in its group, whoever else uses them.
    public: usize,
    /// Blocks of finished prefixes that it used last.
    idle: Idle,
    /// Of `idle`, those that it wants.
    wanted: usize,
}

/// Blocks in the order in which they go, in one list: a sequence that gives back what its window has
/// left behind does so in memory that is there.
#[derive(Debug, Default)]
struct Idle(VecDeque<(Turn, BlockId)>);

impl Idle {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn first(&self) -> Option<(Turn, BlockId)> {
        self.0.front().copied()
    }

    fn insert(&mut self, turn: Turn, id: BlockId) {
        // Mostly behind all but those that are wanted.
        let at = self.0.partition_point(|(other, _)| *other < turn);
        self.0.insert(at, (turn, id));
    }

    fn remove(&mut self, turn: Turn) {
        if let Ok(at) = self.0.binary_search_by_key(&turn, |(turn, _)| *turn) {
            self.0.remove(at);
        }
    }
}

/// How many blocks a tenant holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) used: usize,
    pub(super) idle: usize,
}

impl Held {
    pub(super) const fn all(self) -> usize {
        self.used + self.idle
    }
}

/// How long each tenant held blocks in a time, and memory to tell it in again.
#[derive(Debug, Default)]
pub(crate) struct HeldTimes {
    /// In nanoseconds, counted for each block; in the order of names.
    tenants: Vec<(TenantName, u64)>,
    /// Of one group, how many of its blocks each member uses.
    members: Vec<u64>,
    divider: Divider,
}

impl HeldTimes {
    /// Nothing where the tenant held nothing.
    pub(crate) fn of(&self, tenant: &TenantName) -> u64 {
        let at = self.tenants.binary_search_by(|(name, _)| name.cmp(tenant));
        at.ok().and_then(|at| self.tenants.get(at)).map_or(0, |(_, held_ns)| *held_ns)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TenantName, u64)> {
        self.tenants.iter().map(|(name, held_ns)| (name, *held_ns))
    }
}

/// The public blocks of one group that are in use.
#[derive(Debug, Default)]
struct Together {
    /// Each once.
    blocks: usize,
    /// How many of them each member uses.
    members: BTreeMap<TenantName, usize>,
}

/// Everybody's.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    tenants: HashMap<TenantName, Holding>,
    groups: HashMap<GroupName, Together>,
}

impl Holdings {
    pub(super) fn of(&self, tenant: &TenantName) -> Held {
        self.tenants.get(tenant).map(held).unwrap_or_default()
    }

    pub(super) fn idle(&self) -> usize {
        self.tenants.values().map(|holding| holding.idle.len()).sum()
    }

    /// Blocks of finished prefixes that their keepers want.
    pub(super) fn wanted(&self) -> usize {
        self.tenants.values().map(|holding| holding.wanted).sum()
    }

    /// Whoever holds most of those that keep finished prefixes.
    pub(super) fn fullest_with_idle(&self) -> Option<TenantName> {
        let mut keepers = self.tenants.iter().filter(|(_, holding)| !holding.idle.is_empty());
        let first = keepers.next()?;
        let fullest = keepers.fold(first, |best, next| {
            let (x, y) = (held(best.1).all(), held(next.1).all());
            if y > x || (y == x && next.0 < best.0) { next } else { best }
        });
        Some(fullest.0.clone())
    }

    /// A tenant uses a block that it did not use; `is_first` where nobody did.
    pub(super) fn enter(&mut self, user: User<'_>, is_first: bool) {
        let holding = self.tenants.entry(user.tenant.clone()).or_default();
        holding.used += 1;
        if let Some(group) = user.group {
            holding.public += 1;
            let together = self.groups.entry(group.clone()).or_default();
            together.blocks += usize::from(is_first);
            *together.members.entry(user.tenant.clone()).or_default() += 1;
        }
    }

    /// A tenant does not use a block any more; `is_last` where nobody does.
    pub(super) fn leave(&mut self, user: User<'_>, is_last: bool) {
        let holding = self.tenants.entry(user.tenant.clone()).or_default();
        holding.used -= 1;
        let Some(group) = user.group else { return };
        holding.public -= 1;
        let Some(together) = self.groups.get_mut(group) else { return };
        together.blocks -= usize::from(is_last);
        if let Some(own) = together.members.get_mut(user.tenant) {
            *own -= 1;
            if *own == 0 {
                together.members.remove(user.tenant);
            }
        }
        if together.members.is_empty() {
            self.groups.remove(group);
        }
    }

    pub(super) fn put_idle(&mut self, tenant: &TenantName, turn: Turn, id: BlockId) {
        let holding = self.tenants.entry(tenant.clone()).or_default();
        holding.wanted += usize::from(turn.is_wanted);
        holding.idle.insert(turn, id);
    }

    pub(super) fn take_idle(&mut self, tenant: &TenantName, turn: Turn) {
        if let Some(holding) = self.tenants.get_mut(tenant) {
            holding.wanted -= usize::from(turn.is_wanted);
            holding.idle.remove(turn);
        }
        self.prune(tenant);
    }

    /// Takes from the tenant what it has let go of longest ago, what it wants last of all.
    pub(super) fn oldest_idle(&mut self, tenant: &TenantName) -> Option<BlockId> {
        let (turn, id) = self.tenants.get(tenant)?.idle.first()?;
        self.take_idle(tenant, turn);
        Some(id)
    }

    /// Forgets a tenant that holds nothing.
    pub(super) fn prune(&mut self, tenant: &TenantName) {
        if self.tenants.get(tenant).is_some_and(|holding| held(holding).all() == 0) {
            self.tenants.remove(tenant);
        }
    }

    /// How long each tenant held blocks in a time of `ns` nanoseconds, counted for each block, those
    /// with them that it keeps and wants. The time of a group's blocks is divided by how many of them
    /// each member uses.
    pub(super) fn held_in(&self, ns: u64, times: &mut HeldTimes) {
        let HeldTimes { tenants, members: by, divider } = times;
        let time = |blocks: usize| ns.saturating_mul(blocks as u64);
        let pays = |holding: &Holding| holding.used + holding.wanted;
        let own = self.tenants.iter().filter(|(_, holding)| pays(holding) > 0);
        tenants.clear();
        let own = own.map(|(name, holding)| (name.clone(), time(pays(holding) - holding.public)));
        tenants.extend(own);
        for Together { blocks, members } in self.groups.values() {
            by.clear();
            by.extend(members.values().map(|own| *own as u64));
            let parts = divider.divide(time(*blocks), by).iter().copied();
            tenants.extend(members.keys().cloned().zip(parts));
        }
        tenants.sort_unstable();
        tenants.dedup_by(|next, first| {
            let is_same = next.0 == first.0;
            if is_same {
                first.1 = first.1.saturating_add(next.1);
            }
            is_same
        });
    }
}

#[cfg(test)]
impl Holdings {
    /// The blocks of finished prefixes, by who keeps them.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&TenantName, BlockId)> {
        let kept = |(name, holding)| (name, holding);
        self.tenants.iter().map(kept).flat_map(|(name, holding): (_, &Holding)| {
            holding.idle.0.iter().map(move |(_, id)| (name, *id))
        })
    }
}

fn held(holding: &Holding) -> Held {
    Held { used: holding.used, idle: holding.idle.len() }
}
