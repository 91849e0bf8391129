//! The text of a mirror: read or refused, and shown without what may be secret in it.
//!
//! Without a digest the store asks no server and no `pip`; only files of this machine are opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::desired::Artifact;
use realm_store::{Attempt, FetchError, Owner, Site, Store, StoreOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

struct World {
    runtime: Runtime,
    store: Store,
    /// Who shows nothing.
    nobody: Owner,
    _folder: TempDir,
}

thread_local! {
    static WORLD: World = {
        let folder = tempfile::tempdir().expect("the machine has a folder for temporary files");
        let mut options = StoreOptions::new(Site::OneMachine);
        options.bytes_max = 1 << 20;
        let store = Store::open(folder.path(), options).expect("an empty folder is a store");
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
        World { runtime, store, nobody: Owner::default(), _folder: folder }
    };
}

fuzz_target!(|text: &str| {
    WORLD.with(|world| {
        world.refusals(text).iter().for_each(check_shown);
        if !text.contains(SECRET) {
            for begin in BEGINNINGS {
                for attempt in world.refusals(&format!("{begin}u:{SECRET}@{text}")) {
                    assert!(!attempt.to_string().contains(SECRET), "{attempt}");
                }
            }
        }
    });
});

/// What nobody may be shown, wherever a host belongs.
const SECRET: &str = "hunter2";

/// What may stand before a host: browsers take each of the first for `https://`.
const BEGINNINGS: [&str; 9] = [
    "https://",
    "https:/",
    "https:",
    "https:///",
    "https:\\\\",
    "HTTPS://",
    "hf://",
    "s3://",
    "oci://",
];

impl World {
    /// Why each mirror of this text gave nothing.
    fn refusals(&self, text: &str) -> Vec<Attempt> {
        let artifact = Artifact { sources: vec![text.to_owned()], sha256: None, parts: Vec::new() };
        let fetch = self.store.fetch(&artifact, &self.nobody, &|_| ());
        match self.runtime.block_on(fetch) {
            Ok(_) => Vec::new(),
            Err(FetchError::EverySource(attempts)) => attempts,
            Err(other) => panic!("one source is neither none nor too many: {other}"),
        }
    }
}

/// A place that is asked over the network shows neither who asks nor with which query.
fn check_shown(attempt: &Attempt) {
    let shown = &attempt.source;
    let Some((scheme, rest)) = shown.trim().split_once("://") else { return };
    if !matches!(scheme, "file" | "pvc" | "pip") {
        assert!(!rest.contains(['?', '#']), "{shown:?}");
        let authority = rest.split('/').next().unwrap_or_default();
        assert!(!authority.contains('@'), "{shown:?}");
    }
}
