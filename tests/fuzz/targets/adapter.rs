//! An adapter's file: what it says of itself, and loading it beside a model, which goes on.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use realm_core::{desired::Sha256, name::ModelName};
use realm_engine::{AdapterOptions, EngineHandle, MemoryBudget};
use realm_fuzz::InputFile;

thread_local! {
    static FILE: InputFile = InputFile::new("adapter");
    static BASE: Arc<EngineHandle> = {
        let model = InputFile::new("base");
        let path = model.hold(&realm_fuzz::seed_model("{{ messages }}")).to_owned();
        let opened = realm_engine::open(&[path], realm_fuzz::options());
        Arc::new(opened.expect("a model of our own").0)
    };
}

fuzz_target!(|bytes: &[u8]| {
    let loaded = FILE.with(|file| {
        let path = file.hold(bytes);
        let facts = realm_engine::examine_adapter(path);
        let options = AdapterOptions {
            name: ModelName::new("fuzz", "adapter").expect("two DNS labels"),
            sha256: Sha256([1; 32]),
            budget: MemoryBudget::fixed(realm_fuzz::MEMORY_BYTES_MAX),
        };
        let loaded = BASE.with(|base| base.adapt(path, options));
        // What is loaded could be told apart from what is none by its header alone.
        assert!(loaded.is_err() || facts.is_ok());
        loaded
    });
    drop(loaded);
});
