//! The store: one folder of artifacts, filled from the first mirror that has the right bytes.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use realm_core::{
    config_maps::ConfigMaps,
    credentials::Credentials,
    desired::{Artifact, Sha256},
};

use crate::{
    cache::Cache,
    disk,
    error::{Attempt, FetchError, StoreError},
    fetch,
    file::{FileId, Files, Kept},
    hash,
    options::StoreOptions,
    parts, source,
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

/// Whose artifacts these are: what they may use of what the store can reach.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// The namespace whose claims `pvc` sources are of, and whose ConfigMaps `configmap` sources.
    pub namespace: String,
    /// Each is shown only to the server that it is for, and the login of a registry to the token
    /// server that this registry names.
    pub credentials: Credentials,
    /// Who reads ConfigMaps, for artifacts that may come from one.
    pub config_maps: Option<ConfigMaps>,
}

/// The first bytes of a file. Nothing vouches for them: a digest is of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub bytes: Vec<u8>,
    /// How many there are in the whole file, where its source says.
    pub bytes_total: Option<u64>,
}

/// An artifact that is here and has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// A regular file that nothing in the store will change, or the first part of one that is split.
    /// That of a claim can be opened by this path for as long as this is held, and no longer.
    pub path: PathBuf,
    /// Of the file, or of the digests of its parts.
    pub sha256: Sha256,
    /// Of all parts together.
    pub bytes: u64,
    /// What the file was when it was verified, where it is not the store's own.
    pub(crate) in_place: Option<FileId>,
    pub(crate) kept: Option<Kept>,
    /// The parts behind the first, of a file that is split.
    pub(crate) rest: Vec<Self>,
}

impl Stored {
    /// A file of the store's own, in one part.
    pub(crate) const fn whole(path: PathBuf, sha256: Sha256, bytes: u64) -> Self {
        Self { path, sha256, bytes, in_place: None, kept: None, rest: Vec::new() }
    }

    /// Whether the file is no longer the one that was verified. One of the store's own never
    /// changes; one that is used in place is its owner's.
    pub fn has_changed(&self) -> io::Result<bool> {
        for part in [self].into_iter().chain(&self.rest) {
            if let Some(id) = part.in_place
                && FileId::of(&fs::metadata(&part.path)?) != id
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file, or all parts of it in their order.
    pub fn paths(&self) -> Vec<PathBuf> {
        [self].into_iter().chain(&self.rest).map(|part| part.path.clone()).collect()
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

/// The mirrors of an artifact, in the order in which they are tried.
pub fn sources(artifact: &Artifact) -> Result<&[String], FetchError> {
    match artifact.sources.len() {
        0 => Err(FetchError::NoSource),
        1..=SOURCES_MAX => Ok(&artifact.sources),
        count => Err(FetchError::TooManySources { count, max: SOURCES_MAX }),
    }
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
    /// whose process dies, leaves what it has for the next one to go on from.
    pub async fn fetch(
        &self,
        artifact: &Artifact,
        owner: &Owner,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        self.fetch_within(&self.options, artifact, owner, progress).await
    }

    /// The artifact, if its digests are known and all that they are of is here.
    pub async fn find(&self, artifact: &Artifact) -> Result<Option<Stored>, StoreError> {
        parts::find(&self.cache, artifact).await
    }

    /// Reads the first `bytes` bytes of the file that is to have this digest from one of its
    /// `sources`, or all that there are. Nothing is kept, and nothing verified.
    pub async fn head(
        &self,
        (source, sha256): (&str, Option<Sha256>),
        owner: &Owner,
        bytes: usize,
    ) -> Result<Head, Attempt> {
        let head = fetch::head((source, sha256), owner, bytes, &self.options).await;
        head.map_err(|error| Attempt { source: source::redact(source), error })
    }

    /// As [`Self::fetch`], and refuses what has more than `bytes_max` before it is brought here.
    pub async fn fetch_at_most(
        &self,
        bytes_max: u64,
        artifact: &Artifact,
        owner: &Owner,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        let mut options = StoreOptions::clone(&self.options);
        options.bytes_max = options.bytes_max.min(bytes_max);
        self.fetch_within(&options, artifact, owner, progress).await
    }

    async fn fetch_within(
        &self,
        options: &StoreOptions,
        artifact: &Artifact,
        owner: &Owner,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, FetchError> {
        sources(artifact)?;
        let stored =
            parts::fetch((&self.cache, &self.files), options, artifact, owner, progress).await?;
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
