//! Which calls leave a trace. Pure: time and chance are arguments.
//!
//! A client may ask for the trace of a call by its `traceparent`, and may ask for none. It may not
//! have as many as it likes: beyond what our own ratio takes, each tenant has an allowance. Nor
//! does a client that chooses its trace's name choose thereby whether it is taken.

use std::{collections::HashMap, time::Instant};

use crate::name::TenantName;

/// Traces of one tenant beyond our own ratio, a minute and at once: enough to look into what goes
/// wrong now, and so few that a hundred tenants which all ask do not fill a collector.
const EXTRAS_PER_MINUTE: f64 = 60.0;

/// Tenants whose allowances are kept. Who is not among them has a full one, and so has who asked
/// for nothing within the last minute: more than these never ask at once.
const TENANTS_MAX: usize = 4096;

/// A part of all calls, from none to every one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    pub const NONE: Self = Self(0.0);
    pub const ALL: Self = Self(1.0);

    /// `None` where it is no part of a whole.
    pub fn new(ratio: f64) -> Option<Self> {
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }

    /// Whether a call that drew this number is among them.
    fn takes(self, draw: u64) -> bool {
        // A `f64` holds 53 bits.
        let part = (draw >> 11) as f64 / (1_u64 << 53) as f64;
        part < self.0
    }
}

/// How it is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Whether what a client wants counts.
    pub heeds_parent: bool,
    pub ratio: Ratio,
}

impl Sampling {
    /// Whether nothing is ever recorded.
    pub fn is_never(self) -> bool {
        !self.heeds_parent && self.ratio == Ratio::NONE
    }

    /// Whether a call of `tenant` is recorded, whose client has perhaps said what it wants.
    pub(super) fn takes(
        self,
        tenant: &TenantName,
        wanted: Option<bool>,
        draw: u64,
        extras: &mut Extras,
        now: Instant,
    ) -> bool {
        match wanted.filter(|_| self.heeds_parent) {
            Some(false) => false,
            Some(true) => self.ratio.takes(draw) || extras.take(tenant, now),
            None => self.ratio.takes(draw),
        }
    }
}

/// What each tenant has left of its allowance.
#[derive(Debug, Default)]
pub(super) struct Extras(HashMap<TenantName, Allowance>);

#[derive(Clone, Copy, Debug)]
struct Allowance {
    level: f64,
    filled_at: Instant,
}

impl Allowance {
    fn level(self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        (self.level + elapsed * EXTRAS_PER_MINUTE / 60.0).min(EXTRAS_PER_MINUTE)
    }
}

impl Extras {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, tenant: &TenantName, now: Instant) -> bool {
        let known = self.0.get(tenant).copied();
        if known.is_none() && !self.make_room(now) {
            return false;
        }
        let full = Allowance { level: EXTRAS_PER_MINUTE, filled_at: now };
        let level = known.unwrap_or(full).level(now);
        if level < 1.0 {
            return false;
        }
        self.0.insert(tenant.clone(), Allowance { level: level - 1.0, filled_at: now });
        true
    }

    /// Forgets whose allowance is full again.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.0.len() >= TENANTS_MAX {
            self.0.retain(|_, allowance| allowance.level(now) < EXTRAS_PER_MINUTE);
        }
        self.0.len() < TENANTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenant(index: usize) -> TenantName {
        TenantName::new("default", &format!("t{index}")).unwrap()
    }

    /// Of so many calls at once that want this, the recorded ones.
    fn taken(sampling: Sampling, wanted: Option<bool>, calls: u32) -> usize {
        let (mut extras, now) = (Extras::default(), Instant::now());
        let mut draw = 0_u64;
        let mut takes = || {
            draw = draw.wrapping_add(0x9E37_79B9_7F4A_7C15);
            sampling.takes(&tenant(0), wanted, draw, &mut extras, now)
        };
        (0..calls).filter(|_| takes()).count()
    }

    fn parent_based(ratio: f64) -> Sampling {
        Sampling { heeds_parent: true, ratio: Ratio::new(ratio).unwrap() }
    }

    #[test]
    fn a_client_that_wants_every_call_traced_has_its_allowance_beyond_the_ratio() {
        assert_eq!(taken(parent_based(0.0), Some(true), 1000), 60);
        let both = taken(parent_based(0.1), Some(true), 1000);
        assert!((150..=170).contains(&both), "{both}");
        assert_eq!(taken(parent_based(1.0), Some(true), 1000), 1000);
    }

    #[test]
    fn a_client_that_wants_no_trace_leaves_none_where_it_is_heeded() {
        assert_eq!(taken(parent_based(1.0), Some(false), 100), 0);
        let deaf = Sampling { heeds_parent: false, ratio: Ratio::ALL };
        assert_eq!(taken(deaf, Some(false), 100), 100);
        let never = Sampling { heeds_parent: false, ratio: Ratio::NONE };
        assert_eq!(taken(never, Some(true), 100), 0);
        assert!(never.is_never() && !deaf.is_never() && !parent_based(0.0).is_never());
    }

    #[test]
    fn a_ratio_takes_that_part_of_all_calls() {
        for (ratio, expected) in [(0.0, 0), (0.25, 2500), (1.0, 10_000)] {
            let count = taken(parent_based(ratio), None, 10_000);
            assert!(count.abs_diff(expected) < 20, "{ratio}: {count}");
        }
        assert!(Ratio::new(1.1).is_none() && Ratio::new(f64::NAN).is_none());
    }

    #[test]
    fn an_allowance_comes_back_with_time_and_is_each_tenants_own() {
        let (mut extras, now) = (Extras::default(), Instant::now());
        while extras.take(&tenant(0), now) {}
        assert!(extras.take(&tenant(1), now));
        assert!(!extras.take(&tenant(0), now));
        assert!(extras.take(&tenant(0), now + Duration::from_secs(1)));
    }

    #[test]
    fn no_more_allowances_are_kept_than_there_is_room_for() {
        let (mut extras, now) = (Extras::default(), Instant::now());
        for index in 0..TENANTS_MAX {
            assert!(extras.take(&tenant(index), now));
        }
        assert!(!extras.take(&tenant(TENANTS_MAX), now));
        assert!(extras.take(&tenant(TENANTS_MAX), now + Duration::from_mins(1)));
        assert_eq!(extras.0.len(), 1);
    }
}
