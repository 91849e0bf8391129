//! One instance a run: made for it or ahead of it, dropped when the run ends.

use std::{sync::Arc, time::Instant};

use realm_core::desired::ProgramLimits;
use wasmtime::{Store, Trap};

use crate::{
    ahead::{self, Made},
    bindings,
    host::Host,
    meter::Left,
    program::Program,
    sandbox,
};

/// A program in its sandbox. Dropping it gives the slot back and clears it.
pub(crate) struct Instance {
    pub(crate) sandbox: Metered,
    pub(crate) program: bindings::Program,
}

/// A store whose unspent fuel goes back to its call, even where the run is dropped half-way: a
/// step that went over its deadline has spent what it has spent.
pub(crate) struct Metered {
    pub(crate) store: Store<Host>,
    fuel: Left,
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Every store counts fuel; one that did not would have none to give back.
        self.fuel.set(self.store.get_fuel().unwrap_or(0));
    }
}

/// A fresh instance with what `fuel` has left: nothing that another run left behind is in it.
pub(crate) async fn checkout(
    of: &Arc<Program>,
    host: Host,
    limits: &ProgramLimits,
    fuel: Left,
) -> wasmtime::Result<Instance> {
    if let Some(made) = of.ahead.take() {
        return take_over(made, host, fuel);
    }
    let begun_at = Instant::now();
    let mut store = sandbox::store(of.pre.engine(), host, limits)?;
    store.set_fuel(fuel.get())?;
    let mut sandbox = Metered { store, fuel };
    let program = of.pre.instantiate_async(&mut sandbox.store).await?;
    if begun_at.elapsed() >= ahead::WORTH {
        ahead::keep(of);
    }
    Ok(Instance { sandbox, program })
}

/// Lets an instance that was made ahead serve a run, as if it had been made for it: it has burnt so
/// much fuel, and takes so much memory.
fn take_over(made: Made, host: Host, fuel: Left) -> wasmtime::Result<Instance> {
    let Made { mut store, program, burnt } = made;
    if !fuel.take(burnt) {
        fuel.set(0);
        return Err(Trap::OutOfFuel.into());
    }
    store.data_mut().take_over(host)?;
    store.set_fuel(fuel.get())?;
    Ok(Instance { sandbox: Metered { store, fuel }, program })
}

#[cfg(test)]
mod tests {
    use realm_core::refusal::{ProgramLimit, Refusal};

    use super::*;
    use crate::{Runtime, ahead, checkup, meter::Allowance, refusal::Ended};

    /// What becomes of an instance that has burnt 1000 when it goes to a run with such limits.
    async fn taken_over(limits: ProgramLimits) -> (wasmtime::Result<Instance>, Left) {
        let runtime = Runtime::new().unwrap();
        let program = runtime.prepare_built_in().await.unwrap().0;
        let made = ahead::make(&program.pre).await.unwrap();
        let fuel = Allowance::new(&limits, None, Instant::now()).fuel;
        let host = Host::without_call(limits.memory_bytes_max);
        (take_over(Made { burnt: 1000, ..made }, host, fuel.clone()), fuel)
    }

    #[tokio::test]
    async fn who_gets_an_instance_pays_for_what_it_has_burnt() {
        let (instance, fuel) =
            taken_over(ProgramLimits { fuel_max: 1500, ..checkup::LIMITS }).await;
        let instance = instance.unwrap();
        assert_eq!((instance.sandbox.store.get_fuel().unwrap(), fuel.get()), (500, 500));
        let (refused, fuel) = taken_over(ProgramLimits { fuel_max: 999, ..checkup::LIMITS }).await;
        let error = refused.err().unwrap();
        assert_eq!(error.downcast_ref(), Some(&Trap::OutOfFuel));
        assert_eq!(fuel.get(), 0, "it is spent");
    }

    #[tokio::test]
    async fn an_instance_that_takes_more_memory_than_its_run_may_is_refused() {
        let limits = ProgramLimits { memory_bytes_max: 1000, ..checkup::LIMITS };
        let error = taken_over(limits).await.0.err().unwrap();
        let Some(Ended(refusal)) = error.downcast_ref() else { panic!("{error}") };
        assert_eq!(*refusal, Refusal::ProgramLimit { limit: ProgramLimit::Memory, max: 1000 });
    }
}
