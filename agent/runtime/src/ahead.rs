//! An instance that is made before its call, or its generation, asks for it.
//!
//! Components of interpreters take about a millisecond to link, for which each call would wait. So
//! while calls of such a program come, there is one that waits for the next of them, and another one
//! is made when it is taken. Each is its tenant's, and made under its limits: whether one is there
//! does not tell who else runs the same.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use realm_core::desired::ProgramLimits;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wasmtime::{Engine, Store};

use crate::{
    bindings::{self, ProgramPre, hooked},
    host::Host,
    program::Program,
    sandbox,
};

/// Instances of a node that wait.
pub(crate) const PLACES: u32 = 16;

/// How long an instance waits for a call.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// One that is made in less is not worth a place.
const WORTH: Duration = Duration::from_micros(200);

/// The memory of one that waits, at most: interpreters come up with 4 to 16 MiB, of which they have
/// touched little. It is nobody's call that has it.
const BYTES_MAX: usize = 64 << 20;

/// What instances are made of: a component that is linked, and whose exports are found.
pub(crate) trait Linked: Send + Sync + 'static {
    type Bound: Send;

    fn engine(&self) -> &Engine;

    fn instantiate(
        &self,
        store: &mut Store<Host>,
    ) -> impl Future<Output = wasmtime::Result<Self::Bound>> + Send;
}

impl Linked for ProgramPre<Host> {
    type Bound = bindings::Program;

    fn engine(&self) -> &Engine {
        self.engine()
    }

    async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Self::Bound> {
        self.instantiate_async(store).await
    }
}

impl Linked for hooked::HookedPre<Host> {
    type Bound = hooked::Hooked;

    fn engine(&self) -> &Engine {
        self.engine()
    }

    async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Self::Bound> {
        self.instantiate_async(store).await
    }
}

/// The places of all programs of a node.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    worth: Duration,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(PLACES as usize)), worth: WORTH }
    }
}

/// What a tenant's program, as it is under these limits, comes up as.
#[derive(Clone)]
pub(crate) struct Instances {
    pub(crate) calls: Arc<Ahead<ProgramPre<Host>>>,
    /// Of what stands beside its generations, where it has that.
    pub(crate) hooks: Option<Arc<Ahead<hooked::HookedPre<Host>>>>,
}

impl Instances {
    pub(crate) fn of(program: &Program, limits: &ProgramLimits) -> Self {
        let Program { pre, hooks, places, .. } = program;
        Self {
            calls: Arc::new(Ahead::new(pre.clone(), limits, places)),
            hooks: hooks.clone().map(|pre| Arc::new(Ahead::new(pre, limits, places))),
        }
    }
}

/// Where one instance waits.
pub(crate) struct Ahead<P: Linked> {
    linked: P,
    limits: ProgramLimits,
    places: Places,
    state: Mutex<State<P::Bound>>,
}

struct State<B> {
    /// Whoever makes instances is told here that one was taken, or that nobody wants any more.
    keeper: Option<Arc<Notify>>,
    made: Option<Made<B>>,
    /// Whether one that was made has turned out not to be worth a place.
    is_unworthy: bool,
}

impl<B> Default for State<B> {
    fn default() -> Self {
        Self { keeper: None, made: None, is_unworthy: false }
    }
}

/// An instance that has come up for nobody yet, and what that has burnt.
pub(crate) struct Made<B> {
    pub(crate) store: Store<Host>,
    pub(crate) bound: B,
    pub(crate) burnt: u64,
}

impl<P: Linked> Ahead<P> {
    fn new(linked: P, limits: &ProgramLimits, places: &Places) -> Self {
        Self { linked, limits: *limits, places: places.clone(), state: Mutex::default() }
    }

    /// A store of its own for `host`, with nothing in it yet.
    pub(crate) fn store(&self, host: Host) -> wasmtime::Result<Store<Host>> {
        sandbox::store(self.linked.engine(), host, &self.limits)
    }

    /// Brings an instance up now.
    pub(crate) async fn bring_up(
        self: &Arc<Self>,
        store: &mut Store<Host>,
    ) -> wasmtime::Result<P::Bound> {
        let begun_at = Instant::now();
        let bound = self.linked.instantiate(store).await?;
        if begun_at.elapsed() >= self.places.worth {
            self.keep();
        }
        Ok(bound)
    }

    /// The instance that waits, if there is one. Another one is made.
    pub(crate) fn take(&self) -> Option<Made<P::Bound>> {
        let mut state = self.state();
        let made = state.made.take()?;
        if let Some(keeper) = &state.keeper {
            keeper.notify_one();
        }
        Some(made)
    }

    /// Lets one wait from now on, for as long as calls come.
    fn keep(self: &Arc<Self>) {
        if let Some(keeper) = self.keeper() {
            tokio::spawn(keeper.run());
        }
    }

    /// Who makes them, unless somebody does or all places are taken.
    fn keeper(self: &Arc<Self>) -> Option<Keeper<P>> {
        let mut state = self.state();
        if state.keeper.is_some() || state.is_unworthy {
            return None;
        }
        let place = self.places.free.clone().try_acquire_owned().ok()?;
        let told = Arc::new(Notify::new());
        state.keeper = Some(told.clone());
        Some(Keeper { of: Arc::downgrade(self), told, _place: place })
    }

    /// One that is worth a place.
    async fn make_worthy(&self) -> Option<Made<P::Bound>> {
        let begun_at = Instant::now();
        let deadline = Duration::from_millis(self.limits.deadline_ms);
        // One that does not come up is its next call's to tell of.
        let made = timeout(deadline, self.make()).await.ok()?.ok()?;
        let is_worth = begun_at.elapsed() >= self.places.worth
            && made.store.data().memory_bytes() <= BYTES_MAX;
        // A machine that is busy makes any of them slow now and then, and none quick.
        self.state().is_unworthy |= !is_worth;
        is_worth.then_some(made)
    }

    /// Brings one up that serves nobody yet.
    pub(crate) async fn make(&self) -> wasmtime::Result<Made<P::Bound>> {
        let mut store = self.store(Host::without_call(self.limits.memory_bytes_max))?;
        let bound = self.linked.instantiate(&mut store).await?;
        let burnt = self.limits.fuel_max.saturating_sub(store.get_fuel()?);
        Ok(Made { store, bound, burnt })
    }

    fn put(&self, made: Made<P::Bound>) {
        // What was there is dropped when nobody waits for it.
        let before = self.state().made.replace(made);
        drop(before);
    }

    fn end(&self) {
        let mut state = self.state();
        state.keeper = None;
        let before = state.made.take();
        drop(state);
        drop(before);
    }

    fn state(&self) -> MutexGuard<'_, State<P::Bound>> {
        // Nothing between the first change of a call and its last can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Linked> Drop for Ahead<P> {
    fn drop(&mut self) {
        if let Some(keeper) = &self.state().keeper {
            keeper.notify_one();
        }
    }
}

/// Who makes instances, and has their place.
struct Keeper<P: Linked> {
    of: Weak<Ahead<P>>,
    told: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

impl<P: Linked> Keeper<P> {
    async fn run(self) {
        while let Some(of) = self.of.upgrade() {
            let Some(made) = of.make_worthy().await else { return };
            of.put(made);
            drop(of);
            if timeout(KEPT_FOR, self.told.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl<P: Linked> Drop for Keeper<P> {
    fn drop(&mut self) {
        if let Some(of) = self.of.upgrade() {
            of.end();
        }
    }
}

#[cfg(test)]
mod tests;
