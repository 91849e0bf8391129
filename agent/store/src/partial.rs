//! The one unfinished file of an artifact, which only the holder of its lock may write.
//!
//! A partial file is claimed, grown, and either becomes the blob, when its digest is right, or is
//! emptied. Its lock is the file's own (`flock`), so it holds between tasks and processes alike
//! and ends with its holder, however that ends. Writes run on blocking threads that share the
//! file: when a fetch is dropped in the middle of one, the lock outlives the write.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use realm_core::desired::Sha256;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use crate::{
    disk,
    error::{SourceError, StoreError},
    hash::{self, Hasher},
    pip,
    state::{self, State},
    store::Stored,
};

/// The claim on an unfinished file.
#[derive(Clone)]
pub(crate) struct Partial {
    shared: Arc<Shared>,
    expected: Sha256,
}

struct Shared {
    file: Arc<File>,
    path: PathBuf,
    blob: PathBuf,
    written: Mutex<Written>,
}

#[derive(Clone, Default)]
struct Written {
    bytes: u64,
    hasher: Hasher,
}

/// Times a lock is asked for again because the file had been moved away meanwhile: each needs
/// another holder to have ended in between, so two in a row are already rare.
const CLAIM_ATTEMPTS: usize = 8;

impl Partial {
    /// Claims the file at `path`, making it if need be; `None` when somebody else has it.
    pub(crate) fn claim(
        path: &Path,
        blob: &Path,
        expected: Sha256,
    ) -> Result<Option<Self>, StoreError> {
        for _ in 0..CLAIM_ATTEMPTS {
            let file = open(path).map_err(|e| disk::error("open", path, None, e))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(disk::error("lock", path, None, errno.into())),
            }
            // Between the opening and the lock, the last holder may have moved the file away.
            if is_at(&file, path) {
                return Ok(Some(Self::new(file, path, blob, expected)));
            }
        }
        Ok(None)
    }

    fn new(file: File, path: &Path, blob: &Path, expected: Sha256) -> Self {
        let shared = Shared {
            file: Arc::new(file),
            path: path.to_owned(),
            blob: blob.to_owned(),
            written: Mutex::default(),
        };
        Self { shared: Arc::new(shared), expected }
    }

    /// Reads what an earlier holder left; says whether that is already everything.
    pub(crate) async fn reread(
        &self,
        on_bytes: impl Fn(u64) + Send + Sync,
    ) -> Result<bool, StoreError> {
        let (hasher, bytes) = hash::hash(Arc::clone(&self.shared.file), on_bytes)
            .await
            .map_err(|e| disk::error("read", &self.shared.path, None, e))?;
        let complete = bytes > 0 && hasher.digest() == self.expected;
        self.set(Written { bytes, hasher });
        Ok(complete)
    }

    pub(crate) fn expected(&self) -> Sha256 {
        self.expected
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.get(|written| written.bytes)
    }

    /// A name beside the file that belongs to its holder.
    pub(crate) fn beside(&self, extension: &str) -> PathBuf {
        self.shared.path.with_extension(extension)
    }

    /// Refuses early what the disk has no room for.
    pub(crate) fn reserve(&self, needed: u64) -> Result<(), StoreError> {
        disk::reserve(&self.shared.path, needed)
    }

    /// Adds bytes at the end; `remaining` more are known to follow, for the message of a full disk.
    pub(crate) async fn append(
        &self,
        bytes: Vec<u8>,
        remaining: Option<u64>,
    ) -> Result<(), StoreError> {
        let this = self.clone();
        disk::blocking(move || this.append_now(&bytes, remaining)).await
    }

    /// [`Self::append`] for a caller that is on a blocking thread already.
    pub(crate) fn append_now(
        &self,
        bytes: &[u8],
        remaining: Option<u64>,
    ) -> Result<(), StoreError> {
        let mut written = self.get(Written::clone);
        let needed = remaining.map(|more| more.saturating_add(bytes.len() as u64));
        if let Err(source) = self.shared.file.write_all_at(bytes, written.bytes) {
            let error = disk::error("write", &self.shared.path, needed, source);
            if matches!(error, StoreError::DiskFull { .. }) {
                // Others live on this disk: an unfinished file is not worth their last byte.
                let _as_full_as_before = self.empty_now();
            }
            return Err(error);
        }
        written.hasher.update(bytes);
        written.bytes = written.bytes.saturating_add(bytes.len() as u64);
        self.set(written);
        Ok(())
    }

    /// Throws the bytes away and keeps the claim.
    pub(crate) async fn empty(&self) -> Result<(), StoreError> {
        let this = self.clone();
        disk::blocking(move || this.empty_now()).await
    }

    /// [`Self::empty`] for a caller that is on a blocking thread already.
    pub(crate) fn empty_now(&self) -> Result<(), StoreError> {
        let Shared { file, path, .. } = &*self.shared;
        file.set_len(0).map_err(|e| disk::error("empty", path, None, e))?;
        self.set(Written::default());
        state::forget(path)
    }

    /// Makes the file a blob if its digest is right; else empties it and says what it was.
    pub(crate) async fn finish(&self) -> Result<Stored, SourceError> {
        let Written { bytes, hasher } = self.get(Written::clone);
        let found = hasher.digest();
        if found != self.expected {
            self.empty().await?;
            return Err(SourceError::DigestMismatch { expected: self.expected, found });
        }
        let this = self.clone();
        disk::blocking(move || this.publish(bytes)).await?;
        let path = self.shared.blob.clone();
        Ok(Stored::whole(path, found, bytes))
    }

    fn publish(&self, bytes: u64) -> Result<(), StoreError> {
        let Shared { file, path, blob, written: _ } = &*self.shared;
        let folder = blob.parent().unwrap_or(blob);
        // A failed write may have left bytes past those that count.
        file.set_len(bytes)
            .and_then(|()| file.set_permissions(Permissions::from_mode(0o444)))
            // The bytes must be on the disk before the name that vouches for them is.
            .and_then(|()| file.sync_all())
            .map_err(|e| disk::error("sync", path, None, e))?;
        fs::rename(path, blob)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|e| disk::error("rename to", blob, None, e))?;
        state::forget(path)
    }

    /// Removes the file and what is known of it. Whoever waits for it makes a new one.
    pub(crate) fn discard(&self) -> Result<(), StoreError> {
        state::forget(&self.shared.path)?;
        pip::forget(self)?;
        fs::remove_file(&self.shared.path)
            .map_err(|e| disk::error("remove", &self.shared.path, None, e))
    }

    /// Keeps what a server told about the file, for whoever goes on with it.
    pub(crate) async fn remember(&self, state: State) -> Result<(), StoreError> {
        let this = self.clone();
        disk::blocking(move || state::write(&this.shared.path, &state)).await
    }

    /// What the last server told about the file.
    pub(crate) async fn recall(&self) -> Result<Option<State>, StoreError> {
        let this = self.clone();
        disk::blocking(move || Ok(state::read(&this.shared.path))).await
    }

    fn get<R>(&self, read: impl FnOnce(&Written) -> R) -> R {
        read(&self.shared.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, written: Written) {
        *self.shared.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // A link or a pipe in its place would lead the bytes elsewhere or block for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Whether `path` still names the opened file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hasher;

    #[tokio::test]
    async fn a_write_that_finds_the_disk_full_says_so_and_counts_no_byte() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let path = std::env::temp_dir().join("partial");
        let partial = Partial::new(full, &path, &path, Hasher::default().digest());
        let error = partial.append(vec![1; 100], Some(900)).await.unwrap_err();
        let StoreError::DiskFull { needed, .. } = &error else { panic!("{error}") };
        assert_eq!(*needed, Some(1000));
        assert_eq!(partial.bytes(), 0);
    }
}
