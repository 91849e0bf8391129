//! A file of a persistent volume claim, used where it lies.
//!
//! Every claim is mounted at `<namespace>/<claim>` below the folder that the options name, and an
//! artifact reaches the claims of its own namespace alone. A link inside a claim is followed as
//! long as it stays there, as tools that fill caches make such links; one that leads out of its
//! claim would read the node's own files, or another claim's, and is refused. The system itself
//! decides that while it opens the file, and what was opened is what is used: whoever may write
//! into a claim can change a name between two looks at it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use crate::{
    error::{SourceError, StoreError},
    file::Opened,
    options::{Site, StoreOptions},
    source::{Volume, is_label},
};

/// Times a file is opened anew because a folder on the way was moved meanwhile, which the system
/// does not follow: each needs somebody to move one at that very moment.
const OPEN_ATTEMPTS: usize = 8;

/// Opens the file of a claim of `namespace`.
pub(crate) async fn open(
    volume: Volume,
    namespace: &str,
    options: &StoreOptions,
) -> Result<Opened, SourceError> {
    let claims = match (options.site, &options.pvc_dir) {
        (Site::OneMachine, _) => {
            return not_allowed("pvc:// is for a cluster; one machine has file://");
        }
        (Site::Cluster, None) => return not_allowed("no claims are mounted on this node"),
        (Site::Cluster, Some(claims)) => claims.clone(),
    };
    if !is_label(namespace) {
        return not_allowed("claims are of a namespace, and this artifact is of none");
    }
    let folder = Path::new(namespace).join(&volume.claim);
    tokio::task::spawn_blocking(move || find(&claims, &folder, &volume))
        .await
        .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))
}

fn find(claims: &Path, folder: &Path, volume: &Volume) -> Result<Opened, SourceError> {
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, claims, place, Mode::empty()).map_err(unreadable)?;
    // Whoever mounts the claims makes no links, so that one here is of somebody else.
    let claim = below(&root, folder, place, ResolveFlags::NO_SYMLINKS).map_err(|errno| {
        if errno == Errno::NOENT {
            return SourceError::ClaimNotMounted { claim: volume.claim.clone() };
        }
        unreadable(errno)
    })?;
    // Opening a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = below(&claim, Path::new(&volume.path), flags, ResolveFlags::NO_MAGICLINKS);
    let file = opened.map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => SourceError::NotFound { status: None },
        Errno::XDEV => SourceError::NotAllowed { why: "the path leads out of its claim" },
        _ => unreadable(errno),
    })?;
    let name: PathBuf = claims.join(folder).join(&volume.path);
    Opened::shared(File::from(file), name)
}

/// Opens `path` below `folder`, wherever its links lead, or not at all.
fn below(
    folder: &OwnedFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::BENEATH;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..OPEN_ATTEMPTS {
        opened = openat2(folder, path, flags, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    opened
}

fn unreadable(errno: Errno) -> SourceError {
    SourceError::Unreadable { what: "cannot be opened", source: Some(io::Error::from(errno)) }
}

fn not_allowed<T>(why: &'static str) -> Result<T, SourceError> {
    Err(SourceError::NotAllowed { why })
}
