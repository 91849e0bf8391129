//! What the programs of one tenant have spent on this node.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::meter::Allowance;

/// Spent by a tenant's programs since it came to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramSpent {
    pub fuel: u64,
    pub host_calls: u64,
}

/// One tenant's account. A clone books into the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spent(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    fuel: AtomicU64,
    host_calls: AtomicU64,
}

impl Spent {
    pub(crate) fn get(&self) -> ProgramSpent {
        ProgramSpent {
            fuel: self.0.fuel.load(Ordering::Relaxed),
            host_calls: self.0.host_calls.load(Ordering::Relaxed),
        }
    }

    /// Books what a call will have spent of its allowance, when the result is dropped.
    pub(crate) fn book(&self, allowance: &Allowance) -> Booking {
        Booking { spent: self.clone(), allowance: allowance.clone() }
    }
}

/// A call whose cost is booked however it ends.
pub(crate) struct Booking {
    spent: Spent,
    allowance: Allowance,
}

impl Drop for Booking {
    fn drop(&mut self) {
        let Account { fuel, host_calls } = &*self.spent.0;
        let spent = self.allowance.spent();
        fuel.fetch_add(spent.fuel, Ordering::Relaxed);
        host_calls.fetch_add(spent.host_calls, Ordering::Relaxed);
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
        };
        let spent = Spent::default();
        let allowance = Allowance::new(&limits, None, Instant::now());
        let booking = spent.book(&allowance);
        allowance.fuel.set(30);
        allowance.host_calls.take(2).unwrap();
        assert_eq!(spent.get(), ProgramSpent::default());
        drop(booking);
        assert_eq!(spent.get(), ProgramSpent { fuel: 70, host_calls: 2 });
    }
}
