//! The last good state of every manifest, on disk: the texts they were read from.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::manifests::{self, Document, Found, Place};

/// Most bytes that are read back: a thousand files at 64 KiB, more than any folder should hold.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// One manifest.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    file: String,
    text: String,
}

pub(super) fn pack<'a>(documents: impl Iterator<Item = &'a Document>) -> Vec<Kept> {
    let pack = |document: &Document| Kept {
        file: document.place.file.to_string(),
        text: document.text.to_string(),
    };
    documents.map(pack).collect()
}

/// Replaces the file whole, so that a crash leaves the old one or the new one.
pub(super) fn save(path: &Path, kept: &[Kept]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Reads back what can be read. What cannot is logged and left out: it is there to bridge a
/// broken manifest, and the ledger serves until the folder has been read.
pub(super) fn load(path: &Path) -> Vec<Document> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(KEPT_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept manifests cannot be read");
            return Vec::new();
        }
        Ok(_) => {}
    }
    let kept = serde_json::from_slice::<Vec<Kept>>(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the kept manifests are damaged");
        Vec::new()
    });
    kept.into_iter().filter_map(unpack).collect()
}

fn unpack(kept: Kept) -> Option<Document> {
    let place = Place { file: kept.file.into(), lines_before: 0 };
    match manifests::parse(place, &kept.text) {
        Some(Found::Whole(document)) => Some(document),
        Some(Found::Broken { .. } | Found::Unnamed(_)) | None => None,
    }
}
