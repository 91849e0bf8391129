//! A store in a folder of its own, and what the tests ask it.

use std::{
    path::PathBuf,
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use realm_core::{
    credentials::Credentials,
    desired::{Artifact, Sha256},
};
use realm_store::{FetchError, Owner, Progress, Retry, Site, Store, StoreOptions, Stored};
use sha2::Digest;
use tempfile::TempDir;

/// Longer than any fetch here takes on a busy machine; what takes longer hangs.
const HANG: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options(change)).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn fetch(&self, artifact: &Artifact) -> Result<Stored, FetchError> {
        self.fetch_with(artifact, &NOBODY.credentials).await
    }

    pub(crate) async fn fetch_with(
        &self,
        artifact: &Artifact,
        credentials: &Credentials,
    ) -> Result<Stored, FetchError> {
        let owner = owner(credentials);
        let told = Mutex::new(Vec::new());
        let started = Instant::now();
        let result = tokio::time::timeout(
            HANG,
            self.store.fetch(artifact, &owner, &|p| told.lock().unwrap().push(p)),
        )
        .await
        .unwrap_or_else(|_| panic!("the fetch hangs, after {:?}", started.elapsed()));
        if let Ok(stored) = &result {
            let bytes = stored.bytes;
            let last = Progress { bytes_done: bytes, bytes_total: Some(bytes) };
            assert_eq!(told.lock().unwrap().last(), Some(&last), "progress ends at the end");
        }
        result
    }

    /// Names in the folder of unfinished files.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        names(self.dir.path().join("partial"))
    }

    pub(crate) fn blobs(&self) -> Vec<String> {
        names(self.dir.path().join("blobs/sha256"))
    }
}

pub(crate) fn options(change: impl FnOnce(&mut StoreOptions)) -> StoreOptions {
    let mut options = StoreOptions::new(Site::OneMachine);
    options.retry = Retry {
        attempts_max: 3,
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(5),
    };
    change(&mut options);
    options
}

fn names(folder: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Who shows nothing.
pub(crate) static NOBODY: LazyLock<Owner> = LazyLock::new(|| owner(&Credentials::default()));

/// Somebody in the namespace `tests`.
pub(crate) fn owner(credentials: &Credentials) -> Owner {
    Owner { namespace: "tests".to_owned(), credentials: credentials.clone(), config_maps: None }
}

/// Bytes that repeat at no distance a test could mistake for the right one.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub(crate) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

pub(crate) fn artifact(bytes: &[u8], sources: impl IntoIterator<Item = String>) -> Artifact {
    let sha256 = Some(digest(bytes));
    Artifact { sources: sources.into_iter().collect(), sha256, parts: Vec::new() }
}

/// A file that nobody gives a digest of.
pub(crate) fn unnamed(sources: impl IntoIterator<Item = String>) -> Artifact {
    Artifact { sources: sources.into_iter().collect(), sha256: None, parts: Vec::new() }
}

/// The reason of the whole and of each mirror, in order.
pub(crate) fn reasons(error: &FetchError) -> Vec<&'static str> {
    let FetchError::EverySource(attempts) = error else { panic!("{error}") };
    std::iter::once(error.reason())
        .chain(attempts.iter().map(|attempt| attempt.error.reason()))
        .collect()
}
