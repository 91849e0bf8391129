//! What a running call has set aside of its tenant's account before it is spent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{Accounts, Permit, account::Account};
use crate::{desired::LimitsMode, engine::Usage, refusal::Refusal};

/// Tokens for one generation, or for texts: in nobody else's hands until they are spent. Dropping
/// it gives back what of them is not.
#[derive(Debug)]
pub struct Reserve {
    permit: Arc<Permit>,
    input: u32,
    output: u32,
}

impl Reserve {
    /// Of `input` so many tokens must be what some minute has: the rest is of an answer that its
    /// tenant had already, and that goes on.
    pub(super) fn new(
        permit: &Arc<Permit>,
        (input, prompt): (u32, u32),
        output: u32,
        now: Instant,
    ) -> Result<Self, Refusal> {
        // Texts, too, are begun by nobody whose answers have spent what they may.
        permit.take(
            now,
            |account, _| {
                account.check_may_hold(prompt)?;
                account.check_for(input, 1, now)
            },
            |account, mode| {
                account.set_aside(input, output, mode);
            },
        )?;
        Ok(Self { permit: permit.clone(), input, output })
    }

    /// The prompt that tokens were set aside for is in work.
    pub fn spend_input(&mut self, now: Instant) {
        let prompt_tokens = std::mem::take(&mut self.input);
        self.permit.with(|account| account.spend_aside(prompt_tokens, 0, now));
        self.permit.tell(Usage { prompt_tokens, ..Usage::default() });
    }

    /// Takes a token of the answer for whoever is to have it, or says why nobody is.
    pub fn take_token(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.output > 0 {
            self.output -= 1;
            self.permit.with(|account| account.spend_aside(0, 1, now));
        } else {
            self.permit.take(
                now,
                |account, _| account.check_for(0, 1, now),
                |account, mode| {
                    account.charge(0, 1, mode, now);
                },
            )?;
        }
        self.permit.tell(Usage { completion_tokens: 1, ..Usage::default() });
        Ok(())
    }

    /// Pays for tokens of the answer that were made and that nobody got: with what was set aside,
    /// and as far as there is more.
    pub fn spend_unread(&mut self, tokens: u32, now: Instant) {
        let rest = self.spend_output(tokens, now);
        self.permit.with(|account| account.charge_some(rest, now));
        self.permit.tell(Usage { completion_tokens: tokens, ..Usage::default() });
    }

    /// Pays for tokens of the answer that were had, whatever is left: a debt, which is waited for.
    pub fn spend_had(&mut self, tokens: u32, now: Instant) {
        let rest = self.spend_output(tokens, now);
        self.permit.charge(Usage { completion_tokens: rest, ..Usage::default() }, now);
        let completion_tokens = tokens - rest;
        self.permit.tell(Usage { completion_tokens, ..Usage::default() });
    }

    /// Spends what was set aside, and says how many of so many tokens it is not enough for.
    fn spend_output(&mut self, tokens: u32, now: Instant) -> u32 {
        let aside = tokens.min(self.output);
        self.output -= aside;
        self.permit.with(|account| account.spend_aside(0, aside, now));
        tokens - aside
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if self.input > 0 || self.output > 0 {
            self.permit.with(|account| account.put_back(self.input, self.output));
        }
    }
}

impl Permit {
    /// Does something to the tenant's account. A running call keeps that: `retain` does not forget
    /// it.
    pub(super) fn with(&self, act: impl FnOnce(&mut Account)) {
        let mut accounts = self.lock();
        let Accounts { of, .. } = &mut *accounts;
        if let Some(account) = of.get_mut(&self.tenant) {
            act(account);
        }
    }

    /// Does something to the account if `check` allows it, and in shadow whatever that says: there
    /// a call that is not allowed something is counted, once.
    pub(super) fn take(
        &self,
        now: Instant,
        check: impl FnOnce(&mut Account, LimitsMode) -> Result<(), Refusal>,
        act: impl FnOnce(&mut Account, LimitsMode),
    ) -> Result<(), Refusal> {
        let mode = self.mode;
        let mut checked = Ok(());
        self.with(|account| {
            account.refill(now);
            checked = check(account, mode);
            if mode == LimitsMode::Shadow
                && checked.is_err()
                && !self.is_shadowed.swap(true, Ordering::Relaxed)
            {
                account.shadowed.tokens += 1;
            }
            if checked.is_ok() || mode == LimitsMode::Shadow {
                act(account, mode);
            }
        });
        if mode == LimitsMode::Shadow { Ok(()) } else { checked }
    }
}
