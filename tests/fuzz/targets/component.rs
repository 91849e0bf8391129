//! A file that claims to be a program: refused by its form, or compiled, instantiated and asked
//! for its functions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// The sandbox, and the thread that waits for its compiler.
struct World {
    tokio: tokio::runtime::Runtime,
    programs: realm_runtime::Runtime,
}

thread_local! {
    static WORLD: World = {
        let tokio = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
        let programs = realm_runtime::Runtime::new().expect("this machine has a sandbox");
        World { tokio, programs }
    };
}

fuzz_target!(|bytes: &[u8]| {
    WORLD.with(|world| {
        let Ok(program) = world.tokio.block_on(world.programs.prepare_program(bytes.to_vec())) else {
            return;
        };
        let mut names: Vec<_> = program.functions().iter().map(|function| &function.name).collect();
        let functions = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), functions, "a function is declared twice");
    });
});
