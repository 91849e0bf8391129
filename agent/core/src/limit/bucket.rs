//! Buckets that hold one minute's allowance, and meters of what is taken from them.

use std::time::{Duration, Instant};

use crate::{
    desired::LimitsMode,
    slices::{PARTS, part_of},
};

/// What a tenant may spend in a minute: at all doors, and at this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) whole: u32,
    /// What a bucket holds of it here, in whole units: rounded up, since less than one is never spent.
    pub(super) part: u32,
    /// What a minute earns here, in parts of a unit: to the part, so that all doors together earn no
    /// more than the limit.
    earns: u64,
}

impl Allowance {
    /// All of a limit.
    pub(super) const fn whole(limit: u32) -> Self {
        Self { whole: limit, part: limit, earns: limit as u64 * PARTS as u64 }
    }

    /// So many parts of a limit.
    pub(super) fn parts(whole: u32, parts: u32) -> Self {
        Self { whole, part: part_of(whole, parts), earns: u64::from(whole) * u64::from(parts) }
    }

    /// So much of a limit, and no more than all of it.
    pub(super) fn some(whole: u32, some: u32) -> Self {
        Self { whole, ..Self::whole(some.min(whole)) }
    }

    fn per_minute(self) -> f64 {
        self.earns as f64 / f64::from(PARTS)
    }

    fn is_whole(self) -> bool {
        self == Self::whole(self.whole)
    }
}

/// How long a refused call waits where no time is known to bring what it needs. At a door that has
/// no part of a limit the operator looks at who has which every few seconds; where all that a bucket
/// holds is set aside, who set it aside spends it or puts it back.
const NO_PART_WAIT: Duration = Duration::from_secs(5);

/// Milliseconds after which it is worth to ask a door again that has a part of a limit: a dozen times
/// it has been looked by then at who needs which part, and a door that refuses calls has more of it,
/// where others let go of any.
const ASK_AGAIN_MS: f64 = 60_000.0;

/// What a level may lack of a whole unit and still be one: sums of what time earns are off by less
/// in a year, and it is far less than anybody could spend.
const ROUNDING: f64 = 1e-6;

/// A bucket that holds one minute's allowance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) level: f64,
    allowance: Allowance,
    /// Taken out and not spent yet. It keeps its room, or the bucket would fill up behind it and
    /// more than a bucket could be spent at once.
    aside: u32,
    filled_at: Instant,
}

impl Bucket {
    /// A bucket with so much in it, at most what it holds.
    pub(super) fn new(allowance: Allowance, level: f64, now: Instant) -> Self {
        Self { level: level.min(f64::from(allowance.part)), allowance, aside: 0, filled_at: now }
    }

    pub(super) fn full(allowance: Allowance, now: Instant) -> Self {
        Self::new(allowance, f64::from(allowance.part), now)
    }

    /// Pours in what time has earned.
    pub(super) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.level = (self.level + elapsed * self.allowance.per_minute() / 60.0).min(self.room());
        self.filled_at = self.filled_at.max(now);
    }

    /// What there can be in it now.
    fn room(&self) -> f64 {
        f64::from(self.allowance.part.saturating_sub(self.aside))
    }

    /// Goes on with another allowance, after a [`Self::refill`] at the old one.
    ///
    /// Another limit scales the level, so that neither a raise nor a cut hands out or takes away a
    /// minute at once. Another part of the same limit does not: what is in the buckets of all doors
    /// is at most the limit because only time pours anything in, so that a door that is given a
    /// larger part earns it from now on, and one that is given a smaller one keeps what that holds.
    /// A debt is what was spent, which no allowance changes.
    pub(super) fn become_of(&mut self, allowance: Allowance) {
        let before = self.allowance.whole;
        if allowance.whole != before && self.level > 0.0 {
            self.level *= f64::from(allowance.whole) / f64::from(before.max(1));
        }
        self.allowance = allowance;
        self.level = self.level.min(self.room());
    }

    /// Takes what was spent. In shadow a debt grows to one minute's allowance and no further: who
    /// begins to enforce does not refuse a tenant for hours because nobody refused it before.
    pub(super) fn take(&mut self, units: u32, mode: LimitsMode) {
        self.level -= f64::from(units);
        if mode == LimitsMode::Shadow {
            self.level = self.level.max(-self.allowance.per_minute());
        }
    }

    /// Whether so much is there, or all that there can ever be at this door: what is larger than
    /// its part begins with a full bucket, and owes the rest. It would never begin otherwise where
    /// every door has a part alike. Who needs nothing does not wait for the debt either.
    pub(super) fn has(&self, units: u32) -> bool {
        units == 0 || self.level + ROUNDING >= f64::from(self.due(units))
    }

    /// What is to be there for so much. Nothing begins where there is no part.
    fn due(&self, units: u32) -> u32 {
        units.min(self.allowance.part.max(1))
    }

    /// Whether so much can ever be there, whichever part of the limit this door has.
    pub(super) fn may_hold(&self, units: u32) -> bool {
        units <= self.allowance.whole
    }

    /// Takes of what was spent as many whole units as are there, and so leaves no debt.
    pub(super) fn take_some(&mut self, units: u32) {
        self.level -= f64::from(units.min(self.whole()));
    }

    /// Takes something out that is not spent yet.
    pub(super) fn set_aside(&mut self, units: u32, mode: LimitsMode) {
        self.take(units, mode);
        self.aside = self.aside.saturating_add(units);
    }

    /// Spends what was set aside.
    pub(super) fn spend_aside(&mut self, units: u32) {
        self.aside = self.aside.saturating_sub(units);
    }

    /// Puts back what was set aside.
    pub(super) fn put_back(&mut self, units: u32) {
        self.spend_aside(units);
        self.pour(units);
    }

    /// Puts back what was spent, as far as the bucket holds it.
    pub(super) fn pour(&mut self, units: u32) {
        self.level = (self.level + f64::from(units)).min(self.room());
    }

    /// What is there, in whole units.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a level is at most a u32 allowance and is clamped at zero"
    )]
    pub(super) fn whole(&self) -> u32 {
        (self.level + ROUNDING).max(0.0) as u32
    }

    pub(super) const fn per_minute(&self) -> u32 {
        self.allowance.part
    }

    pub(super) const fn whole_per_minute(&self) -> u32 {
        self.allowance.whole
    }

    /// How long until so much is there, by what this door earns now. Whoever comes then finds it,
    /// unless somebody else was faster. Where the door has a part of its limit and earns that late,
    /// it is the time after which to ask again: a minute, and no sooner than all of the limit would
    /// have earned it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a wait is at least nothing, and one beyond a u64 is cut"
    )]
    pub(super) fn wait_ms(&self, needed: u32) -> u64 {
        let due = f64::from(self.due(needed));
        if due > self.room() {
            return u64::try_from(NO_PART_WAIT.as_millis()).unwrap_or(u64::MAX);
        }
        let missing = (due - self.level).max(0.0);
        let earned_in =
            |per_minute: f64| (missing * 60_000.0 / per_minute - ROUNDING).ceil().max(1.0);
        let wait = earned_in(self.allowance.per_minute());
        if self.allowance.is_whole() {
            return wait as u64;
        }
        wait.min(earned_in(f64::from(self.allowance.whole)).max(ASK_AGAIN_MS)) as u64
    }
}

/// Over how long a meter looks back: long enough that one call a second is a steady pace, and short
/// against the minute in which a bucket fills.
const METER_S: f64 = 20.0;

/// How much is spent in a minute, at the pace of the last seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    sum: f64,
    at: Instant,
}

impl Meter {
    pub(super) const fn new(now: Instant) -> Self {
        Self { sum: 0.0, at: now }
    }

    pub(super) fn add(&mut self, units: u32, now: Instant) {
        self.sum = self.fresh(now) + f64::from(units);
        self.at = self.at.max(now);
    }

    pub(super) fn per_minute(&self, now: Instant) -> f64 {
        self.fresh(now) * 60.0 / METER_S
    }

    fn fresh(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.sum * (-elapsed / METER_S).exp()
    }
}

/// Refusals of the last seconds, by the minute, from which a larger slice is wanted: one of the
/// last twenty seconds is.
pub(super) const SHORT_PER_MINUTE: f64 = 1.0;

/// For how long it is told that a limit refused calls: a minute's allowance has come anew by then.
const REACHED_FOR: Duration = Duration::from_mins(1);

/// What one limit refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusals {
    pace: Meter,
    last_at: Option<Instant>,
}

impl Refusals {
    pub(super) const fn new(now: Instant) -> Self {
        Self { pace: Meter::new(now), last_at: None }
    }

    /// Counts one more.
    pub(super) fn add(&mut self, now: Instant) {
        self.pace.add(1, now);
        self.last_at = self.last_at.max(Some(now));
    }

    /// Tells no more of those that there were.
    pub(super) const fn forget(&mut self) {
        self.last_at = None;
    }

    /// Whether a larger slice is wanted.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        self.pace.per_minute(now) >= SHORT_PER_MINUTE
    }

    /// Whether there was one in the last minute.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.last_at.is_some_and(|at| now.saturating_duration_since(at) < REACHED_FOR)
    }
}
