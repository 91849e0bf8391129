//! What one tenant has at this door, and what it uses of it.

use std::time::Instant;

use super::{
    Lacks, Left, PerMinute, Quota,
    bucket::{Allowance, Bucket, Meter, Refusals, SHORT_PER_MINUTE},
};
use crate::{
    desired::{Limits, LimitsMode},
    refusal::Refusal,
    slices::{Each, Reached, Use, parts_of},
};

/// The least that a door keeps of a tenant's limits wherever its calls go, as one part in so many
/// of what it has where nothing is known: so much is in a bucket of a door that starts again.
const FIRST_IN: u32 = 8;

/// Each limit: all of it, and this door's part.
pub(super) type Allowances = Each<Allowance>;

impl Allowances {
    /// The parts of a tenant's limits.
    pub(super) fn new(limits: &Limits, parts: Each<u32>) -> Self {
        let mut allowances = Self::whole(limits);
        allowances.divide(parts);
        allowances
    }

    pub(super) fn whole(limits: &Limits) -> Self {
        Self {
            requests: Allowance::whole(limits.requests_per_minute),
            input_tokens: Allowance::whole(limits.input_tokens_per_minute),
            output_tokens: Allowance::whole(limits.output_tokens_per_minute),
            calls: Allowance::whole(limits.calls_max),
        }
    }

    /// What is in the buckets of a door that starts again, where a tenant has so many parts of
    /// which nothing in particular is known.
    pub(super) fn first(limits: &Limits, share: u32) -> Each<u32> {
        let Self { requests, input_tokens, output_tokens, calls } =
            Self::new(limits, Each::all(share / FIRST_IN));
        Each {
            requests: requests.part,
            input_tokens: input_tokens.part,
            output_tokens: output_tokens.part,
            calls: calls.part,
        }
    }

    fn divide(&mut self, parts: Each<u32>) {
        let Self { requests, input_tokens, output_tokens, calls } = self;
        for (allowance, parts) in [
            (requests, parts.requests),
            (input_tokens, parts.input_tokens),
            (output_tokens, parts.output_tokens),
            (calls, parts.calls),
        ] {
            *allowance = Allowance::parts(allowance.whole, parts);
        }
    }
}

/// What is in the buckets of a tenant that calls for the first time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Opening {
    /// All that they hold: nobody has let it in here before.
    #[default]
    Full,
    /// What this door had let in before it ended is not known.
    Again { at: Instant },
}

/// Calls that were let through in shadow, by the limit that would have refused them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadowed {
    pub requests: u64,
    pub tokens: u64,
}

/// Of two refusals the one that is to be waited for longer: who comes then finds both.
fn longest_wait(one: Result<(), Refusal>, other: Result<(), Refusal>) -> Result<(), Refusal> {
    match (one, other) {
        (Err(one), Err(other)) if other.retry_after_ms() > one.retry_after_ms() => Err(other),
        (one, other) => one.and(other),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Account {
    allowances: Allowances,
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    pub(super) calls: u32,
    pub(super) shadowed: Shadowed,
    /// What is spent, and what is refused: of calls only that.
    spends: Each<Meter>,
    refuses: Each<Refusals>,
}

impl Account {
    pub(super) fn new(
        allowances: Allowances,
        opening: Opening,
        first: Each<u32>,
        now: Instant,
    ) -> Self {
        let bucket = |allowance: Allowance, first: u32| match opening {
            Opening::Full => Bucket::full(allowance, now),
            Opening::Again { at } => {
                let mut bucket = Bucket::new(allowance, f64::from(first), at);
                bucket.refill(now);
                bucket
            }
        };
        Self {
            allowances,
            requests: bucket(allowances.requests, first.requests),
            input: bucket(allowances.input_tokens, first.input_tokens),
            output: bucket(allowances.output_tokens, first.output_tokens),
            calls: 0,
            shadowed: Shadowed::default(),
            spends: Each::all(Meter::new(now)),
            refuses: Each::all(Refusals::new(now)),
        }
    }

    /// That of one call which another door pays for.
    ///
    /// What the other door has beyond whole tokens is not told: of its answer a call may have one
    /// more here, so that it is the other door which ends it and says how long to wait.
    pub(super) fn lent(mut allowances: Allowances, left: Left, now: Instant) -> Self {
        let Left { input_tokens, output_tokens, per_minute } = left;
        if let Some(PerMinute { input_tokens, output_tokens }) = per_minute {
            let Each { input_tokens: input, output_tokens: output, .. } = &mut allowances;
            *input = Allowance::some(input.whole, input_tokens);
            *output = Allowance::some(output.whole, output_tokens);
        }
        let fresh = Self::new(allowances, Opening::Full, Each::all(0), now);
        let bucket = |left: u32, allowance| Bucket::new(allowance, f64::from(left), now);
        Self {
            input: bucket(input_tokens, allowances.input_tokens),
            output: bucket(output_tokens.saturating_add(1), allowances.output_tokens),
            calls: 1,
            ..fresh
        }
    }

    /// What a call may spend of this account elsewhere.
    pub(super) fn left(&self) -> Left {
        Left {
            input_tokens: self.input.whole(),
            output_tokens: self.output.whole(),
            per_minute: Some(PerMinute {
                input_tokens: self.input.per_minute(),
                output_tokens: self.output.per_minute(),
            }),
        }
    }

    pub(super) const fn allowances(&self) -> Allowances {
        self.allowances
    }

    /// Pours in what time has earned.
    pub(super) fn refill(&mut self, now: Instant) {
        self.requests.refill(now);
        self.input.refill(now);
        self.output.refill(now);
    }

    /// Goes on with other limits, or other parts of them.
    pub(super) fn become_of(&mut self, allowances: Allowances) {
        self.forget_refusals_of_others(allowances);
        self.allowances = allowances;
        self.requests.become_of(allowances.requests);
        self.input.become_of(allowances.input_tokens);
        self.output.become_of(allowances.output_tokens);
    }

    /// A limit that is another one by now has refused nothing yet.
    fn forget_refusals_of_others(&mut self, next: Allowances) {
        let (before, refuses) = (self.allowances, &mut self.refuses);
        for (refuses, before, next) in [
            (&mut refuses.requests, before.requests, next.requests),
            (&mut refuses.input_tokens, before.input_tokens, next.input_tokens),
            (&mut refuses.output_tokens, before.output_tokens, next.output_tokens),
            (&mut refuses.calls, before.calls, next.calls),
        ] {
            if before.whole != next.whole {
                refuses.forget();
            }
        }
    }

    /// Goes on with other parts of the limits that the last call came with.
    pub(super) fn divide(&mut self, parts: Each<u32>) {
        let mut allowances = self.allowances;
        allowances.divide(parts);
        self.become_of(allowances);
    }

    pub(super) fn quota(&self) -> Quota {
        Quota {
            requests: self.requests.whole(),
            input_tokens: self.input.whole(),
            output_tokens: self.output.whole(),
        }
    }

    /// Whether one more call may run.
    pub(super) fn take_place(&mut self, now: Instant) -> Result<(), Refusal> {
        let calls_max = self.allowances.calls.part;
        if self.calls < calls_max {
            return Ok(());
        }
        self.refuses.calls.add(now);
        Err(Refusal::TooManyCalls { calls_max })
    }

    /// Takes one request, if what the tenant may spend in a minute allows it another call. In
    /// shadow it does; whether tokens would have refused it is what comes back.
    pub(super) fn take_request(&mut self, mode: LimitsMode, now: Instant) -> Result<bool, Refusal> {
        let is_beyond_tokens = self.check_tokens(now);
        let is_beyond_requests = self.check_requests(now);
        if mode == LimitsMode::Enforce {
            longest_wait(is_beyond_tokens, is_beyond_requests)?;
            self.spend_request(mode, now);
            return Ok(false);
        }
        self.shadowed.tokens += u64::from(is_beyond_tokens.is_err());
        match is_beyond_requests {
            Ok(()) => self.spend_request(mode, now),
            // It would have been refused, and a refused call takes nothing.
            Err(_) => self.shadowed.requests += 1,
        }
        Ok(is_beyond_tokens.is_err())
    }

    fn spend_request(&mut self, mode: LimitsMode, now: Instant) {
        self.requests.take(1, mode);
        self.spends.requests.add(1, now);
    }

    fn check_requests(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.requests.has(1) {
            return Ok(());
        }
        self.refuses.requests.add(now);
        Err(Refusal::TooManyRequests {
            per_minute: self.requests.per_minute(),
            retry_after_ms: self.requests.wait_ms(1),
        })
    }

    /// Whether tokens may be spent: not while a bucket of them is empty.
    pub(super) fn check_tokens(&mut self, now: Instant) -> Result<(), Refusal> {
        self.check_for(1, 1, now)
    }

    /// Counts what was refused elsewhere for want of tokens of this account. Where there are some of
    /// each kind, a prompt was larger than what is left, or an answer has spent there what the call
    /// went with.
    pub(super) fn refused_from_afar(&mut self, lacks: Lacks, now: Instant) -> Result<(), Refusal> {
        self.check_tokens(now).inspect(|()| match lacks {
            Lacks::Prompt => self.refuses.input_tokens.add(now),
            Lacks::Answer => self.refuses.output_tokens.add(now),
        })
    }

    /// Whether any minute has so many tokens of input.
    pub(super) fn check_may_hold(&self, input: u32) -> Result<(), Refusal> {
        if self.input.may_hold(input) {
            return Ok(());
        }
        let per_minute = self.input.whole_per_minute();
        Err(Refusal::TooLongForLimit { tokens: input, per_minute })
    }

    /// Whether there are so many tokens of each kind. Who is told to come again is told when there
    /// are of both.
    pub(super) fn check_for(
        &mut self,
        input: u32,
        output: u32,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Each { input_tokens, output_tokens, .. } = &mut self.refuses;
        let needs = [(&self.input, input, input_tokens), (&self.output, output, output_tokens)];
        let mut longest: Option<(u64, u32)> = None;
        for (bucket, needed, refuses) in needs {
            if !bucket.has(needed) {
                refuses.add(now);
                longest = longest.max(Some((bucket.wait_ms(needed), bucket.per_minute())));
            }
        }
        match longest {
            None => Ok(()),
            Some((retry_after_ms, per_minute)) => {
                Err(Refusal::TooManyTokens { per_minute, retry_after_ms })
            }
        }
    }

    /// Sets tokens aside, which are neither spent nor there for anybody else.
    pub(super) fn set_aside(&mut self, input: u32, output: u32, mode: LimitsMode) {
        self.input.set_aside(input, mode);
        self.output.set_aside(output, mode);
    }

    /// Spends tokens that were set aside.
    pub(super) fn spend_aside(&mut self, input: u32, output: u32, now: Instant) {
        // While they were set aside there was no room for what time would have earned in their place.
        self.refill(now);
        self.input.spend_aside(input);
        self.output.spend_aside(output);
        self.count(input, output, now);
    }

    /// Puts back tokens that were set aside.
    pub(super) fn put_back(&mut self, input: u32, output: u32) {
        self.input.put_back(input);
        self.output.put_back(output);
    }

    /// Charges tokens whatever is left.
    pub(super) fn charge(&mut self, input: u32, output: u32, mode: LimitsMode, now: Instant) {
        self.refill(now);
        self.input.take(input, mode);
        self.output.take(output, mode);
        self.count(input, output, now);
    }

    fn count(&mut self, input: u32, output: u32, now: Instant) {
        self.spends.input_tokens.add(input, now);
        self.spends.output_tokens.add(output, now);
    }

    /// Charges tokens that nobody got, as far as there are any: for them nobody waits.
    pub(super) fn charge_some(&mut self, output: u32, now: Instant) {
        self.refill(now);
        self.output.take_some(output);
        self.count(0, output, now);
    }

    /// Puts tokens back. What time has earned meanwhile comes to the same before and after.
    pub(super) fn pour(&mut self, input: u32, output: u32) {
        self.input.pour(input);
        self.output.pour(output);
    }

    /// What the tenant uses here, if anything.
    pub(super) fn used(&self, now: Instant) -> Option<Use> {
        let Allowances { requests, input_tokens, output_tokens, calls } = self.allowances;
        let spends = |allowance: Allowance, meter: &Meter| {
            // A trace of what was spent minutes ago is none.
            let pace = meter.per_minute(now);
            if pace < SHORT_PER_MINUTE { 0 } else { parts_of(allowance.whole, pace) }
        };
        let in_hand = parts_of(calls.whole, f64::from(self.calls));
        let used = Use {
            used: Each {
                requests: spends(requests, &self.spends.requests),
                input_tokens: spends(input_tokens, &self.spends.input_tokens),
                output_tokens: spends(output_tokens, &self.spends.output_tokens),
                calls: in_hand,
            },
            is_short: Each {
                requests: self.refuses.requests.is_short(now),
                input_tokens: self.refuses.input_tokens.is_short(now),
                output_tokens: self.refuses.output_tokens.is_short(now),
                calls: self.refuses.calls.is_short(now),
            },
            calls_over: if self.calls > calls.part { in_hand } else { 0 },
        };
        (used != Use::default()).then_some(used)
    }

    /// Which limits refused calls here in the last minute, or would have in shadow; `None` where
    /// none did.
    pub(super) fn reached(&self, now: Instant) -> Option<Reached> {
        let Each { requests, input_tokens, output_tokens, calls } = &self.refuses;
        let refused = Each {
            requests: requests.is_recent(now),
            input_tokens: input_tokens.is_recent(now),
            output_tokens: output_tokens.is_recent(now),
            calls: calls.is_recent(now),
        };
        (refused != Each::all(false)).then_some(Reached { refused, ..Reached::default() })
    }
}
