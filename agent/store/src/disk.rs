//! The disk under the store: how much is free, and what its errors mean.

use std::{fmt, io, path::Path};

use rustix::{fs::statvfs, io::Errno};

use crate::error::StoreError;

/// Bytes as people read them.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..0x400 => write!(f, "{bytes} bytes"),
            bytes @ 0x400..0x10_0000 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes @ 0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes as f64 / 1_048_576.0),
            bytes => write!(f, "{:.2} GiB", bytes as f64 / 1_073_741_824.0),
        }
    }
}

/// Bytes that may still be written to the disk that holds `path`.
fn free(path: &Path) -> Result<u64, Errno> {
    statvfs(path).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses `needed` bytes at `path` when the disk has not so many, before any is written.
pub(crate) fn reserve(path: &Path, needed: u64) -> Result<(), StoreError> {
    let free = free(path).map_err(|e| error("ask for the free space at", path, None, e.into()))?;
    if needed > free {
        return Err(StoreError::DiskFull { needed: Some(needed), free, path: path.to_owned() });
    }
    Ok(())
}

/// What an I/O error means for the store.
pub(crate) fn error(
    doing: &'static str,
    path: &Path,
    needed: Option<u64>,
    source: io::Error,
) -> StoreError {
    let path = path.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            let free = free(&path).unwrap_or(0);
            StoreError::DiskFull { needed, free, path }
        }
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => StoreError::NotWritable { path, source },
        _ => StoreError::Io { doing, path, source },
    }
}

/// Runs `work`, which waits on the disk, off the async threads.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::WorkerLost))
}
