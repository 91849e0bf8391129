//! Files of this machine, used where they lie.
//!
//! A file is opened once ([`Opened`]), and what was opened is what is looked at, hashed and kept: a
//! name could lead elsewhere by the time it is followed again.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use realm_core::desired::Sha256;
use rustix::fs::OFlags;

use crate::{
    error::{SourceError, StoreError},
    hash,
    store::{Head, Progress, ProgressFn, Stored},
};

/// Files whose digests are remembered: several times the models and programs of one node.
const DIGESTS_MAX: usize = 1024;

/// A file that changed so lately may change again without its times showing it: file systems count
/// in steps of up to two seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Which file, in which of its forms: another content has another one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds since the epoch.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether a change after `now` would show.
    fn has_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or(0);
        let changed = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let since = changed.and_then(|changed| now.duration_since(changed).ok());
        since.is_some_and(|since| since > SETTLED_AFTER)
    }
}

/// A regular file that is open for reading.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    file: Arc<File>,
    id: FileId,
    /// What it was opened by.
    name: PathBuf,
    /// Whether the name may lead to another file by the time somebody follows it again, because
    /// others than the machine's owner may change what it names.
    is_shared: bool,
}

/// A file that is kept open, so that its path below `/proc` stays what it is.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Arc<File>);

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Kept {}

impl Opened {
    /// Opens the file at `path`, which only the machine's owner can change.
    pub(crate) async fn at(path: &Path) -> Result<Self, SourceError> {
        let name = path.to_owned();
        tokio::task::spawn_blocking(move || {
            // Opening a pipe would wait for its writer.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(&name)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => SourceError::NotFound { status: None },
                    _ => unreadable("cannot be opened", Some(error)),
                })?;
            Self::of(file, name, false)
        })
        .await
        .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
    }

    /// A file that somebody else has opened by `name`, which others may change.
    pub(crate) fn shared(file: File, name: PathBuf) -> Result<Self, SourceError> {
        Self::of(file, name, true)
    }

    fn of(file: File, name: PathBuf, is_shared: bool) -> Result<Self, SourceError> {
        let meta = file.metadata().map_err(|e| unreadable("cannot be looked at", Some(e)))?;
        if !meta.is_file() {
            return Err(unreadable("not a regular file", None));
        }
        Ok(Self { file: Arc::new(file), id: FileId::of(&meta), name, is_shared })
    }

    /// Its first `bytes` bytes, or all that there are.
    pub(crate) async fn head(self, bytes: usize) -> Result<Head, SourceError> {
        let bytes_total = Some(self.id.bytes);
        let wanted = usize::try_from(self.id.bytes).unwrap_or(usize::MAX).min(bytes);
        tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; wanted];
            match self.file.read_exact_at(&mut bytes, 0) {
                Ok(()) => Ok(Head { bytes, bytes_total }),
                Err(error) => Err(unreadable("cannot be read", Some(error))),
            }
        })
        .await
        .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
    }

    /// The file as what was verified.
    fn stored(self, sha256: Sha256) -> Stored {
        let Self { file, id, name, is_shared } = self;
        let stored = Stored { in_place: Some(id), ..Stored::whole(name, sha256, id.bytes) };
        if !is_shared {
            return stored;
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Stored { path, kept: Some(Kept(file)), ..stored }
    }
}

/// The files in place, and what their digests were. Clones remember the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(Arc<Mutex<Digests>>);

/// The digests of so many files; what was read longest ago makes room for what is new.
#[derive(Debug, Default)]
struct Digests {
    known: BTreeMap<PathBuf, Digest>,
    /// How many have been kept so far.
    kept: u64,
}

#[derive(Debug)]
struct Digest {
    id: FileId,
    sha256: Sha256,
    /// Its place among all that were kept.
    number: u64,
}

impl Digests {
    fn keep(&mut self, path: PathBuf, id: FileId, sha256: Sha256) {
        self.kept = self.kept.saturating_add(1);
        self.known.insert(path, Digest { id, sha256, number: self.kept });
        if self.known.len() > DIGESTS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, digest)| digest.number);
            if let Some(oldest) = oldest.map(|(path, _)| path.clone()) {
                self.known.remove(&oldest);
            }
        }
    }
}

impl Files {
    /// Verifies a file in place; without an expected digest, says which one it has. One that was
    /// read before and has not changed since is not read again: what fails for another reason may
    /// be tried every few minutes, and a large model takes as long to read.
    pub(crate) async fn verify(
        &self,
        opened: Opened,
        expected: Option<Sha256>,
        bytes_max: u64,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, SourceError> {
        let bytes = opened.id.bytes;
        if bytes > bytes_max {
            return Err(SourceError::TooLarge { bytes, bytes_max });
        }
        let sha256 = match self.recall(&opened.name, opened.id) {
            Some(sha256) => sha256,
            None => self.read(&opened, progress).await?,
        };
        match expected {
            Some(expected) if expected != sha256 => {
                Err(SourceError::DigestMismatch { expected, found: sha256 })
            }
            _ => Ok(opened.stored(sha256)),
        }
    }

    async fn read(&self, opened: &Opened, progress: ProgressFn<'_>) -> Result<Sha256, SourceError> {
        let Opened { file, id, name, .. } = opened;
        let has_settled = id.has_settled(SystemTime::now());
        let bytes_total = Some(id.bytes);
        let tell = |bytes_done| progress(Progress { bytes_done, bytes_total });
        let (hasher, _) = hash::hash(Arc::clone(file), tell)
            .await
            .map_err(|error| unreadable("cannot be read", Some(error)))?;
        let sha256 = hasher.digest();
        if has_settled {
            let mut digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            digests.keep(name.clone(), *id, sha256);
        }
        Ok(sha256)
    }

    fn recall(&self, path: &Path, id: FileId) -> Option<Sha256> {
        let digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = digests.known.get(path)?;
        (digest.id == id).then_some(digest.sha256)
    }
}

fn unreadable(what: &'static str, source: Option<io::Error>) -> SourceError {
    SourceError::Unreadable { what, source }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::FileTimes};

    use super::*;

    /// Makes a file look as if it had been as it is for a minute.
    fn age(path: &Path) {
        let long_ago = SystemTime::now() - Duration::from_mins(1);
        let file = File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    }

    async fn verify(files: &Files, path: &Path) -> (Stored, usize) {
        let reads = std::sync::atomic::AtomicUsize::new(0);
        let count = |_: Progress| {
            reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let opened = Opened::at(path).await.unwrap();
        let stored = files.verify(opened, None, u64::MAX, &count).await.unwrap();
        (stored, reads.into_inner())
    }

    /// What a file's digest is known by, when the change of its times lies far enough back.
    fn known(files: &Files, path: &Path, sha256: Sha256) {
        let id = FileId::of(&fs::metadata(path).unwrap());
        files.0.lock().unwrap().keep(path.to_owned(), id, sha256);
    }

    #[tokio::test]
    async fn a_file_that_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"one").unwrap();
        age(&path);
        let files = Files::default();
        let (first, reads) = verify(&files, &path).await;
        assert_eq!(reads, 1);
        // Its status changed just now, so that it was not remembered by itself.
        assert!(files.0.lock().unwrap().known.is_empty());
        known(&files, &path, first.sha256);
        assert_eq!(verify(&files, &path).await, (first.clone(), 0));

        fs::write(&path, b"two").unwrap();
        age(&path);
        let (second, reads) = verify(&files, &path).await;
        assert_eq!(reads, 1);
        assert_ne!(second.sha256, first.sha256);
        assert!(first.has_changed().unwrap() && !second.has_changed().unwrap());
    }

    #[test]
    fn only_what_has_been_still_for_a_while_is_remembered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = FileId::of(&file.as_file().metadata().unwrap());
        assert!(!id.has_settled(SystemTime::now()));
        assert!(id.has_settled(SystemTime::now() + Duration::from_secs(4)));
    }

    #[test]
    fn the_file_that_was_read_longest_ago_makes_room() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = FileId::of(&file.as_file().metadata().unwrap());
        let files = Files::default();
        let keep = |name: usize| {
            files.0.lock().unwrap().keep(name.to_string().into(), id, Sha256([0; 32]));
        };
        let is_known = |name: usize| files.recall(Path::new(&name.to_string()), id).is_some();
        (0..DIGESTS_MAX).for_each(keep);
        keep(0);
        keep(DIGESTS_MAX);
        assert!(is_known(0) && !is_known(1) && is_known(2) && is_known(DIGESTS_MAX));
        assert_eq!(files.0.lock().unwrap().known.len(), DIGESTS_MAX);
    }
}
