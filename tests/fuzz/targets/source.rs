//! The text of a mirror: read or refused, and shown without what may be secret in it.
//!
//! Without a digest the store asks no server and no `pip`; only files of this machine are opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::desired::Artifact;
use realm_store::{FetchError, Site, Store, StoreOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

struct World {
    runtime: Runtime,
    store: Store,
    _folder: TempDir,
}

thread_local! {
    static WORLD: World = {
        let folder = tempfile::tempdir().expect("the machine has a folder for temporary files");
        let mut options = StoreOptions::new(Site::OneMachine);
        options.bytes_max = 1 << 20;
        let store = Store::open(folder.path(), options).expect("an empty folder is a store");
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
        World { runtime, store, _folder: folder }
    };
}

fuzz_target!(|text: &str| {
    WORLD.with(|World { runtime, store, .. }| {
        let artifact = Artifact { sources: vec![text.to_owned()], sha256: None };
        match runtime.block_on(store.fetch(&artifact, &|_| ())) {
            Ok(_) => {}
            Err(FetchError::EverySource(attempts)) => {
                for attempt in attempts {
                    check_shown(&attempt.source);
                }
            }
            Err(other) => panic!("one source is neither none nor too many: {other}"),
        }
    });
});

/// An address of the web shows neither who asks nor with which query.
fn check_shown(shown: &str) {
    let Some((scheme, rest)) = shown.trim().split_once("://") else { return };
    if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
        assert!(!rest.contains(['?', '#']), "{shown:?}");
        let authority = rest.split('/').next().unwrap_or_default();
        assert!(!authority.contains('@'), "{shown:?}");
    }
}
