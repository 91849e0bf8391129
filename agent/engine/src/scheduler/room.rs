//! Room for a tenant that waits: which running sequences give way to it.
//!
//! Places and blocks are divided as evenly as weights say (max–min): one is taken from the tenant
//! that holds most for its weight, newest sequence first, as long as it then still holds no less
//! for its weight than the tenant that gets it. So nothing goes to and fro, and a tenant that has
//! nothing is owed a place where another one has two. A lower class gives way whatever it holds.
//! A block that several members of a group use counts whole for each, as if they shared nothing:
//! to share never makes a tenant heavier than it would be, and room is only what nobody uses.

use std::{cmp::Reverse, collections::BTreeMap};

use realm_core::{desired::Priority, name::TenantName};

use super::{PATIENCE_STEPS, Prefill, Running, Scheduler, account::Account, share::Turn};
use crate::{
    batch::SequenceId,
    kv::{Given, Leaving},
};

/// What one tenant's running sequences hold.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    places: usize,
    blocks: usize,
}

/// What is missing before a sequence can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Place,
    Blocks,
}

impl Holding {
    const fn of(self, missing: Missing) -> usize {
        match missing {
            Missing::Place => self.places,
            Missing::Blocks => self.blocks,
        }
    }

    /// What is left when one sequence has given way.
    const fn without(self, given: Given) -> Self {
        Self {
            places: self.places.saturating_sub(1),
            blocks: self.blocks.saturating_sub(given.lost),
        }
    }
}

/// Places and blocks as they would be, while it is thought about who gives way.
struct Room<'a> {
    places: usize,
    blocks: usize,
    held: BTreeMap<TenantName, Holding>,
    victims: Vec<SequenceId>,
    /// What the victims use: what only they share is free when the last of them has gone.
    leaving: Leaving<'a>,
}

/// One of a tenant's sequences and calls that do not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptBack {
    pub(crate) id: SequenceId,
    /// Whether it would, but for other tenants.
    pub(crate) by_others: bool,
}

impl Room<'_> {
    fn missing(&self, blocks: usize) -> Option<Missing> {
        if self.places == 0 {
            return Some(Missing::Place);
        }
        (self.blocks < blocks).then_some(Missing::Blocks)
    }
}

impl Scheduler {
    /// Lets the tenant in whose turn it is, at the cost of those that hold most.
    ///
    /// Nobody is preempted in vain: only for a tenant whose own quota lets it start, only if both a
    /// place and blocks are to be had, and only if neither would have come by itself.
    pub(super) fn make_room(&mut self) {
        if self.steps_without_start < PATIENCE_STEPS {
            return;
        }
        let Some((tenant, needed)) = self.first_to_start() else { return };
        let victims = self.victims_for(&tenant, needed).unwrap_or_default();
        if victims.is_empty() {
            return;
        }
        for victim in victims {
            self.preempt(victim);
        }
        // At once, or a preempted sequence could take its place back before its tenant's turn.
        self.start(&tenant, &Prefill::Waiting);
    }

    /// Whether the tenant's own sequences hold what its next one would start with.
    pub(crate) fn waits_for_own_blocks(&self, tenant: &TenantName) -> bool {
        let has_waiting = |account: &Account| !account.waiting.is_empty();
        self.accounts.get(tenant).is_some_and(has_waiting) && self.blocks_of_head(tenant).is_none()
    }

    /// One of the tenant's sequences and calls that do not run, `followed` as long as it is one of
    /// them and else the newest; and whether others keep it from that, and nothing of its own
    /// tenant's.
    pub(crate) fn kept_back(
        &self,
        tenant: &TenantName,
        followed: Option<SequenceId>,
    ) -> Option<KeptBack> {
        let account = self.accounts.get(tenant)?;
        let followed = account.kept_back().find(|(id, _)| Some(*id) == followed);
        let (id, is_call) = followed.or_else(|| account.kept_back().max())?;
        let by_own = if is_call {
            account.has_begun_call()
        } else {
            self.waits_for_own_blocks(tenant) || self.has_own_prompt(tenant)
        };
        Some(KeptBack { id, by_others: !by_own && self.is_behind_others(tenant) })
    }

    /// Whether a prompt of the tenant's is under way, behind which its others come.
    pub(super) fn has_own_prompt(&self, tenant: &TenantName) -> bool {
        let mut own = self.running.values().filter(|r| r.sequence.owner.tenant == *tenant);
        own.any(Running::has_prompt_left)
    }

    /// Whether anybody of the tenant's class or a higher one has something computed.
    fn is_behind_others(&self, tenant: &TenantName) -> bool {
        let class = self.share.priority(tenant);
        self.accounts.iter().any(|(name, other)| {
            let has_work = other.running > 0 || !other.calls.is_empty();
            has_work && name != tenant && self.share.priority(name) >= class
        })
    }

    /// The first in order that could start a sequence, and the blocks that takes.
    fn first_to_start(&mut self) -> Option<(TenantName, usize)> {
        let mut after: Option<Turn<TenantName>> = None;
        loop {
            let turn = self.share.next(after.as_ref())?.clone();
            self.prefer(turn.party());
            if let Some(needed) = self.blocks_of_head(turn.party()) {
                return Some((turn.party().clone(), needed));
            }
            after = Some(turn);
        }
    }

    /// The sequences that give way so that `tenant` can start one of `needed` blocks; none where
    /// there is room. `None` where it is not owed that much.
    fn victims_for(&self, tenant: &TenantName, needed: usize) -> Option<Vec<SequenceId>> {
        let mut room = self.room();
        while let Some(missing) = room.missing(needed) {
            let held = room.held.get(tenant).copied().unwrap_or_default().of(missing);
            let wanted = held + if missing == Missing::Place { 1 } else { needed };
            let (id, given) = self.gives_way(&room, (tenant, wanted), missing)?;
            let victim = self.running.get(&id)?;
            let held = room.held.entry(victim.sequence.owner.tenant.clone()).or_default();
            *held = held.without(given);
            room.leaving.add(&victim.table);
            room.places += 1;
            room.blocks += given.freed;
            room.victims.push(id);
        }
        Some(room.victims)
    }

    fn room(&self) -> Room<'_> {
        let mut held = BTreeMap::<TenantName, Holding>::new();
        for running in self.running.values() {
            let tenant = &running.sequence.owner.tenant;
            let blocks = self.pool.used_by(tenant);
            let holding = held.entry(tenant.clone()).or_insert(Holding { places: 0, blocks });
            holding.places += 1;
        }
        Room {
            places: self.limits.running.saturating_sub(self.running.len()),
            blocks: self.pool.available(),
            held,
            victims: Vec::new(),
            leaving: Leaving::default(),
        }
    }

    /// The next sequence to give way to a tenant that would hold `wanted`, and what it gives.
    fn gives_way(
        &self,
        room: &Room<'_>,
        (tenant, wanted): (&TenantName, usize),
        missing: Missing,
    ) -> Option<(SequenceId, Given)> {
        let priority = self.priority(tenant);
        let weight = self.weight(tenant);
        let candidates = room.held.iter().filter_map(|(victim, held)| {
            let id = self.newest_of(victim, &room.victims)?;
            let given = self.given_by(id, &room.leaving);
            let left = held.without(given).of(missing);
            let its_weight = self.weight(victim);
            // wanted / weight <= left / its_weight, in whole numbers.
            let is_even = wanted as u128 * its_weight <= left as u128 * weight;
            let its_priority = self.priority(victim);
            let gives = its_priority < priority
                || (its_priority == priority && victim != tenant && is_even);
            let rank = (Reverse(its_priority), Load { held: held.of(missing), weight: its_weight });
            gives.then_some((rank, Reverse(victim), id, given))
        });
        let (_, _, id, given) = candidates.max_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)))?;
        Some((id, given))
    }

    fn given_by(&self, id: SequenceId, leaving: &Leaving<'_>) -> Given {
        let table = self.running.get(&id).map(|running| &running.table);
        table.map(|table| self.pool.given_by(table, leaving)).unwrap_or_default()
    }

    /// The tenant's newest running sequence that is not among `without`.
    pub(super) fn newest_of(
        &self,
        tenant: &TenantName,
        without: &[SequenceId],
    ) -> Option<SequenceId> {
        let mut newest_first = self.running.values().rev().map(|running| &running.sequence);
        newest_first
            .find(|sequence| sequence.owner.tenant == *tenant && !without.contains(&sequence.id))
            .map(|sequence| sequence.id)
    }

    /// Whoever of the lowest class that runs holds most blocks for its weight.
    pub(super) fn holds_most_for_its_weight(&self) -> Option<TenantName> {
        let running = self.accounts.iter().filter(|(_, account)| account.running > 0);
        running
            .map(|(name, account)| {
                let load = Load { held: self.pool.used_by(name), weight: account.weight.into() };
                (Reverse(self.priority(name)), load, Reverse(name))
            })
            .max()
            .map(|(_, _, Reverse(name))| name.clone())
    }

    fn priority(&self, tenant: &TenantName) -> Priority {
        self.share.priority(tenant).unwrap_or_default()
    }

    fn weight(&self, tenant: &TenantName) -> u128 {
        self.accounts.get(tenant).map_or(1, |account| account.weight.into())
    }
}

/// What is held for each unit of weight, compared without dividing.
#[derive(Clone, Copy, Debug)]
struct Load {
    held: usize,
    weight: u128,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.held as u128 * other.weight).cmp(&(other.held as u128 * self.weight))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Load {}
