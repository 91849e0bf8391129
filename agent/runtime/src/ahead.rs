//! An instance that is made before a call asks for it.
//!
//! Components of interpreters take about a millisecond to link, for which each call would wait. So
//! while calls of such a program come, there is one that waits for the next of them, and another one
//! is made when it is taken. It has done nothing but come up, whoever it goes to, and who gets it pays
//! for that as if it had been made on demand.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wasmtime::Store;

use crate::{
    bindings::{self, ProgramPre},
    checkup,
    host::Host,
    program::Program,
    sandbox,
};

/// Programs of a node that have an instance ahead. Each takes what its component takes when it has come
/// up, some hundred kilobytes for interpreters.
pub(crate) const PLACES: u32 = 16;

/// How long an instance waits for a call.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// An instance that is made in less is not worth a place.
pub(crate) const WORTH: Duration = Duration::from_micros(100);

/// The places of all programs.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES as usize)))
    }
}

/// What one program has ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    places: Places,
    state: Mutex<State>,
    taken: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether somebody makes instances.
    is_kept: bool,
    made: Option<Box<Made>>,
}

/// An instance that has come up, and what that has burnt.
pub(crate) struct Made {
    pub(crate) store: Store<Host>,
    pub(crate) program: bindings::Program,
    pub(crate) burnt: u64,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("burnt", &self.burnt).finish_non_exhaustive()
    }
}

impl Ahead {
    pub(crate) fn new(places: Places) -> Self {
        Self { places, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between the first change of a call and its last can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance that waits, if there is one. Another one is made.
    pub(crate) fn take(&self) -> Option<Made> {
        let made = self.state().made.take()?;
        self.taken.notify_one();
        Some(*made)
    }

    fn put(&self, made: Made) {
        self.state().made = Some(Box::new(made));
    }

    /// A place, unless the program has one or all are taken.
    fn begin(&self) -> Option<OwnedSemaphorePermit> {
        let mut state = self.state();
        if state.is_kept {
            return None;
        }
        let place = self.places.0.clone().try_acquire_owned().ok()?;
        state.is_kept = true;
        Some(place)
    }

    fn end(&self) {
        *self.state() = State::default();
    }
}

/// Lets a program have an instance ahead from now on, for as long as calls come.
pub(crate) fn keep(program: &Arc<Program>) {
    if let Some(place) = program.ahead.begin() {
        tokio::spawn(keep_one(Arc::downgrade(program), place));
    }
}

async fn keep_one(program: Weak<Program>, _place: OwnedSemaphorePermit) {
    while let Some(program) = program.upgrade() {
        // It has come up before, and where it does not any more its next call is told why.
        let Ok(made) = make(&program.pre).await else { break };
        program.ahead.put(made);
        let taken = program.ahead.taken.clone();
        drop(program);
        if timeout(KEPT_FOR, taken.notified()).await.is_err() {
            break;
        }
    }
    if let Some(program) = program.upgrade() {
        program.ahead.end();
    }
}

/// Under the limits under which it has come up before, when it was asked what it does.
pub(crate) async fn make(pre: &ProgramPre<Host>) -> wasmtime::Result<Made> {
    let limits = checkup::LIMITS;
    let host = Host::without_call(limits.memory_bytes_max);
    let mut store = sandbox::store(pre.engine(), host, &limits)?;
    let program = pre.instantiate_async(&mut store).await?;
    let burnt = limits.fuel_max.saturating_sub(store.get_fuel()?);
    Ok(Made { store, program, burnt })
}

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::sleep};

    use super::*;
    use crate::Runtime;

    async fn until_made(program: &Program) {
        while program.ahead.state().made.is_none() {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_ahead_while_calls_come_and_a_minute_longer() {
        let runtime = Runtime::new().unwrap();
        let program = runtime.prepare_built_in().await.unwrap().0;
        assert!(program.ahead.take().is_none(), "nobody has called");
        for _ in 0..3 {
            keep(&program);
            until_made(&program).await;
            assert!(program.ahead.take().is_some());
            assert!(program.ahead.take().is_none(), "one at a time");
        }
        until_made(&program).await;
        assert_eq!(program.ahead.places.0.available_permits(), PLACES as usize - 1);
        sleep(KEPT_FOR + Duration::from_secs(1)).await;
        assert!(program.ahead.take().is_none());
        assert_eq!(program.ahead.places.0.available_permits(), PLACES as usize);
        keep(&program);
        until_made(&program).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_is_gone_has_none_ahead() {
        let program = {
            let runtime = Runtime::new().unwrap();
            runtime.prepare_built_in().await.unwrap().0
        };
        let (gone, places) = (Arc::downgrade(&program), program.ahead.places.clone());
        keep(&program);
        until_made(&program).await;
        drop(program);
        assert!(gone.upgrade().is_none(), "nothing else holds it");
        sleep(KEPT_FOR + Duration::from_secs(1)).await;
        assert_eq!(places.0.available_permits(), PLACES as usize);
    }

    #[test]
    fn a_program_has_one_place_and_all_together_have_so_many() {
        let places = Places::default();
        let programs: Vec<Ahead> = (0..=PLACES).map(|_| Ahead::new(places.clone())).collect();
        let mut taken: Vec<_> = programs.iter().map(Ahead::begin).collect();
        assert!(taken.pop().unwrap().is_none(), "there are only so many");
        assert!(taken.iter().all(Option::is_some));
        taken.pop();
        assert!(programs[0].begin().is_none(), "it has one");
        assert!(programs[PLACES as usize].begin().is_some());
    }
}
