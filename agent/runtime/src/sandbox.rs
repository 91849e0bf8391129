//! How every sandbox is built: the compiler, its features, the pool of instances, the imports.

use realm_core::desired::ProgramLimits;
use thiserror::Error;
use wasmtime::{
    Config, Engine, PoolingAllocationConfig, Store, Strategy,
    component::{HasSelf, Linker},
};

use crate::{ahead, bindings, host::Host};

/// Programs running at once on this node, over all tenants.
///
/// A memory reserves 4 GiB of address space and its guard, so the three that each may have take
/// 6 TiB of the 128 TiB of a process, and while idle no real memory but what [`STACK_BYTES_KEPT`]
/// counts. A decode batch is far smaller, so the sandboxes are never what a node runs out of first.
/// The tenants' CRD takes no limit above it: `PROGRAM_INSTANCES_MAX` there is the same number.
const INSTANCES_MAX: u32 = 512;

/// So many more, since those that wait for calls have slots as well.
const SLOTS: u32 = INSTANCES_MAX + ahead::PLACES;

/// Bytes of one linear memory, whatever the tenant's own limit. An interpreter with its libraries
/// takes about 64 MiB; 1 GiB is beyond what belongs beside the weights. The tenants' CRD takes no
/// limit above it: `PROGRAM_MEMORY_BYTES_MAX` there is the same number.
pub(crate) const MEMORY_BYTES_MAX: usize = 1 << 30;

/// Core instances in one component: componentized interpreters bring about a dozen.
const CORE_INSTANCES_MAX: u32 = 64;

/// Memories and tables in one component. Toolchains make one of each, and a second for adapters;
/// that of QuickJS composes a component of its own that stands for the system, whose memory is
/// empty, as its adapter's is.
const MEMORIES_MAX: u32 = 3;
const TABLES_MAX: u32 = 4;

/// Entries of one table: CPython as a component has about 10 000 functions behind pointers.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 50_000;

/// Bytes of wasmtime's own bookkeeping for one instance; CPython needs about 1 MB.
const INSTANCE_BYTES_MAX: usize = 10 << 20;

/// Bytes of stack for a program, and on top of it for the host functions that it calls.
const STACK_BYTES: usize = 512 << 10;
const HOST_STACK_BYTES: usize = 1 << 20;

/// Bytes of a table and of a stack that are wiped and stay with their slot between two instances;
/// what is beyond them is given back. All slots that were ever used keep 66 MiB at most, for their
/// four tables and their stack.
const TABLE_BYTES_KEPT: usize = 16 << 10;
const STACK_BYTES_KEPT: usize = 64 << 10;

/// Fuel between two returns to the scheduler: about 50 microseconds of a tight loop. Tokio looks
/// at its sockets every 61 polls, so programs that all loop delay a socket by about 3 ms.
const FUEL_YIELD: u64 = 50_000;

/// Bytes that a program may hand to the host in one call: a message of 1 MiB, the most that the
/// doors let in, with every byte a token of four bytes, twice over.
const HOST_CALL_BYTES_MAX: usize = 8 << 20;

/// Handles that a program may hold. One of a model and one of a generation serve a call; this
/// many serve the most branching of programs.
pub(crate) const HANDLES_MAX: usize = 64;

/// Why no sandbox can be built on this machine.
#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("preparing the sandboxes of {INSTANCES_MAX} programs")]
    Engine { source: wasmtime::Error },
    #[error("linking the host's functions")]
    Link { source: wasmtime::Error },
}

/// What all programs are compiled and linked with.
pub(crate) struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
    /// For instances that wait for calls.
    pub(crate) places: ahead::Places,
}

impl Sandbox {
    pub(crate) fn new() -> Result<Self, SandboxError> {
        let engine = Engine::new(&config()).map_err(|source| SandboxError::Engine { source })?;
        let mut linker = Linker::new(&engine);
        bindings::Program::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)
            .map_err(|source| SandboxError::Link { source })?;
        Ok(Self { engine, linker, places: ahead::Places::default() })
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        // The other compilers of wasmtime trade safety or speed for what is not needed here.
        .strategy(Strategy::Cranelift)
        // The world is synchronous; its young asynchronous sibling stays out of reach.
        .concurrency_support(false)
        // Whoever may not have it is refused for what the component needs: all share one engine.
        .wasm_component_model_memory64(true)
        .consume_fuel(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(STACK_BYTES + HOST_STACK_BYTES)
        // Stacks are used again by other tenants.
        .async_stack_zeroing(true)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .allocation_strategy(pool());
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(SLOTS)
        .total_core_instances(SLOTS * CORE_INSTANCES_MAX)
        .total_memories(SLOTS * MEMORIES_MAX)
        .total_tables(SLOTS * TABLES_MAX)
        .total_stacks(SLOTS)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        // What a tenant wrote into its memory is given back to the system at once, not kept for the
        // next. To give back all of tables and stacks too, and to ask for them anew, makes an
        // instance come to its call a quarter later.
        .linear_memory_keep_resident(0)
        .table_keep_resident(TABLE_BYTES_KEPT)
        .async_stack_keep_resident(STACK_BYTES_KEPT);
    pool
}

/// A store for one instance, under `limits`.
pub(crate) fn store(
    engine: &Engine,
    host: Host,
    limits: &ProgramLimits,
) -> wasmtime::Result<Store<Host>> {
    let mut store = Store::new(engine, host);
    store.limiter(Host::memory);
    store.set_fuel(limits.fuel_max)?;
    store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
    store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    Ok(store)
}
