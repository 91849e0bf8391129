//! By what this door spends: the slices that are leased to it, or an even part without any.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    desired::Desired,
    limit::Limiter,
    slices::{Division, Slices, Spends},
};
use realm_link::slices::SliceStore;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often it is told what tenants use: the operator divides every five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Lets the limiter begin with what was leased last. Before the first call: a door that has been
/// started again does not know what it had let in.
pub(crate) fn begin(limiter: &Limiter, store: &SliceStore, desired: &Desired) {
    let now = Instant::now();
    if desired.generation > 0 {
        limiter.start_again(now);
    }
    limiter.divide(division(store.held(), desired), now);
}

/// Keeps the limiter to what is leased, and tells what is used of it, for as long as anybody hears.
pub(crate) async fn follow(
    limiter: Limiter,
    store: SliceStore,
    mut desired: watch::Receiver<Arc<Desired>>,
    spends: watch::Sender<Spends>,
) {
    let mut held = store.subscribe();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    while !spends.is_closed() {
        let next = {
            let held = held.borrow_and_update().clone();
            division(held, &desired.borrow_and_update())
        };
        let now = Instant::now();
        if last.as_ref() != Some(&next) {
            limiter.divide(next.clone(), now);
            last = Some(next);
        }
        let used = limiter.spends(now);
        spends.send_if_modified(|last| {
            let is_new = *last != used;
            *last = used;
            is_new
        });
        tokio::select! {
            _ = look.tick() => {}
            Ok(()) = held.changed() => {}
            Ok(()) = desired.changed() => {}
        }
    }
}

fn division(held: Option<Arc<Slices>>, desired: &Desired) -> Division {
    match held {
        Some(slices) => Division::Sliced(slices),
        None => Division::Even { doors: desired.doors },
    }
}
