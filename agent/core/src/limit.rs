//! What a caller may spend: the only place an [`Admitted`] is made. Pure: time is an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{auth::Caller, call::Call, engine::Usage, name::TenantName, refusal::Refusal};

/// A call whose caller is known and whose limits have been charged. Dropping it gives its place
/// back.
#[derive(Debug)]
pub struct Admitted {
    caller: Caller,
    call: Call,
    permit: Permit,
}

impl Admitted {
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    pub const fn call(&self) -> &Call {
        &self.call
    }

    /// Charges tokens as they are spent.
    pub fn charge(&self, usage: Usage, now: Instant) {
        self.permit.charge(usage, now);
    }
}

/// What is left of a tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub requests: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// The token buckets of every tenant at this door.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    accounts: Arc<Mutex<HashMap<TenantName, Account>>>,
}

/// One running call's place. Not `Clone`: one place, one permit.
#[derive(Debug)]
struct Permit {
    accounts: Arc<Mutex<HashMap<TenantName, Account>>>,
    tenant: TenantName,
}

#[derive(Debug)]
struct Account {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    calls: u32,
}

/// A bucket that holds one minute's allowance and may go into debt by what a running call costs.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    per_minute: u32,
    filled_at: Instant,
}

impl Bucket {
    fn full(per_minute: u32, now: Instant) -> Self {
        Self { level: f64::from(per_minute), per_minute, filled_at: now }
    }

    /// Pours in what time has earned. A changed allowance scales the level, so that neither a
    /// raise nor a cut hands out or takes away a minute at once.
    fn refill(&mut self, per_minute: u32, now: Instant) {
        if per_minute != self.per_minute {
            self.level *= f64::from(per_minute) / f64::from(self.per_minute.max(1));
            self.per_minute = per_minute;
        }
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let size = f64::from(per_minute);
        self.level = (self.level + elapsed * size / 60.0).min(size);
        self.filled_at = self.filled_at.max(now);
    }

    /// How long until `needed` is there.
    fn wait_ms(&self, needed: f64) -> u64 {
        let missing = (needed - self.level).max(0.0);
        let rate = f64::from(self.per_minute.max(1)) / 60.0;
        u64::try_from(Duration::from_secs_f64(missing / rate).as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

impl Limiter {
    /// Admits `call`, charging one request and taking one of the tenant's places.
    ///
    /// Tokens are charged as they are spent ([`Admitted::charge`]), so a call is admitted while
    /// the token buckets are not in debt, and one call can overdraw them by its own cost.
    pub fn admit(&self, caller: Caller, call: Call, now: Instant) -> Result<Admitted, Refusal> {
        let limits = caller.rights().limits;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(caller.tenant().clone()).or_insert_with(|| Account {
            requests: Bucket::full(limits.requests_per_minute, now),
            input: Bucket::full(limits.input_tokens_per_minute, now),
            output: Bucket::full(limits.output_tokens_per_minute, now),
            calls: 0,
        });
        account.refill(&caller, now);
        if account.calls >= limits.calls_max {
            return Err(Refusal::TooManyCalls { calls_max: limits.calls_max });
        }
        for bucket in [&account.input, &account.output] {
            if bucket.level < 1.0 {
                let (per_minute, retry_after_ms) = (bucket.per_minute, bucket.wait_ms(1.0));
                return Err(Refusal::TooManyTokens { per_minute, retry_after_ms });
            }
        }
        if account.requests.level < 1.0 {
            return Err(Refusal::TooManyRequests {
                per_minute: limits.requests_per_minute,
                retry_after_ms: account.requests.wait_ms(1.0),
            });
        }
        account.requests.level -= 1.0;
        account.calls += 1;
        let permit = Permit { accounts: self.accounts.clone(), tenant: caller.tenant().clone() };
        drop(accounts);
        Ok(Admitted { caller, call, permit })
    }

    /// What `caller` has left now.
    pub fn quota(&self, caller: &Caller, now: Instant) -> Quota {
        let limits = caller.rights().limits;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = accounts.get_mut(caller.tenant()) else {
            return Quota {
                requests: limits.requests_per_minute,
                input_tokens: limits.input_tokens_per_minute,
                output_tokens: limits.output_tokens_per_minute,
            };
        };
        account.refill(caller, now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a level is at most a u32 allowance and is clamped at zero"
        )]
        let whole = |bucket: &Bucket| bucket.level.max(0.0) as u32;
        Quota {
            requests: whole(&account.requests),
            input_tokens: whole(&account.input),
            output_tokens: whole(&account.output),
        }
    }

    /// Forgets tenants that are gone and have no call running.
    pub fn retain(&self, is_known: impl Fn(&TenantName) -> bool) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|tenant, account| account.calls > 0 || is_known(tenant));
    }
}

impl Account {
    fn refill(&mut self, caller: &Caller, now: Instant) {
        let limits = caller.rights().limits;
        self.requests.refill(limits.requests_per_minute, now);
        self.input.refill(limits.input_tokens_per_minute, now);
        self.output.refill(limits.output_tokens_per_minute, now);
    }
}

impl Permit {
    fn charge(&self, usage: Usage, now: Instant) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.tenant) {
            let (input, output) = (account.input.per_minute, account.output.per_minute);
            account.input.refill(input, now);
            account.output.refill(output, now);
            // Cached tokens cost nothing to compute, and charging them would punish reuse.
            let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
            account.input.level -= f64::from(computed);
            account.output.level -= f64::from(usage.completion_tokens);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.tenant) {
            account.calls = account.calls.saturating_sub(1);
        }
    }
}
