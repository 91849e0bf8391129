//! One instance a run: made for it or ahead of it, dropped when the run ends.

use std::sync::Arc;

use wasmtime::{Store, Trap};

use crate::{
    ahead::{Ahead, Made},
    bindings::{self, ProgramPre},
    host::Host,
    meter::Left,
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

/// A fresh instance for `host` with what `fuel` has left: nothing that another run left behind is in
/// it.
pub(crate) async fn checkout(
    of: &Arc<Ahead<ProgramPre<Host>>>,
    host: Host,
    fuel: Left,
) -> wasmtime::Result<Instance> {
    if let Some(Made { mut store, bound, burnt }) = of.take() {
        pay(&fuel, burnt)?;
        store.data_mut().serve(host);
        store.set_fuel(fuel.get())?;
        return Ok(Instance { sandbox: Metered { store, fuel }, program: bound });
    }
    let mut store = of.store(host)?;
    store.set_fuel(fuel.get())?;
    let mut sandbox = Metered { store, fuel };
    let program = of.bring_up(&mut sandbox.store).await?;
    Ok(Instance { sandbox, program })
}

/// Takes what an instance that was made ahead has burnt, as if it had been made now.
pub(crate) fn pay(fuel: &Left, burnt: u64) -> wasmtime::Result<()> {
    if fuel.take(burnt) {
        return Ok(());
    }
    fuel.set(0);
    Err(Trap::OutOfFuel.into())
}
