//! Things that are made once however many want them, and kept for as long as one does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use realm_core::desired::Sha256;

/// One thing, and the place in which those who want it wait until it is made.
type Slot<T> = tokio::sync::Mutex<Weak<T>>;

/// The things in use, by digest.
pub(crate) struct Shared<T>(Mutex<HashMap<Sha256, Arc<Slot<T>>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shared<T> {
    /// The thing of this digest, from `make` unless it is in use already. Only those who want the
    /// same one wait for each other.
    pub(crate) async fn get<E>(
        &self,
        digest: Sha256,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<Arc<T>, E> {
        let slot = self.slot(digest);
        let mut known = slot.lock().await;
        if let Some(thing) = known.upgrade() {
            return Ok(thing);
        }
        let thing = Arc::new(make.await?);
        *known = Arc::downgrade(&thing);
        Ok(thing)
    }

    fn slot(&self, digest: Sha256) -> Arc<Slot<T>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody has or waits for is forgotten. A slot that only this map holds is unlocked.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1
                || slot.try_lock().is_ok_and(|thing| thing.strong_count() > 0)
        });
        slots.entry(digest).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future, pin::pin, task::Poll};

    use super::*;

    const A: Sha256 = Sha256([1; 32]);
    const B: Sha256 = Sha256([2; 32]);

    fn make(thing: u32) -> future::Ready<Result<u32, Infallible>> {
        future::ready(Ok(thing))
    }

    #[tokio::test]
    async fn a_thing_that_is_long_in_the_making_is_waited_for_only_by_those_who_want_it() {
        let shared = Shared::default();
        let mut slow = pin!(shared.get(A, future::pending::<Result<u32, Infallible>>()));
        let mut same = pin!(shared.get(A, make(1)));
        future::poll_fn(|context| {
            assert!(slow.as_mut().poll(context).is_pending());
            assert!(same.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let mut other = pin!(shared.get(B, make(2)));
        let polled = future::poll_fn(|context| Poll::Ready(other.as_mut().poll(context))).await;
        assert!(matches!(polled, Poll::Ready(Ok(thing)) if *thing == 2));
    }

    #[tokio::test]
    async fn a_thing_in_use_is_not_made_again_and_one_out_of_use_is_forgotten() {
        let shared = Shared::default();
        let first = shared.get(A, make(1)).await.unwrap();
        assert!(Arc::ptr_eq(&first, &shared.get(A, make(2)).await.unwrap()));
        drop(first);
        assert_eq!(*shared.get(B, make(3)).await.unwrap(), 3);
        assert_eq!(shared.0.lock().unwrap().len(), 1, "A is forgotten");
        assert_eq!(*shared.get(A, make(4)).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_tried_again() {
        let shared = Shared::default();
        shared.get(A, future::ready(Err::<u32, _>("no"))).await.unwrap_err();
        assert_eq!(*shared.get(A, make(1)).await.unwrap(), 1);
    }
}
