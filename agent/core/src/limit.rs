//! What a caller may spend: the only place an [`Admitted`] is made. Pure: time is an argument.
//!
//! A door spends from its slices of the tenants' limits ([`crate::slices`]): the [`account`] of a
//! tenant has a [`bucket`] for each limit, of the size that the slice has.
//!
//! Tokens are settled before they are had: a prompt is set aside whole before it is computed, and
//! with it the first token of its answer ([`reserve`]); every other token is taken when it is about
//! to be handed on, and is not handed on where there is none.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    auth::{Caller, HandedOn},
    call::Call,
    desired::LimitsMode,
    engine::Usage,
    name::TenantName,
    refusal::Refusal,
    slices::{Division, Spends},
};

mod account;
mod bucket;
mod reserve;

pub use account::Shadowed;
use account::{Account, Allowances, Opening};
pub use reserve::Reserve;

/// A call whose caller is known and whose limits have been charged. Dropping it, and all its
/// parts, gives its place back.
#[derive(Debug)]
pub struct Admitted {
    caller: Caller,
    call: Call,
    permit: Arc<Permit>,
}

impl Admitted {
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    pub const fn call(&self) -> &Call {
        &self.call
    }

    /// A part of this call that runs as a call of its own: it spends from the same account, and
    /// keeps the place.
    pub fn part(&self, call: Call) -> Self {
        Self { caller: self.caller.clone(), call, permit: self.permit.clone() }
    }

    /// What the call has spent with all its parts, as it grows.
    pub fn spent(&self) -> watch::Receiver<Usage> {
        self.permit.spent.subscribe()
    }

    /// What the tenant's account holds now, for whoever runs the call elsewhere.
    pub fn left(&self, now: Instant) -> Left {
        self.permit.left(now)
    }

    /// Whether the tenant may spend tokens now: not while it has none of a kind. A call that goes on
    /// asks before each new piece of work, since it was admitted before it spent anything.
    pub fn check(&self, now: Instant) -> Result<(), Refusal> {
        self.permit.check(now)
    }

    /// As [`Self::check`], of a call that another node has refused tokens of this account for what it
    /// lacks.
    pub fn check_from_afar(&self, lacks: Lacks, now: Instant) -> Result<(), Refusal> {
        self.permit.take(now, |account, _| account.refused_from_afar(lacks, now), |_, _| ())
    }

    /// Sets aside what a generation needs to begin: all of its prompt, and a token of its answer, so
    /// that no prompt is computed for nothing. Refuses what the account does not have, and for good
    /// a prompt that no minute has the tokens for.
    pub fn reserve(&self, prompt_tokens: u32, now: Instant) -> Result<Reserve, Refusal> {
        Reserve::new(&self.permit, (prompt_tokens, prompt_tokens), 1, now)
    }

    /// As [`Self::reserve`], for a generation that goes on behind so many tokens of its answer. They
    /// are computed and paid for as a prompt is, and no answer is too long to go on with.
    pub fn reserve_resumed(
        &self,
        prompt_tokens: u32,
        resumed: u32,
        now: Instant,
    ) -> Result<Reserve, Refusal> {
        let all = prompt_tokens.saturating_add(resumed);
        Reserve::new(&self.permit, (all, prompt_tokens), 1, now)
    }

    /// Sets aside what texts take that nothing answers.
    pub fn reserve_texts(&self, tokens: u32, now: Instant) -> Result<Reserve, Refusal> {
        Reserve::new(&self.permit, (tokens, tokens), 0, now)
    }

    /// Charges tokens that were had, whatever is left: a debt, which is waited for.
    pub fn charge(&self, usage: Usage, now: Instant) {
        self.permit.charge(usage, now);
    }

    /// Charges what was spent on another node, and says whether the client may have what came with
    /// it, and the call may go on there.
    ///
    /// That node knows what the tenant had left when the call was handed to it, and nothing of the
    /// tenant's other calls. What the account has not is not charged and goes to nobody: a prompt
    /// ends where it is, and of tokens which are made those that are there are paid for, as all are
    /// that nobody gets.
    pub fn charge_from_afar(&self, usage: Usage, now: Instant) -> Result<(), Refusal> {
        self.permit.tell(usage);
        let (input, output) = (computed(usage), usage.completion_tokens);
        let prompt = if input == 0 {
            Ok(())
        } else {
            self.permit.take(
                now,
                |account, _| account.check_for(input, 1, now),
                |account, mode| {
                    account.charge(input, 0, mode, now);
                },
            )
        };
        if output == 0 || prompt.is_err() {
            return prompt;
        }
        let has_all = |account: &mut Account, mode| {
            let has_all = account.check_for(0, output, now);
            if has_all.is_ok() || mode == LimitsMode::Shadow {
                return has_all;
            }
            account.charge_some(output, now);
            account.check_for(0, 1, now)
        };
        self.permit.take(now, has_all, |account, mode| account.charge(0, output, mode, now))
    }

    /// Takes a charge back, of work that was lost and is done again.
    pub fn take_back(&self, usage: Usage) {
        self.permit.take_back(usage);
    }

    /// Gives back prompt tokens that were charged and turned out to be in the tenant's own cache.
    pub fn refund(&self, prompt_tokens: u32) {
        self.permit.refund(prompt_tokens);
    }

    /// Gives back a prompt that was charged and that nobody has computed anything of.
    pub fn give_back(&self, prompt_tokens: u32) {
        self.permit.take_back(Usage { prompt_tokens, ..Usage::default() });
    }
}

/// What is left of a tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub requests: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// What of a call has no tokens elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    Prompt,
    Answer,
}

/// Tokens that a call may spend where it does not pay itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// What of a minute its door holds; a door of the release before does not say, and is taken to
    /// have all.
    pub per_minute: Option<PerMinute>,
}

/// Tokens of a minute that a door holds at once, by its slices, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute {
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// Admits a call that another door has admitted and pays for: it may spend what that door has
/// left for it and what time earns meanwhile, and nothing is charged to the tenant's account here.
/// That is the most: of the tenant's other calls only its door knows, to which
/// [`Admitted::spent`] is told and which charges it by [`Admitted::charge_from_afar`].
pub fn lend(caller: HandedOn, call: Call, left: Left, now: Instant) -> Admitted {
    let caller = caller.into_caller();
    let allowances = Allowances::whole(&caller.rights().limits);
    let account = Account::lent(allowances, left, now);
    let mut accounts = Accounts::default();
    accounts.of.insert(caller.tenant().clone(), account);
    let permit = Permit::new(Arc::new(Mutex::new(accounts)), &caller, false);
    Admitted { caller, call, permit: Arc::new(permit) }
}

/// The accounts of every tenant at this door.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    accounts: Arc<Mutex<Accounts>>,
}

#[derive(Debug, Default)]
struct Accounts {
    of: HashMap<TenantName, Account>,
    division: Division,
    opening: Opening,
}

/// One running call's place. Not `Clone`: one place, one permit.
#[derive(Debug)]
struct Permit {
    accounts: Arc<Mutex<Accounts>>,
    tenant: TenantName,
    mode: LimitsMode,
    /// In shadow: whether the call has been counted as one that tokens would have refused or cut.
    is_shadowed: AtomicBool,
    spent: watch::Sender<Usage>,
}

impl Limiter {
    /// From now on this door is one that has been started again: what it had spent is not known,
    /// so that a bucket that is looked at for the first time has in it a first part, and what has
    /// been earned since.
    pub fn start_again(&self, now: Instant) {
        self.lock().opening = Opening::Again { at: now };
    }

    /// Spends by another division from now on.
    pub fn divide(&self, division: Division, now: Instant) {
        let mut accounts = self.lock();
        accounts.division = division;
        let Accounts { of, division, opening: _ } = &mut *accounts;
        for (tenant, account) in of {
            account.refill(now);
            account.divide(division.of(tenant));
        }
    }

    /// What tenants use of what this door may spend, and which limits refused calls lately.
    pub fn spends(&self, now: Instant) -> Spends {
        let accounts = self.lock();
        let epoch = match &accounts.division {
            Division::Even { .. } => 0,
            Division::Sliced(slices) => slices.epoch,
        };
        let used = accounts.of.iter();
        let tenants = used.filter_map(|(tenant, it)| Some((tenant.clone(), it.used(now)?)));
        let refused = accounts.of.iter();
        let reached = refused.filter_map(|(tenant, it)| Some((tenant.clone(), it.reached(now)?)));
        Spends { epoch, tenants: tenants.collect(), reached: reached.collect() }
    }

    /// Admits `call`, charging one request and taking one of the tenant's places.
    ///
    /// Tokens are set aside when it is known how many a prompt has ([`Admitted::reserve`]) and taken
    /// one by one after that, so a call is admitted while there is a token of each kind. In shadow a
    /// call beyond the limits per minute is counted and admitted.
    pub fn admit(&self, caller: Caller, call: Call, now: Instant) -> Result<Admitted, Refusal> {
        let mut accounts = self.lock();
        let account = accounts.open(&caller, now);
        account.take_place(now)?;
        let is_shadowed = account.take_request(caller.rights().limits_mode, now)?;
        account.calls += 1;
        drop(accounts);
        let permit = Permit::new(self.accounts.clone(), &caller, is_shadowed);
        Ok(Admitted { caller, call, permit: Arc::new(permit) })
    }

    /// What `caller` has left now.
    pub fn quota(&self, caller: &Caller, now: Instant) -> Quota {
        let mut accounts = self.lock();
        if accounts.of.contains_key(caller.tenant()) {
            return accounts.open(caller, now).quota();
        }
        accounts.opened(caller, now).quota()
    }

    /// What was let through in shadow, of each tenant that has called here.
    pub fn shadowed(&self) -> Vec<(TenantName, Shadowed)> {
        let accounts = self.lock();
        accounts.of.iter().map(|(tenant, account)| (tenant.clone(), account.shadowed)).collect()
    }

    /// Forgets tenants that are gone and have no call running.
    pub fn retain(&self, is_known: impl Fn(&TenantName) -> bool) {
        self.lock().of.retain(|tenant, account| account.calls > 0 || is_known(tenant));
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    /// The account of a caller's tenant, as it is now.
    fn open(&mut self, caller: &Caller, now: Instant) -> &mut Account {
        let fresh = self.opened(caller, now);
        let allowances = fresh.allowances();
        let account = self.of.entry(caller.tenant().clone()).or_insert(fresh);
        account.refill(now);
        account.become_of(allowances);
        account
    }

    /// That of a tenant which calls here for the first time.
    fn opened(&self, caller: &Caller, now: Instant) -> Account {
        let limits = &caller.rights().limits;
        let allowances = Allowances::new(limits, self.division.of(caller.tenant()));
        let first = Allowances::first(limits, self.division.share());
        Account::new(allowances, self.opening, first, now)
    }
}

impl Permit {
    fn new(accounts: Arc<Mutex<Accounts>>, caller: &Caller, is_shadowed: bool) -> Self {
        Self {
            accounts,
            tenant: caller.tenant().clone(),
            mode: caller.rights().limits_mode,
            is_shadowed: AtomicBool::new(is_shadowed),
            spent: watch::Sender::new(Usage::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, now: Instant) -> Left {
        let mut left = Left { input_tokens: 0, output_tokens: 0, per_minute: None };
        self.with(|account| {
            account.refill(now);
            left = account.left();
        });
        left
    }

    fn check(&self, now: Instant) -> Result<(), Refusal> {
        self.take(now, |account, _| account.check_tokens(now), |_, _| ())
    }

    fn charge(&self, usage: Usage, now: Instant) {
        let (input, output) = (computed(usage), usage.completion_tokens);
        self.with(|account| account.charge(input, output, self.mode, now));
        self.tell(usage);
    }

    /// Adds to what the call has spent.
    fn tell(&self, usage: Usage) {
        self.spent.send_modify(|spent| {
            spent.prompt_tokens = spent.prompt_tokens.saturating_add(usage.prompt_tokens);
            spent.cached_tokens = spent.cached_tokens.saturating_add(usage.cached_tokens);
            spent.completion_tokens =
                spent.completion_tokens.saturating_add(usage.completion_tokens);
        });
    }

    fn take_back(&self, usage: Usage) {
        self.with(|account| account.pour(computed(usage), usage.completion_tokens));
        self.spent.send_modify(|spent| {
            spent.prompt_tokens = spent.prompt_tokens.saturating_sub(usage.prompt_tokens);
            spent.cached_tokens = spent.cached_tokens.saturating_sub(usage.cached_tokens);
            spent.completion_tokens =
                spent.completion_tokens.saturating_sub(usage.completion_tokens);
        });
    }

    fn refund(&self, prompt_tokens: u32) {
        self.with(|account| account.pour(prompt_tokens, 0));
        self.tell(Usage { cached_tokens: prompt_tokens, ..Usage::default() });
    }
}

/// Cached tokens cost nothing to compute, and charging them would punish reuse.
const fn computed(usage: Usage) -> u32 {
    usage.prompt_tokens.saturating_sub(usage.cached_tokens)
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = self.lock().of.get_mut(&self.tenant) {
            account.calls = account.calls.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
