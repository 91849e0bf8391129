//! A file of this machine, used where it lies.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use realm_core::desired::Sha256;
use rustix::fs::OFlags;

use crate::{
    error::{SourceError, StoreError},
    hash,
    store::{Progress, ProgressFn, Stored},
};

/// Verifies a file in place; without an expected digest, says which one it has.
pub(crate) async fn verify(
    path: &Path,
    expected: Option<Sha256>,
    bytes_max: u64,
    progress: ProgressFn<'_>,
) -> Result<Stored, SourceError> {
    let (file, bytes_total) = open(path).await?;
    if bytes_total > bytes_max {
        return Err(SourceError::TooLarge { bytes: bytes_total, bytes_max });
    }
    let tell = |bytes_done| progress(Progress { bytes_done, bytes_total: Some(bytes_total) });
    let (hasher, bytes) = hash::hash(Arc::new(file), tell)
        .await
        .map_err(|error| unreadable("cannot be read", Some(error)))?;
    let sha256 = hasher.digest();
    match expected {
        Some(expected) if expected != sha256 => {
            Err(SourceError::DigestMismatch { expected, found: sha256 })
        }
        _ => Ok(Stored { path: path.to_owned(), sha256, bytes }),
    }
}

async fn open(path: &Path) -> Result<(File, u64), SourceError> {
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
        Ok((file, meta.len()))
    })
    .await
    .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
}

fn unreadable(what: &'static str, source: Option<io::Error>) -> SourceError {
    SourceError::Unreadable { what, source }
}
