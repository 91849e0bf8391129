//! What a caller may spend: the only place an [`Admitted`] is made. Pure: time is an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    auth::{Caller, HandedOn},
    call::Call,
    desired::LimitsMode,
    engine::Usage,
    name::TenantName,
    refusal::Refusal,
};

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

    /// Whether the tenant may spend tokens now: not while its account is in debt. A call that goes
    /// on asks before each new piece of work, since it was admitted before it spent anything.
    pub fn check(&self, now: Instant) -> Result<(), Refusal> {
        self.permit.check(now)
    }

    /// Charges tokens as they are spent.
    pub fn charge(&self, usage: Usage, now: Instant) {
        self.permit.charge(usage, now);
    }

    /// Charges what was spent on another node, and says whether the call may go on there.
    ///
    /// That node knows what the tenant had left when the call was handed to it, and nothing of the
    /// tenant's other calls. A further prompt is a new piece of work: one that was begun while the
    /// account was in debt would have been refused here, and its call is not to go on. It is paid
    /// for all the same, since it was computed. The call's first prompt is what it was admitted
    /// for, and is not held against calls that were admitted beside it.
    pub fn charge_from_afar(&self, usage: Usage, now: Instant) -> Result<(), Refusal> {
        let is_first = self.permit.spent.borrow().prompt_tokens == 0;
        let is_new_work = usage.prompt_tokens > 0 && !is_first;
        let may_go_on = if is_new_work { self.permit.check(now) } else { Ok(()) };
        self.permit.charge(usage, now);
        may_go_on
    }

    /// Takes a charge back, of work that was lost and is done again.
    pub fn take_back(&self, usage: Usage, now: Instant) {
        self.permit.take_back(usage, now);
    }

    /// Gives back prompt tokens that were charged and turned out to be in the tenant's own cache.
    pub fn refund(&self, prompt_tokens: u32, now: Instant) {
        self.permit.refund(prompt_tokens, now);
    }
}

/// What is left of a tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub requests: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// Tokens that a call may spend where it does not pay itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// Admits a call that another door has admitted and pays for: it may spend what that door has
/// left for it and what time earns meanwhile, and nothing is charged to the tenant's account here.
/// That is the most: of the tenant's other calls only its door knows, to which
/// [`Admitted::spent`] is told and which charges it by [`Admitted::charge_from_afar`].
pub fn lend(caller: HandedOn, call: Call, left: Left, now: Instant) -> Admitted {
    let caller = caller.into_caller();
    let limits = caller.rights().limits;
    let bucket = |left: u32, per_minute| Bucket {
        level: f64::from(left).min(f64::from(per_minute)),
        ..Bucket::full(per_minute, now)
    };
    let account = Account {
        requests: Bucket::full(limits.requests_per_minute, now),
        input: bucket(left.input_tokens, limits.input_tokens_per_minute),
        output: bucket(left.output_tokens, limits.output_tokens_per_minute),
        calls: 1,
        shadowed: Shadowed::default(),
    };
    let accounts = HashMap::from([(caller.tenant().clone(), account)]);
    let permit = Permit::new(Arc::new(Mutex::new(accounts)), &caller);
    Admitted { caller, call, permit: Arc::new(permit) }
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
    mode: LimitsMode,
    spent: watch::Sender<Usage>,
}

#[derive(Debug)]
struct Account {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    calls: u32,
    shadowed: Shadowed,
}

/// Calls that were let through in shadow, by the limit that would have refused them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadowed {
    pub requests: u64,
    pub tokens: u64,
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
            // A debt is what was spent, which a new allowance does not change.
            if self.level > 0.0 {
                self.level *= f64::from(per_minute) / f64::from(self.per_minute.max(1));
            }
            self.per_minute = per_minute;
        }
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let size = f64::from(per_minute);
        self.level = (self.level + elapsed * size / 60.0).min(size);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes what was spent. In shadow a debt grows to one minute's allowance and no further: who
    /// begins to enforce does not refuse a tenant for hours because nobody refused it before.
    fn take(&mut self, units: u32, mode: LimitsMode) {
        self.level -= f64::from(units);
        if mode == LimitsMode::Shadow {
            self.level = self.level.max(-f64::from(self.per_minute));
        }
    }

    /// Puts back what was taken, as far as the bucket holds it.
    fn pour(&mut self, units: u32) {
        self.level = (self.level + f64::from(units)).min(f64::from(self.per_minute));
    }

    /// What is there, in whole units.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a level is at most a u32 allowance and is clamped at zero"
    )]
    fn whole(&self) -> u32 {
        self.level.max(0.0) as u32
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
    /// the token buckets are not in debt, and one call can overdraw them by its own cost. In shadow
    /// a call beyond the limits per minute is counted and admitted.
    pub fn admit(&self, caller: Caller, call: Call, now: Instant) -> Result<Admitted, Refusal> {
        let limits = caller.rights().limits;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(caller.tenant().clone()).or_insert_with(|| Account {
            requests: Bucket::full(limits.requests_per_minute, now),
            input: Bucket::full(limits.input_tokens_per_minute, now),
            output: Bucket::full(limits.output_tokens_per_minute, now),
            calls: 0,
            shadowed: Shadowed::default(),
        });
        account.refill(&caller, now);
        if account.calls >= limits.calls_max {
            return Err(Refusal::TooManyCalls { calls_max: limits.calls_max });
        }
        account.take_request(caller.rights().limits_mode)?;
        account.calls += 1;
        drop(accounts);
        let permit = Permit::new(self.accounts.clone(), &caller);
        Ok(Admitted { caller, call, permit: Arc::new(permit) })
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
        Quota {
            requests: account.requests.whole(),
            input_tokens: account.input.whole(),
            output_tokens: account.output.whole(),
        }
    }

    /// What was let through in shadow, of each tenant that has called here.
    pub fn shadowed(&self) -> Vec<(TenantName, Shadowed)> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(tenant, account)| (tenant.clone(), account.shadowed)).collect()
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

    /// Pours in what time has earned of tokens, at the allowance that the last call came with.
    fn refill_tokens(&mut self, now: Instant) {
        for bucket in [&mut self.input, &mut self.output] {
            bucket.refill(bucket.per_minute, now);
        }
    }

    /// Takes one request, if what the tenant may spend in a minute allows it another call.
    fn take_request(&mut self, mode: LimitsMode) -> Result<(), Refusal> {
        let is_beyond_tokens = self.check_tokens();
        let is_beyond_requests = self.check_requests();
        if mode == LimitsMode::Enforce {
            is_beyond_tokens.and(is_beyond_requests)?;
            self.requests.take(1, mode);
            return Ok(());
        }
        self.shadowed.tokens += u64::from(is_beyond_tokens.is_err());
        match is_beyond_requests {
            Ok(()) => self.requests.take(1, mode),
            // It would have been refused, and a refused call takes nothing.
            Err(_) => self.shadowed.requests += 1,
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), Refusal> {
        if self.requests.level >= 1.0 {
            return Ok(());
        }
        Err(Refusal::TooManyRequests {
            per_minute: self.requests.per_minute,
            retry_after_ms: self.requests.wait_ms(1.0),
        })
    }

    fn check_tokens(&self) -> Result<(), Refusal> {
        match [&self.input, &self.output].into_iter().find(|bucket| bucket.level < 1.0) {
            None => Ok(()),
            Some(bucket) => Err(Refusal::TooManyTokens {
                per_minute: bucket.per_minute,
                retry_after_ms: bucket.wait_ms(1.0),
            }),
        }
    }
}

impl Permit {
    fn new(accounts: Arc<Mutex<HashMap<TenantName, Account>>>, caller: &Caller) -> Self {
        Self {
            accounts,
            tenant: caller.tenant().clone(),
            mode: caller.rights().limits_mode,
            spent: watch::Sender::new(Usage::default()),
        }
    }

    fn left(&self, now: Instant) -> Left {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // A running call keeps its tenant's account.
        let Some(account) = accounts.get_mut(&self.tenant) else {
            return Left { input_tokens: 0, output_tokens: 0 };
        };
        account.refill_tokens(now);
        Left { input_tokens: account.input.whole(), output_tokens: account.output.whole() }
    }

    fn check(&self, now: Instant) -> Result<(), Refusal> {
        if self.mode == LimitsMode::Shadow {
            // It was counted, if need be, when it was admitted.
            return Ok(());
        }
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // A running call keeps its tenant's account: `retain` does not forget it.
        let Some(account) = accounts.get_mut(&self.tenant) else { return Ok(()) };
        account.refill_tokens(now);
        account.check_tokens()
    }

    fn charge(&self, usage: Usage, now: Instant) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.tenant) {
            account.refill_tokens(now);
            // Cached tokens cost nothing to compute, and charging them would punish reuse.
            let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
            account.input.take(computed, self.mode);
            account.output.take(usage.completion_tokens, self.mode);
        }
        drop(accounts);
        self.spent.send_modify(|spent| {
            spent.prompt_tokens = spent.prompt_tokens.saturating_add(usage.prompt_tokens);
            spent.cached_tokens = spent.cached_tokens.saturating_add(usage.cached_tokens);
            spent.completion_tokens =
                spent.completion_tokens.saturating_add(usage.completion_tokens);
        });
    }

    fn take_back(&self, usage: Usage, now: Instant) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.tenant) {
            account.refill_tokens(now);
            let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
            account.input.pour(computed);
            account.output.pour(usage.completion_tokens);
        }
        drop(accounts);
        self.spent.send_modify(|spent| {
            spent.prompt_tokens = spent.prompt_tokens.saturating_sub(usage.prompt_tokens);
            spent.cached_tokens = spent.cached_tokens.saturating_sub(usage.cached_tokens);
            spent.completion_tokens =
                spent.completion_tokens.saturating_sub(usage.completion_tokens);
        });
    }

    fn refund(&self, prompt_tokens: u32, now: Instant) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.tenant) {
            account.refill_tokens(now);
            account.input.pour(prompt_tokens);
        }
        drop(accounts);
        self.spent.send_modify(|spent| {
            spent.cached_tokens = spent.cached_tokens.saturating_add(prompt_tokens);
        });
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        auth::{self, Credential, Roster, verify},
        call::CallId,
        desired::{ApiKey, DesiredTenant, Limits},
        fixtures::tenant,
    };

    fn caller(change: impl Fn(&mut Limits)) -> Caller {
        caller_of(|tenant| change(&mut tenant.limits))
    }

    fn in_mode(mode: LimitsMode) -> Caller {
        caller_of(|tenant| tenant.limits_mode = mode)
    }

    fn caller_of(change: impl Fn(&mut DesiredTenant)) -> Caller {
        let mut tenant = tenant("acme");
        change(&mut tenant);
        let sha256 = Credential::of("key").digest();
        tenant.keys.push(ApiKey { name: "k".into(), sha256, expires_at: None, disabled: false });
        verify(&Roster::new([Arc::new(tenant)]), Credential::of("key"), 0).unwrap()
    }

    fn call() -> Call {
        let id = CallId("1".into());
        Call::new(id, "chat", serde_json::Value::Null)
    }

    fn usage(prompt_tokens: u32, cached_tokens: u32, completion_tokens: u32) -> Usage {
        Usage { prompt_tokens, cached_tokens, completion_tokens }
    }

    #[test]
    fn the_request_after_the_last_allowed_one_is_told_when_to_return() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        for _ in 0..60 {
            drop(limiter.admit(caller.clone(), call(), now).unwrap());
        }
        let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyRequests { per_minute: 60, retry_after_ms: 1000 });
        limiter.admit(caller, call(), now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn a_place_is_given_back_when_the_call_is_dropped() {
        let (limiter, caller, now) =
            (Limiter::default(), caller(|l| l.calls_max = 1), Instant::now());
        let running = limiter.admit(caller.clone(), call(), now).unwrap();
        let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyCalls { calls_max: 1 });
        drop(running);
        limiter.admit(caller, call(), now).unwrap();
    }

    #[test]
    fn overdrawn_tokens_are_paid_back_before_the_next_call() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let running = limiter.admit(caller.clone(), call(), now).unwrap();
        running.charge(usage(10, 0, 149), now);
        let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_000 });
        limiter.admit(caller, call(), now + Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn a_running_call_may_not_go_on_spending_while_in_debt() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let running = limiter.admit(caller, call(), now).unwrap();
        running.charge(usage(0, 0, 99), now);
        running.check(now).unwrap();
        running.charge(usage(0, 0, 50), now);
        let refusal = running.check(now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_000 });
        running.check(now + Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn cached_tokens_are_free() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let running = limiter.admit(caller.clone(), call(), now).unwrap();
        running.charge(usage(500, 400, 7), now);
        let quota = limiter.quota(&caller, now);
        assert_eq!(quota, Quota { requests: 59, input_tokens: 900, output_tokens: 93 });
    }

    #[test]
    fn a_refund_gives_back_what_was_charged_and_never_more_than_a_minutes_allowance() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let running = limiter.admit(caller.clone(), call(), now).unwrap();
        running.charge(usage(500, 0, 0), now);
        running.refund(400, now);
        assert_eq!(limiter.quota(&caller, now).input_tokens, 900);
        running.refund(400, now);
        assert_eq!(limiter.quota(&caller, now).input_tokens, 1000);
    }

    #[test]
    fn in_shadow_what_would_be_refused_is_counted_and_let_through() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let shadow = in_mode(LimitsMode::Shadow);
        for _ in 0..63 {
            drop(limiter.admit(shadow.clone(), call(), now).unwrap());
        }
        let running = limiter.admit(shadow.clone(), call(), now).unwrap();
        running.charge(usage(0, 0, 1_000_000), now);
        running.check(now).unwrap();
        running.charge_from_afar(usage(1, 0, 0), now).unwrap();
        running.charge_from_afar(usage(1, 0, 0), now).unwrap();
        drop(limiter.admit(shadow, call(), now).unwrap());
        let (tenant, shadowed) = limiter.shadowed().remove(0);
        assert_eq!(tenant, TenantName::new("default", "acme").unwrap());
        assert_eq!(shadowed, Shadowed { requests: 5, tokens: 1 });
    }

    #[test]
    fn who_leaves_the_shadow_is_served_again_within_two_minutes_whatever_was_spent_in_it() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let running = limiter.admit(in_mode(LimitsMode::Shadow), call(), now).unwrap();
        running.charge(usage(1_000_000, 0, 1_000_000), now);
        drop(running);
        let enforced = in_mode(LimitsMode::Enforce);
        limiter.admit(enforced.clone(), call(), now).unwrap_err();
        limiter.admit(enforced, call(), now + Duration::from_secs(61)).unwrap();
    }

    #[test]
    fn in_shadow_a_tenant_still_has_no_more_calls_at_once_than_it_may() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let shadow = in_mode(LimitsMode::Shadow);
        let calls_max = shadow.rights().limits.calls_max;
        let running: Vec<_> =
            (0..calls_max).map(|_| limiter.admit(shadow.clone(), call(), now).unwrap()).collect();
        let refusal = limiter.admit(shadow, call(), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyCalls { calls_max });
        drop(running);
    }

    #[test]
    fn a_changed_limit_scales_what_is_left() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..30 {
            drop(limiter.admit(caller(|_| ()), call(), now).unwrap());
        }
        let raised = caller(|limits| limits.requests_per_minute = 600);
        assert_eq!(limiter.quota(&raised, now).requests, 300);
    }

    #[test]
    fn a_raised_limit_pays_a_debt_back_sooner() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let low = caller(|limits| limits.output_tokens_per_minute = 20);
        limiter.admit(low.clone(), call(), now).unwrap().charge(usage(0, 0, 100), now);
        limiter.admit(low, call(), now).unwrap_err();
        let raised = caller(|limits| limits.output_tokens_per_minute = 60_000);
        let refusal = limiter.admit(raised.clone(), call(), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 60_000, retry_after_ms: 81 });
        limiter.admit(raised, call(), now + Duration::from_millis(81)).unwrap();
    }

    #[test]
    fn a_tenant_with_a_running_call_is_not_forgotten() {
        let (limiter, caller, now) =
            (Limiter::default(), caller(|l| l.calls_max = 1), Instant::now());
        let _running = limiter.admit(caller.clone(), call(), now).unwrap();
        limiter.retain(|_| false);
        limiter.admit(caller, call(), now).unwrap_err();
    }

    proptest! {
        /// Over any stretch of time no more is admitted than a full bucket and what the time earned.
        #[test]
        fn the_limiter_never_admits_too_much(gaps_ms in prop::collection::vec(0_u64..3_000, 1..300)) {
            let (limiter, caller, start) = (Limiter::default(), caller(|_| ()), Instant::now());
            let (mut now, mut admitted) = (start, 0_u32);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                admitted += u32::from(limiter.admit(caller.clone(), call(), now).is_ok());
                let earned = 60.0 + now.duration_since(start).as_secs_f64();
                prop_assert!(f64::from(admitted) <= earned + 1e-6);
            }
        }
    }

    /// A call of the tenant `acme` that a peer hands on with so many tokens left.
    fn lent(input_tokens: u32, output_tokens: u32, now: Instant) -> Admitted {
        let tenant = Arc::new(caller(|_| ()).rights().clone());
        let roster = Roster::new([tenant.clone()]);
        let peer = auth::VerifiedPeer::vouch("n1");
        let handed_on = auth::from_peer(&roster, &peer, &tenant.name, "k", 0).unwrap();
        lend(handed_on, call(), Left { input_tokens, output_tokens }, now)
    }

    #[test]
    fn a_lent_call_is_held_to_what_its_door_has_left_and_tells_what_it_spent() {
        let now = Instant::now();
        let lent = lent(20, 10, now);
        let spent = lent.spent();
        lent.check(now).unwrap();
        lent.charge(Usage { prompt_tokens: 25, cached_tokens: 0, completion_tokens: 3 }, now);
        assert!(matches!(lent.check(now), Err(Refusal::TooManyTokens { per_minute: 1000, .. })));
        lent.refund(10, now);
        lent.check(now).unwrap();
        let expected = Usage { prompt_tokens: 25, cached_tokens: 10, completion_tokens: 3 };
        assert_eq!(*spent.borrow(), expected);
        drop(lent);
        assert_eq!(*spent.borrow(), expected, "the total outlives the call");
    }

    #[test]
    fn calls_that_run_elsewhere_begin_nothing_while_their_tenant_is_in_debt() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let one = limiter.admit(caller.clone(), call(), now).unwrap();
        let other = limiter.admit(caller.clone(), call(), now).unwrap();
        one.charge_from_afar(usage(10, 0, 0), now).unwrap();
        other.charge_from_afar(usage(10, 0, 0), now).unwrap();
        // What has begun goes on, as it does here.
        one.charge_from_afar(usage(0, 0, 90), now).unwrap();
        other.charge_from_afar(usage(0, 0, 90), now).unwrap();
        let refusal = one.charge_from_afar(usage(10, 0, 0), now).unwrap_err();
        assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 48_600 });
        let left = limiter.quota(&caller, now);
        assert_eq!((left.input_tokens, left.output_tokens), (970, 0), "it is paid for");
        one.charge_from_afar(usage(10, 0, 0), now + Duration::from_mins(1)).unwrap();
    }

    #[test]
    fn calls_that_were_admitted_together_and_run_elsewhere_all_get_what_they_pay_for() {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let burst: Vec<_> =
            (0..3).map(|_| limiter.admit(caller.clone(), call(), now).unwrap()).collect();
        for admitted in &burst {
            admitted.charge_from_afar(usage(900, 0, 60), now).unwrap();
        }
        for admitted in &burst {
            admitted.charge_from_afar(usage(1, 0, 0), now).unwrap_err();
        }
        assert!(limiter.admit(caller, call(), now).is_err(), "the debt is the tenant's");
    }

    #[test]
    fn a_lent_call_has_no_more_than_its_own_tenants_allowance() {
        let now = Instant::now();
        let left = lent(u32::MAX, u32::MAX, now).left(now);
        assert_eq!(left, Left { input_tokens: 1000, output_tokens: 100 });
    }

    #[test]
    fn a_part_spends_from_the_account_of_its_call_and_keeps_its_place() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let one = || caller(|limits| limits.calls_max = 1);
        let whole = limiter.admit(one(), call(), now).unwrap();
        let part = whole.part(call());
        let spent = whole.spent();
        part.charge(Usage { prompt_tokens: 7, ..Usage::default() }, now);
        assert_eq!(spent.borrow().prompt_tokens, 7);
        assert_eq!(whole.left(now).input_tokens, 993);
        drop(whole);
        assert_eq!(
            limiter.admit(one(), call(), now).unwrap_err(),
            Refusal::TooManyCalls { calls_max: 1 }
        );
        drop(part);
        limiter.admit(one(), call(), now).unwrap();
    }

    #[test]
    fn a_charge_that_is_taken_back_leaves_nothing_behind() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let admitted = limiter.admit(caller(|_| ()), call(), now).unwrap();
        let before = admitted.left(now);
        admitted.charge(usage(30, 0, 5), now);
        admitted.refund(10, now);
        admitted.take_back(usage(30, 10, 5), now);
        assert_eq!(admitted.left(now), before);
        assert_eq!(*admitted.spent().borrow(), Usage::default());
    }
}
