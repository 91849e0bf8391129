//! Prefixes that tenants want kept, and pay for.

use std::time::Instant;

use super::{Scheduler, share::Terms};
use crate::{batch::SequenceId, kv::Owner};

/// A prefix that someone wants kept.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) id: SequenceId,
    pub(crate) owner: Owner,
    pub(crate) terms: Terms,
    pub(crate) tokens: Vec<u32>,
    /// Tokens of it that are kept already.
    pub(crate) kept_tokens: usize,
}

impl Scheduler {
    /// Keeps a prefix from `now` on, for which what was held until then is charged first.
    pub(crate) fn keep(&mut self, keep: Keep, now: Instant) {
        let Keep { id, owner, terms, tokens, kept_tokens } = keep;
        self.charge_blocks(now);
        self.account(&owner.tenant, terms).kept += 1;
        let pin = self.pool.pin(&owner, &tokens, kept_tokens);
        self.note(&owner.tenant);
        self.kept.insert(id, pin);
    }

    /// Treats a prefix as any other from `now` on, for which what was held until then is charged
    /// first.
    pub(crate) fn let_go(&mut self, id: SequenceId, now: Instant) {
        self.charge_blocks(now);
        let Some(pin) = self.kept.remove(&id) else { return };
        let tenant = pin.tenant().clone();
        self.pool.unpin(pin);
        if let Some(account) = self.accounts.get_mut(&tenant) {
            account.kept -= 1;
        }
        self.note(&tenant);
    }
}
