//! How doors share one limit of one tenant.

use super::PARTS;

/// The least that a door keeps wherever a tenant's calls go, as one part in so many of an even
/// slice: a first call at any door is let in, and the door that all calls come to has nearly all.
const KEPT_IN: u32 = 8;

/// What one door has of a limit, and what is used of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    pub(super) has: u32,
    pub(super) used: u32,
    pub(super) is_short: bool,
}

impl Claim {
    pub(super) const fn is_idle(&self) -> bool {
        self.used == 0 && !self.is_short
    }

    /// Whether the door refuses calls, or is about to.
    pub(super) const fn lacks(&self) -> bool {
        self.is_short || self.has - self.has / 4 < self.used
    }

    /// What the door would use. Of one that refuses calls nobody knows how much more that is, and
    /// twice as much is tried; any other one has a quarter in hand.
    const fn wants(&self) -> u32 {
        let wants = if self.is_short {
            let most = if self.used < self.has { self.has } else { self.used };
            most.saturating_mul(2)
        } else {
            self.used.saturating_add(self.used / 4)
        };
        if wants < PARTS { wants } else { PARTS }
    }
}

/// Divides `budget` parts among doors: to each what it keeps, then what it wants, those that want
/// least first; and what is left in proportion to what they want. All of it is given out.
pub(super) fn divide(claims: &[Claim], budget: u32, even: u32) -> Vec<u32> {
    let doors = u32::try_from(claims.len()).unwrap_or(u32::MAX).max(1);
    let kept = (even / KEPT_IN).min(budget / doors);
    let mut rest = budget.saturating_sub(kept.saturating_mul(doors));
    let wants: Vec<u32> = claims.iter().map(|it| it.wants().saturating_sub(kept)).collect();
    let mut parts = vec![kept; claims.len()];
    let mut by_want: Vec<usize> = (0..claims.len()).collect();
    by_want.sort_by_key(|door| wants[*door]);
    let mut waiting = doors;
    for door in by_want {
        let given = wants[door].min(rest / waiting);
        parts[door] = parts[door].saturating_add(given);
        rest = rest.saturating_sub(given);
        waiting = waiting.saturating_sub(1).max(1);
    }
    let all: u64 = wants.iter().map(|wants| u64::from(*wants)).sum();
    let spare = rest;
    for (door, wants) in wants.iter().enumerate() {
        let more = (u64::from(spare) * u64::from(*wants)).checked_div(all);
        let more = more.map_or(spare / doors, |more| u32::try_from(more).unwrap_or(spare));
        parts[door] = parts[door].saturating_add(more);
        rest = rest.saturating_sub(more);
    }
    // What division leaves over.
    let most = (0..claims.len()).max_by_key(|door| (wants[*door], usize::MAX - door));
    if let Some(door) = most {
        parts[door] = parts[door].saturating_add(rest);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HALF: u32 = PARTS / 2;

    fn spends(used: u32) -> Claim {
        Claim { has: HALF, used, is_short: false }
    }

    #[test]
    fn a_door_that_all_calls_come_to_has_all_but_what_others_keep() {
        let short = Claim { is_short: true, ..spends(HALF) };
        let kept = HALF / KEPT_IN;
        assert_eq!(divide(&[short, spends(0)], PARTS, HALF), [PARTS - kept, kept]);
        assert_eq!(divide(&[spends(0), spends(1 << 18)], PARTS, HALF), [kept, PARTS - kept]);
    }

    #[test]
    fn doors_that_all_lack_something_share_evenly() {
        let large = Claim { has: PARTS - 9, used: PARTS - 9, is_short: true };
        assert_eq!(divide(&[large, large], PARTS, HALF), [HALF, HALF]);
        let small = Claim { has: HALF / 8, used: HALF / 8, is_short: true };
        let [large, small] = divide(&[large, small], PARTS, HALF)[..] else { panic!("two doors") };
        assert_eq!((large, small), (PARTS - HALF / 4, HALF / 4), "as much as it asks for");
    }

    #[test]
    fn where_nothing_is_used_all_have_the_same() {
        let parts = divide(&[spends(0); 4], PARTS, PARTS / 4);
        assert_eq!(parts, [PARTS / 4; 4]);
    }

    proptest! {
        #[test]
        fn all_of_a_budget_is_given_out_and_everybody_keeps_something(
            claims in prop::collection::vec((0..=PARTS, 0..=PARTS, any::<bool>()), 1..20),
            budget in 0..=PARTS,
        ) {
            let claim = |&(has, used, is_short): &_| Claim { has, used, is_short };
            let claims: Vec<Claim> = claims.iter().map(claim).collect();
            let doors = u32::try_from(claims.len()).unwrap();
            let parts = divide(&claims, budget, PARTS / doors);
            prop_assert_eq!(parts.iter().sum::<u32>(), budget);
            let kept = (PARTS / doors / KEPT_IN).min(budget / doors);
            prop_assert!(parts.iter().all(|parts| kept <= *parts));
        }
    }
}
