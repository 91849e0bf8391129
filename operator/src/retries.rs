//! How long objects that could not be reconciled wait for another try.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realm_plan::{Kind, Name};

/// The longest first wait; each error in a row doubles it.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// Doublings at most, so that whoever has mended what was wrong waits for a minute and no longer.
const DOUBLINGS_MAX: u32 = 6;

/// Errors in a row, by object. As many as there are objects that go wrong.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    failures: Mutex<BTreeMap<(Kind, Name), u32>>,
    random: RandomState,
}

impl Retries {
    /// Counts an error, and gives how long to wait.
    pub(crate) fn wait(&self, kind: Kind, name: &Name) -> Duration {
        let mut all = self.lock();
        let failures = all.entry((kind, name.clone())).or_default();
        *failures = failures.saturating_add(1);
        wait(*failures, self.random.hash_one((kind, name, *failures)))
    }

    /// Notes that an object went well, or went.
    pub(crate) fn forget(&self, kind: Kind, name: &Name) {
        self.lock().remove(&(kind, name.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, Name), u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between half of a bound and all of it: what went wrong together does not come back together.
fn wait(failures: u32, random: u64) -> Duration {
    let bound = WAIT_MIN.saturating_mul(1 << failures.saturating_sub(1).min(DOUBLINGS_MAX));
    let half = bound / 2;
    // The upper 32 bits as a fraction of one.
    half + Duration::from_nanos_u128((half.as_nanos() * u128::from(random >> 32)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_in_a_row_doubles_the_wait_up_to_a_minute() {
        for (failures, most) in [(1, 1), (2, 2), (3, 4), (7, 64), (8, 64), (u32::MAX, 64)] {
            let (waited, most) = (wait(failures, u64::MAX), Duration::from_secs(most));
            assert!(most.mul_f64(0.99) < waited && waited <= most, "{failures}: {waited:?}");
        }
        assert_eq!(wait(3, 0), Duration::from_secs(2));
    }

    #[test]
    fn an_object_that_went_well_begins_anew() {
        let (retries, name) = (Retries::default(), Name::new("default", "tiny").unwrap());
        for _ in 0..5 {
            retries.wait(Kind::Model, &name);
        }
        assert!(retries.wait(Kind::Model, &name) >= Duration::from_secs(16));
        retries.forget(Kind::Model, &name);
        assert!(retries.wait(Kind::Model, &name) <= WAIT_MIN);
    }
}
