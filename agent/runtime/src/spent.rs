//! What the programs of one tenant have spent on this node.

use std::{
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::books::{ByWay, Way};

use crate::meter::Allowance;

/// Spent by a tenant's programs since it came to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramSpent {
    pub fuel: u64,
    pub host_calls: u64,
    /// Tokens that were chosen, or told, without waiting for their hooks any longer.
    pub hook_overruns: u64,
    /// Runs that waited because as many instances as the tenant may have were answering its calls.
    pub instance_waits: u64,
}

impl AddAssign for ProgramSpent {
    fn add_assign(&mut self, other: Self) {
        let Self { fuel, host_calls, hook_overruns, instance_waits } = other;
        self.fuel = self.fuel.saturating_add(fuel);
        self.host_calls = self.host_calls.saturating_add(host_calls);
        self.hook_overruns = self.hook_overruns.saturating_add(hook_overruns);
        self.instance_waits = self.instance_waits.saturating_add(instance_waits);
    }
}

/// One tenant's account. A clone books into the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spent(Arc<Mutex<ByWay<ProgramSpent>>>);

impl Spent {
    pub(crate) fn get(&self) -> ByWay<ProgramSpent> {
        self.rows().clone()
    }

    /// Books what a call will have spent of its allowance, when the result is dropped.
    pub(crate) fn book(&self, way: &Way, allowance: &Allowance) -> Booking {
        Booking { spent: self.clone(), way: way.clone(), allowance: allowance.clone() }
    }

    fn rows(&self) -> MutexGuard<'_, ByWay<ProgramSpent>> {
        // The rows are plain numbers, each of which can be added to.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call whose cost is booked however it ends.
pub(crate) struct Booking {
    spent: Spent,
    way: Way,
    allowance: Allowance,
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.spent.rows().add(&self.way, self.allowance.spent());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use realm_core::desired::ProgramLimits;

    use super::*;

    #[test]
    fn a_call_is_booked_by_what_it_has_spent_when_it_ends() {
        let limits = ProgramLimits {
            memory_bytes_max: 1,
            fuel_max: 100,
            host_calls_max: 10,
            output_bytes_max: 1,
            deadline_ms: 1,
            token_fuel_max: 1_000_000,
            token_deadline_ms: 1_000,
            instances_max: 64,
            memory64: false,
        };
        let spent = Spent::default();
        let allowance = Allowance::new(&limits, None, Instant::now());
        let booking = spent.book(&Way::Direct, &allowance);
        allowance.fuel.set(30);
        allowance.host_calls.take(2).unwrap();
        assert_eq!(spent.get(), ByWay::default());
        allowance.hook_fuel.add(5);
        allowance.overruns.count();
        allowance.instance_waits.add(3);
        drop(booking);
        let rows = spent.get();
        let expected =
            ProgramSpent { fuel: 75, host_calls: 2, hook_overruns: 1, instance_waits: 3 };
        assert_eq!(rows.rows().collect::<Vec<_>>(), [(&Way::Direct, expected)]);
    }
}
