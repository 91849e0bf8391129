//! Files that are replaced whole: a crash leaves the old one or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Whose files these are: what an agent keeps is nobody else's to read.
pub(crate) const MODE: u32 = 0o600;

/// Puts a file of these bytes at `name` in `dir`, by way of one at `temporary`: written and synced,
/// renamed, and the folder synced too.
///
/// After an error the old file is still there, unless only the folder could not be synced: then a
/// restart may find either of the two.
pub fn replace(dir: &Path, temporary: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(temporary);
    let written = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        // Gives the space back; if that fails too, the next write truncates the file.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Takes the file at `name` in `dir` away, if it is there, and syncs the folder.
pub fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| File::open(dir)?.sync_all()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
