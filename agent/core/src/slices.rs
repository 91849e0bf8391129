//! What part of its tenants' limits a door may spend: the slices that the operator leases to it.
//!
//! All doors together have a limit once. Each spends from its slice, says what it uses of it, and
//! is given another one where the tenants' calls go; it never asks anybody before it lets a call
//! in. A slice is a number of parts of the whole limit, so that a limit that changes needs none.

use std::{collections::BTreeMap, sync::Arc};

use crate::name::TenantName;

/// Parts of a whole limit. A door among ten thousand, which has an eighth of an even slice left,
/// has thirteen of them, and a whole is three bytes on the link.
pub const PARTS: u32 = 1 << 20;

/// A number of something for each limit that doors share out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Each<T> {
    pub requests: T,
    pub input_tokens: T,
    pub output_tokens: T,
    pub calls: T,
}

impl<T: Copy> Each<T> {
    /// The same for each.
    pub const fn all(value: T) -> Self {
        Self { requests: value, input_tokens: value, output_tokens: value, calls: value }
    }
}

/// One door's slices of every tenant's limits, as the operator leased them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    /// Only grows, across changes of leader too; 0 where none has been leased yet.
    pub epoch: u64,
    /// Parts of the limits of every tenant that has no slices of its own; [`PARTS`] at most.
    pub share: u32,
    /// Parts of each limit; [`PARTS`] at most.
    pub tenants: BTreeMap<TenantName, Each<u32>>,
}

impl Slices {
    /// Parts of each of the tenant's limits.
    pub fn of(&self, tenant: &TenantName) -> Each<u32> {
        self.tenants.get(tenant).copied().unwrap_or_else(|| Each::all(self.share))
    }
}

/// What a door spends by: slices, or without an operator that leases any, an even part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// One part in so many, at least 1.
    Even {
        doors: u32,
    },
    Sliced(Arc<Slices>),
}

impl Division {
    /// Parts of each of the tenant's limits.
    pub fn of(&self, tenant: &TenantName) -> Each<u32> {
        match self {
            Self::Even { doors } => Each::all(even(*doors)),
            Self::Sliced(slices) => slices.of(tenant),
        }
    }

    /// Parts that a tenant has of which nothing in particular is known.
    pub fn share(&self) -> u32 {
        match self {
            Self::Even { doors } => even(*doors),
            Self::Sliced(slices) => slices.share,
        }
    }
}

impl Default for Division {
    fn default() -> Self {
        Self::Even { doors: 1 }
    }
}

/// Parts that each of so many doors has where nobody uses more than another.
pub const fn even(doors: u32) -> u32 {
    match PARTS.checked_div(doors) {
        Some(even) => even,
        None => PARTS,
    }
}

/// What so many parts are of a limit, rounded up: a door that has any part of a limit lets
/// somebody in, and all doors together hold less than one more for each than the limit says.
pub fn part_of(limit: u32, parts: u32) -> u32 {
    let units = (u64::from(limit) * u64::from(parts)).div_ceil(u64::from(PARTS));
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// How many parts of a limit so much is, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is clamped to what parts there are"
)]
pub(crate) fn parts_of(limit: u32, units: f64) -> u32 {
    let parts = units / f64::from(limit.max(1)) * f64::from(PARTS);
    parts.ceil().clamp(0.0, f64::from(PARTS)) as u32
}

/// What a door uses of its slices, measured after it took those of the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spends {
    pub epoch: u64,
    /// Of tenants that use anything.
    pub tenants: BTreeMap<TenantName, Use>,
    /// Of tenants that came up against anything lately.
    pub reached: BTreeMap<TenantName, Reached>,
}

/// What one tenant uses at a door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Parts of each limit: a minute's use at the pace of the last seconds, and calls in hand.
    pub used: Each<u32>,
    /// Whether calls were refused in the last seconds that a larger slice would have let in.
    pub is_short: Each<bool>,
    /// Parts of the limit on calls that calls in hand take, where that is more than the slice: it
    /// was cut, and they go on. 0 otherwise.
    pub calls_over: u32,
}

/// What a tenant has come up against here: limits in the last minute, and others in the last five.
/// The same for as long as this is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Whether they refused calls, or would have in shadow.
    pub refused: Each<bool>,
    /// Whether sequences waited because their own tenant held all the blocks that it may.
    pub kv_blocks: bool,
    /// Whether calls waited for a second or longer while those of other tenants ran.
    pub behind_others: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_part_is_that_of_the_limit_rounded_up() {
        for (limit, doors, part) in
            [(60, 1, 60), (60, 2, 30), (61, 2, 31), (60, 3, 20), (63, 7, 9), (1, 9, 1), (10, 4, 3)]
        {
            assert_eq!(part_of(limit, even(doors)), part, "{limit} over {doors}");
        }
        assert_eq!(part_of(u32::MAX, PARTS), u32::MAX);
        assert_eq!(part_of(60, 0), 0);
    }

    #[test]
    fn a_tenant_without_slices_of_its_own_has_what_all_have() {
        let name = |name| TenantName::new("default", name).unwrap();
        let own = Each { requests: 7, ..Each::all(9) };
        let slices = Slices { epoch: 1, share: 5, tenants: [(name("acme"), own)].into() };
        let division = Division::Sliced(slices.into());
        assert_eq!((division.of(&name("acme")), division.of(&name("zeta"))), (own, Each::all(5)));
    }
}
