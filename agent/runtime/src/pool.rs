//! One instance a run: taken from the pool of slots, dropped when the run ends.

use realm_core::desired::ProgramLimits;
use wasmtime::Store;

use crate::{
    bindings::{Program, ProgramPre},
    host::Host,
    meter::Left,
    sandbox,
};

/// A program in its sandbox. Dropping it gives the slot back and clears it.
pub(crate) struct Instance {
    pub(crate) sandbox: Metered,
    pub(crate) program: Program,
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
    pre: &ProgramPre<Host>,
    host: Host,
    limits: &ProgramLimits,
    fuel: Left,
) -> wasmtime::Result<Instance> {
    let mut store = sandbox::store(pre.engine(), host, limits)?;
    store.set_fuel(fuel.get())?;
    let mut sandbox = Metered { store, fuel };
    let program = pre.instantiate_async(&mut sandbox.store).await?;
    Ok(Instance { sandbox, program })
}
