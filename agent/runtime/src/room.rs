//! Room for the instances of one tenant's program: so many answer its calls at once.

use std::{
    cmp::Ordering,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use realm_core::desired::ProgramLimits;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::meter::Tally;

/// One tenant's room on this node, for as long as the tenant is here. Whoever waits is a call of the
/// tenant's own, so that there are as many as it has calls, and is served in order.
///
/// What hooks stand in is not of it: a call that has an instance waits for theirs, and would wait
/// for good where it is its own that is in the way.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    /// Held while places come or go, so that there are never more than there may be.
    size: Mutex<Size>,
    waiting: AtomicU32,
}

#[derive(Debug)]
struct Size {
    max: usize,
    /// Of the places that are taken, those that are gone when they are given back.
    owed: usize,
}

/// A place, for as long as an instance is there.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
}

/// A call that waits, however it ends.
struct Waiting<'a>(&'a AtomicU32);

impl Room {
    pub(crate) fn of(limits: &ProgramLimits) -> Self {
        let max = max_of(limits);
        let size = Mutex::new(Size { max, owed: 0 });
        let places = Arc::new(Semaphore::new(max));
        Self(Arc::new(Shared { places, size, waiting: AtomicU32::new(0) }))
    }

    /// Makes the room as large as these limits have it. Those who wait are let in where it grows;
    /// where it shrinks, those who are in stay, and nobody follows them.
    pub(crate) fn resize(&self, limits: &ProgramLimits) {
        let (max, mut size) = (max_of(limits), self.0.size());
        match max.cmp(&size.max) {
            Ordering::Equal => {}
            Ordering::Greater => {
                let more = max - size.max;
                let paid = more.min(size.owed);
                size.owed -= paid;
                self.0.places.add_permits(more - paid);
            }
            Ordering::Less => {
                let fewer = size.max - max;
                size.owed += fewer - self.0.places.forget_permits(fewer);
            }
        }
        size.max = max;
    }

    /// Waits for a place, and counts that it had to.
    pub(crate) async fn take(&self, waits: &Tally) -> Result<Place, AcquireError> {
        let Self(room) = self;
        let free = room.places.clone().try_acquire_owned().ok().and_then(|it| room.keep(it));
        if let Some(permit) = free {
            return Ok(Place { room: room.clone(), permit: Some(permit) });
        }
        waits.add(1);
        room.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&room.waiting);
        loop {
            let permit = room.places.clone().acquire_owned().await?;
            if let Some(permit) = room.keep(permit) {
                return Ok(Place { room: room.clone(), permit: Some(permit) });
            }
        }
    }

    /// Calls that wait now.
    pub(crate) fn waiting(&self) -> u32 {
        self.0.waiting.load(Relaxed)
    }
}

/// No limit keeps a tenant from answering one call.
fn max_of(limits: &ProgramLimits) -> usize {
    limits.instances_max.max(1) as usize
}

impl Shared {
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that was got, unless it is one that is gone: one that was given back to somebody who
    /// did not wait for it any more.
    fn keep(&self, permit: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let mut size = self.size();
        if size.owed == 0 {
            return Some(permit);
        }
        size.owed -= 1;
        permit.forget();
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Given back within, if it is to be.
        drop(self.permit.take().and_then(|permit| self.room.keep(permit)));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::checkup;

    fn limits(instances_max: u32) -> ProgramLimits {
        ProgramLimits { instances_max, ..checkup::LIMITS }
    }

    type Taking = std::pin::Pin<Box<dyn Future<Output = Result<Place, AcquireError>>>>;

    fn take(room: &Room) -> Taking {
        let room = room.clone();
        Box::pin(async move { room.take(&Tally::default()).await })
    }

    /// The place, if it is there.
    fn got(taking: &mut Taking) -> Option<Place> {
        match taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_room_that_grows_lets_in_who_waits_and_one_that_shrinks_nobody_until_there_is_room() {
        let room = Room::of(&limits(2));
        let mut takers: Vec<_> = (0..5).map(|_| take(&room)).collect();
        let mut places: Vec<_> = takers.iter_mut().map(got).collect();
        let taken =
            |places: &[Option<Place>]| places.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(taken(&places), [true, true, false, false, false]);
        assert_eq!(room.waiting(), 3);

        room.resize(&limits(3));
        places[2] = got(&mut takers[2]);
        assert!(places[2].is_some() && got(&mut takers[3]).is_none());
        assert_eq!(room.waiting(), 2);

        room.resize(&limits(1));
        places[0] = None;
        places[1] = None;
        assert!(got(&mut takers[3]).is_none(), "the third is in, and there is room for one");
        room.resize(&limits(2));
        places[3] = got(&mut takers[3]);
        assert!(places[3].is_some() && got(&mut takers[4]).is_none());
        // Who waits no longer is not counted.
        drop(takers.remove(4));
        assert_eq!(room.waiting(), 0);
        drop(places);
        let mut next: Vec<_> = (0..3).map(|_| take(&room)).collect();
        let next: Vec<_> = next.iter_mut().map(got).collect();
        assert_eq!(taken(&next), [true, true, false]);
    }

    #[test]
    fn a_room_that_shrinks_and_grows_again_before_anybody_leaves_is_as_it_was() {
        let room = Room::of(&limits(3));
        let mut takers: Vec<_> = (0..3).map(|_| take(&room)).collect();
        let places: Vec<_> = takers.iter_mut().map(got).collect();
        room.resize(&limits(1));
        room.resize(&limits(3));
        assert!(got(&mut take(&room)).is_none());
        drop(places);
        let mut next: Vec<_> = (0..4).map(|_| take(&room)).collect();
        let next: Vec<_> = next.iter_mut().map(got).collect();
        assert_eq!(next.iter().filter(|place| place.is_some()).count(), 3);
    }

    #[test]
    fn a_place_that_comes_back_from_who_waits_no_more_is_no_place_too_many() {
        let room = Room::of(&limits(2));
        let (mut first, mut second, mut third) = (take(&room), take(&room), take(&room));
        let (first, second) = (got(&mut first), got(&mut second));
        assert!(got(&mut third).is_none());
        drop(first);
        room.resize(&limits(1));
        // It had been given the place, and goes without having looked.
        drop(third);
        let mut fourth = take(&room);
        assert!(got(&mut fourth).is_none(), "the second one is in");
        drop(second);
        assert!(got(&mut fourth).is_some());
    }

    #[test]
    fn no_limit_keeps_a_tenant_from_one_call() {
        assert!(got(&mut take(&Room::of(&limits(0)))).is_some());
    }
}
