//! The store: one folder of artifacts, filled from the first mirror that has the right bytes.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use realm_core::{
    credentials::Credentials,
    desired::{Artifact, Sha256},
};

use crate::{
    cache::Cache,
    disk,
    error::{FetchError, StoreError},
    fetch::Fetch,
    file::{FileId, Files},
    hash,
    options::StoreOptions,
};

/// Mirrors of one artifact that are tried. More than a handful is a mistake, and each may cost
/// its whole patience.
const SOURCES_MAX: usize = 16;

/// How far a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: u64,
    /// What there will be in the end, once that is known.
    pub bytes_total: Option<u64>,
}

/// Told, often, how far a fetch is.
pub type ProgressFn<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// An artifact that is here and has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// A regular file that nothing in the store will change.
    pub path: PathBuf,
    pub sha256: Sha256,
    pub bytes: u64,
    /// What the file was when it was verified, where it is not the store's own.
    pub(crate) in_place: Option<FileId>,
}

impl Stored {
    /// Whether the file is no longer the one that was verified. One of the store's own never
    /// changes; one that is used in place is its owner's.
    pub fn has_changed(&self) -> io::Result<bool> {
        let Some(id) = self.in_place else { return Ok(false) };
        Ok(FileId::of(&fs::metadata(&self.path)?) != id)
    }
}

/// What reading a blob again showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Intact(Stored),
    /// The bytes had changed; they have been removed, so that the next fetch brings them anew.
    Corrupt {
        found: Sha256,
    },
    Absent,
}

/// A folder of artifacts, shared with every other process that opens it.
#[derive(Clone)]
pub struct Store {
    cache: Cache,
    files: Files,
    options: Arc<StoreOptions>,
}

impl Store {
    /// Opens the store in `dir`, making it if need be, and clears away what was abandoned there.
    ///
    /// Waits on the disk, if only for a moment: call it before serving.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let cache = Cache::open(dir)?;
        if let Err(error) = cache.collect(SystemTime::now()) {
            tracing::warn!(%error, "abandoned downloads could not be cleared away");
        }
        Ok(Self { cache, files: Files::default(), options: Arc::new(options) })
    }

    /// Brings an artifact here, from the first of its mirrors that has the right bytes.
    ///
    /// Fetches of one digest share one download, across processes too. A fetch that is dropped, or
    /// whose process dies, leaves what it has for the next one to go on from. Each of `credentials`
    /// is shown only to the server that it is for, and the login of a registry to the token server
    /// that this registry names.
    pub async fn fetch(
        &self,
        artifact: &Artifact,
        credentials: &Credentials,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        self.fetch_within(&self.options, artifact, credentials, progress).await
    }

    /// As [`Self::fetch`], and refuses what has more than `bytes_max` before it is brought here.
    pub async fn fetch_at_most(
        &self,
        bytes_max: u64,
        artifact: &Artifact,
        credentials: &Credentials,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        let mut options = StoreOptions::clone(&self.options);
        options.bytes_max = options.bytes_max.min(bytes_max);
        self.fetch_within(&options, artifact, credentials, progress).await
    }

    async fn fetch_within(
        &self,
        options: &StoreOptions,
        artifact: &Artifact,
        credentials: &Credentials,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        let count = artifact.sources.len();
        if count == 0 {
            return Err(FetchError::NoSource);
        }
        if count > SOURCES_MAX {
            return Err(FetchError::TooManySources { count, max: SOURCES_MAX });
        }
        let stored =
            Fetch::new((&self.cache, &self.files), options, artifact, credentials, progress)
                .run()
                .await?;
        progress(Progress { bytes_done: stored.bytes, bytes_total: Some(stored.bytes) });
        Ok(stored)
    }

    /// The artifacts that are here, ordered by digest.
    pub async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let cache = self.cache.clone();
        disk::blocking(move || cache.list()).await
    }

    /// Reads an artifact again and says whether it is still what its digest says.
    pub async fn verify(&self, sha256: Sha256) -> Result<Verdict, StoreError> {
        let cache = self.cache.clone();
        let opened = disk::blocking(move || {
            let Some(stored) = cache.find(sha256)? else { return Ok(None) };
            let file =
                File::open(&stored.path).map_err(|e| disk::error("open", &stored.path, None, e))?;
            Ok(Some((stored, file)))
        });
        let Some((stored, file)) = opened.await? else { return Ok(Verdict::Absent) };
        let (hasher, _) = hash::hash(Arc::new(file), |_| ())
            .await
            .map_err(|e| disk::error("read", &stored.path, None, e))?;
        let found = hasher.digest();
        if found == sha256 {
            return Ok(Verdict::Intact(stored));
        }
        let cache = self.cache.clone();
        disk::blocking(move || cache.remove(&sha256)).await?;
        Ok(Verdict::Corrupt { found })
    }
}
