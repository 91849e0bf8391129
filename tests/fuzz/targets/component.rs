//! A file that claims to be a program: refused by its form, or compiled, instantiated and asked
//! for its functions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::desired::ProgramLimits;
use tokio::runtime::Builder;

/// The sandbox, and the thread that waits for its compiler.
struct World {
    tokio: tokio::runtime::Runtime,
    programs: realm_runtime::Runtime,
}

/// Of a tenant that may have everything the compiler can do.
const LIMITS: ProgramLimits = ProgramLimits {
    memory_bytes_max: 1 << 20,
    fuel_max: 1 << 20,
    host_calls_max: 1 << 10,
    output_bytes_max: 1 << 16,
    deadline_ms: 1000,
    token_fuel_max: 1_000_000,
    token_deadline_ms: 1_000,
    instances_max: 64,
    memory64: true,
};

thread_local! {
    static WORLD: World = {
        let tokio = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
        let programs = realm_runtime::Runtime::new().expect("this machine has a sandbox");
        World { tokio, programs }
    };
}

fuzz_target!(|bytes: &[u8]| {
    WORLD.with(|world| {
        let prepared = world.programs.prepare_program(bytes.to_vec(), &LIMITS);
        let Ok(program) = world.tokio.block_on(prepared) else { return };
        let mut names: Vec<_> = program.functions().iter().map(|function| &function.name).collect();
        let functions = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), functions, "a function is declared twice");
    });
});
