//! Files of this machine, used where they lie.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use realm_core::desired::Sha256;
use rustix::fs::OFlags;

use crate::{
    error::{SourceError, StoreError},
    hash,
    store::{Progress, ProgressFn, Stored},
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
        path: &Path,
        expected: Option<Sha256>,
        bytes_max: u64,
        progress: ProgressFn<'_>,
    ) -> Result<Stored, SourceError> {
        let (file, id) = open(path).await?;
        let bytes = id.bytes;
        if bytes > bytes_max {
            return Err(SourceError::TooLarge { bytes, bytes_max });
        }
        let sha256 = match self.recall(path, id) {
            Some(sha256) => sha256,
            None => self.read(path, (file, id), progress).await?,
        };
        match expected {
            Some(expected) if expected != sha256 => {
                Err(SourceError::DigestMismatch { expected, found: sha256 })
            }
            _ => Ok(Stored { path: path.to_owned(), sha256, bytes, in_place: Some(id) }),
        }
    }

    async fn read(
        &self,
        path: &Path,
        (file, id): (File, FileId),
        progress: ProgressFn<'_>,
    ) -> Result<Sha256, SourceError> {
        let has_settled = id.has_settled(SystemTime::now());
        let bytes_total = Some(id.bytes);
        let tell = |bytes_done| progress(Progress { bytes_done, bytes_total });
        let (hasher, _) = hash::hash(Arc::new(file), tell)
            .await
            .map_err(|error| unreadable("cannot be read", Some(error)))?;
        let sha256 = hasher.digest();
        if has_settled {
            let mut digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            digests.keep(path.to_owned(), id, sha256);
        }
        Ok(sha256)
    }

    fn recall(&self, path: &Path, id: FileId) -> Option<Sha256> {
        let digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = digests.known.get(path)?;
        (digest.id == id).then_some(digest.sha256)
    }
}

async fn open(path: &Path) -> Result<(File, FileId), SourceError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        // Opening a pipe would wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SourceError::NotFound { status: None },
                _ => unreadable("cannot be opened", Some(error)),
            })?;
        let meta = file.metadata().map_err(|e| unreadable("cannot be looked at", Some(e)))?;
        if !meta.is_file() {
            return Err(unreadable("not a regular file", None));
        }
        Ok((file, FileId::of(&meta)))
    })
    .await
    .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
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
        let stored = files.verify(path, None, u64::MAX, &count).await.unwrap();
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
