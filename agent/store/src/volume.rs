//! A file of a persistent volume claim, used where it lies.
//!
//! Every claim is a folder below the one that the options name. A link inside a claim is followed
//! as long as it stays there, as tools that fill caches make such links; one that leads out of its
//! claim would read the node's own files, or another claim's, and is refused.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::{
    error::{SourceError, StoreError},
    options::{Site, StoreOptions},
    source::Volume,
};

/// Where the file of `volume` really is.
pub(crate) async fn locate(volume: Volume, options: &StoreOptions) -> Result<PathBuf, SourceError> {
    let claims = match (options.site, &options.pvc_dir) {
        (Site::OneMachine, _) => {
            return not_allowed("pvc:// is for a cluster; one machine has file://");
        }
        (Site::Cluster, None) => return not_allowed("no claims are mounted on this node"),
        (Site::Cluster, Some(claims)) => claims.clone(),
    };
    tokio::task::spawn_blocking(move || find(&claims, &volume))
        .await
        .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
}

fn find(claims: &Path, volume: &Volume) -> Result<PathBuf, SourceError> {
    let claim = fs::canonicalize(claims.join(&volume.claim)).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return SourceError::ClaimNotMounted { claim: volume.claim.clone() };
        }
        unreadable(error)
    })?;
    let path = fs::canonicalize(claim.join(&volume.path)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => SourceError::NotFound { status: None },
        _ => unreadable(error),
    })?;
    if path.starts_with(&claim) { Ok(path) } else { not_allowed("the path leads out of its claim") }
}

fn unreadable(error: io::Error) -> SourceError {
    SourceError::Unreadable { what: "cannot be looked at", source: Some(error) }
}

fn not_allowed<T>(why: &'static str) -> Result<T, SourceError> {
    Err(SourceError::NotAllowed { why })
}
