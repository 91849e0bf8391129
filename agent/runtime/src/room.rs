//! Room for the instances of one tenant's program: so many answer its calls at once.

use std::sync::Arc;

use realm_core::desired::ProgramLimits;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::meter::Tally;

/// One tenant's room on this node. Whoever waits is a call of the tenant's own, so that there are as
/// many as it has calls, and is served in order.
///
/// What hooks stand in is not of it: a call that has an instance waits for theirs, and would wait
/// for good where it is its own that is in the way.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    max: u32,
    places: Arc<Semaphore>,
}

/// A place, for as long as an instance is there.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn of(limits: &ProgramLimits) -> Self {
        let max = limits.instances_max.max(1);
        Self { max, places: Arc::new(Semaphore::new(max as usize)) }
    }

    /// The same room where the limit is the same. Where it is another, the calls that have begun
    /// keep to the one they began with.
    pub(crate) fn under(&self, limits: &ProgramLimits) -> Self {
        let other = Self::of(limits);
        if other.max == self.max { self.clone() } else { other }
    }

    /// Waits for a place, and counts that it had to.
    pub(crate) async fn take(&self, waits: &Tally) -> Result<Place, AcquireError> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        waits.add(1);
        Ok(Place { _permit: self.places.clone().acquire_owned().await? })
    }
}
