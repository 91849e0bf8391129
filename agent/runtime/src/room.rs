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
pub(crate) struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Room {
    pub(crate) fn of(limits: &ProgramLimits) -> Self {
        let max = limits.instances_max.max(1);
        // A node has no more instances than a few hundred.
        let places = usize::try_from(max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { max, places: Arc::new(Semaphore::new(places)) }
    }

    /// The same room where the limit is the same. Where it is another, the calls that have begun
    /// keep to the one they began with.
    pub(crate) fn under(&self, limits: &ProgramLimits) -> Self {
        let other = Self::of(limits);
        if other.max == self.max { self.clone() } else { other }
    }

    /// Waits for a place, and counts that it had to.
    pub(crate) async fn take(&self, waits: &Tally) -> Result<Place, AcquireError> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(Place(place));
        }
        waits.add(1);
        Ok(Place(self.places.clone().acquire_owned().await?))
    }
}
