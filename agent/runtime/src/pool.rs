//! One instance a call: taken from the pool of slots, dropped when the call ends.

use realm_core::desired::ProgramLimits;
use wasmtime::Store;

use crate::{
    bindings::{Program, ProgramPre},
    host::Host,
    sandbox,
};

/// A program in its sandbox. Dropping it gives the slot back and clears it.
pub(crate) struct Instance {
    pub(crate) store: Store<Host>,
    pub(crate) program: Program,
}

/// A fresh instance: nothing that another call left behind is in it.
pub(crate) async fn checkout(
    pre: &ProgramPre<Host>,
    host: Host,
    limits: &ProgramLimits,
) -> wasmtime::Result<Instance> {
    let mut store = sandbox::store(pre.engine(), host, limits)?;
    let program = pre.instantiate_async(&mut store).await?;
    Ok(Instance { store, program })
}
