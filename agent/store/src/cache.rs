//! The folder of the store: whole artifacts named by their digest, and unfinished ones beside.
//!
//! `blobs/sha256/<digest>` is whole and right, always; `partial/<digest>` is not, and
//! `partial/<digest>.state` says what the last server told about it; `partial/<digest>.pip` is where
//! `pip` puts its wheel.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use realm_core::desired::Sha256;

use crate::{
    disk,
    error::StoreError,
    partial::Partial,
    state,
    store::{Progress, Stored},
};

/// Entries looked at in one folder; a node holds tens of models, not thousands.
const ENTRIES_MAX: usize = 4096;

/// An unfinished file nobody has touched for so long is not coming back.
const PARTIAL_AGE_MAX: Duration = Duration::from_hours(7 * 24);

/// What came of asking for the right to write a blob.
pub(crate) enum Claim {
    /// Nobody needs to: it is here.
    Stored(Stored),
    Granted(Partial),
    /// Somebody else writes it, and has come this far.
    Held(Progress),
}

/// The folder of a store.
#[derive(Clone)]
pub(crate) struct Cache {
    blobs: Arc<Path>,
    partials: Arc<Path>,
}

impl Cache {
    /// Makes the folders. A folder that is there but cannot be written still serves what it holds.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let blobs = root.join("blobs/sha256");
        let partials = root.join("partial");
        for folder in [&blobs, &partials] {
            fs::create_dir_all(folder).map_err(|e| disk::error("make", folder, None, e))?;
        }
        Ok(Self { blobs: blobs.into(), partials: partials.into() })
    }

    fn blob(&self, sha256: &Sha256) -> PathBuf {
        self.blobs.join(sha256.to_string())
    }

    /// The blob of this digest, if it is here.
    pub(crate) fn find(&self, sha256: Sha256) -> Result<Option<Stored>, StoreError> {
        let path = self.blob(&sha256);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(Stored::whole(path, sha256, meta.len()))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk::error("look at", &path, None, error)),
        }
    }

    fn partial(&self, sha256: &Sha256) -> PathBuf {
        self.partials.join(sha256.to_string())
    }

    /// Asks for the right to write the blob of this digest.
    pub(crate) fn claim(&self, sha256: Sha256) -> Result<Claim, StoreError> {
        let path = self.partial(&sha256);
        let Some(partial) = Partial::claim(&path, &self.blob(&sha256), sha256)? else {
            let bytes_done = fs::metadata(&path).map_or(0, |meta| meta.len());
            let bytes_total = state::read(&path).and_then(|state| state.bytes_total);
            return Ok(Claim::Held(Progress { bytes_done, bytes_total }));
        };
        // The last holder may have finished it just before the claim, which then made a new file.
        match self.find(sha256)? {
            Some(stored) => partial.discard().map(|()| Claim::Stored(stored)),
            None => Ok(Claim::Granted(partial)),
        }
    }

    pub(crate) fn remove(&self, sha256: &Sha256) -> Result<(), StoreError> {
        let path = self.blob(sha256);
        fs::remove_file(&path).map_err(|e| disk::error("remove", &path, None, e))
    }

    /// All blobs, ordered by digest.
    pub(crate) fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let mut stored = Vec::new();
        for digest in digests(&self.blobs)? {
            stored.extend(self.find(digest)?);
        }
        Ok(stored)
    }

    /// Removes what is unfinished, old at `now` and written by nobody.
    pub(crate) fn collect(&self, now: SystemTime) -> Result<(), StoreError> {
        for digest in digests(&self.partials)? {
            let meta = fs::symlink_metadata(self.partial(&digest));
            let abandoned = match meta.and_then(|meta| meta.modified()) {
                Ok(modified) => now.duration_since(modified).unwrap_or_default() > PARTIAL_AGE_MAX,
                // What stood beside a file outlived it: its holder was killed in between.
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if abandoned && let Claim::Granted(partial) = self.claim(digest)? {
                partial.discard()?;
            }
        }
        Ok(())
    }
}

/// The digests that begin the names in a folder; other names are none of ours.
fn digests(folder: &Path) -> Result<BTreeSet<Sha256>, StoreError> {
    let failed = |error| disk::error("list", folder, None, error);
    let mut digests = BTreeSet::new();
    for (count, entry) in fs::read_dir(folder).map_err(failed)?.enumerate() {
        if count == ENTRIES_MAX {
            return Err(StoreError::TooManyEntries { path: folder.to_owned(), max: ENTRIES_MAX });
        }
        let name = entry.map_err(failed)?.file_name();
        let stem = name.to_str().and_then(|name| name.split('.').next());
        digests.extend(stem.and_then(|stem| stem.parse::<Sha256>().ok()));
    }
    Ok(digests)
}
