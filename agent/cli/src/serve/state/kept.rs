//! The last good state of every manifest, on disk: the texts they were read from.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::manifests::{self, Document, Found, Place};

/// Most bytes that are kept: a thousand files at 64 KiB, more than any folder should hold.
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

/// Replaces the file whole, so that a crash leaves the old one or the new one. What would not be
/// read back is refused, and the old one stays.
pub(super) fn save(path: &Path, kept: &[Kept]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let bytes = serde_json::to_vec(kept)?;
    if KEPT_BYTES_MAX < u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
        let message = format!("{} bytes, more than {KEPT_BYTES_MAX}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&bytes)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "apiVersion: realm.dev/v1alpha1\nkind: Model\nmetadata: {name: tiny}\nspec: {sources: ['file:///tiny.gguf']}\n";

    fn one(text: String) -> [Kept; 1] {
        [Kept { file: "tiny.yaml".to_owned(), text }]
    }

    #[test]
    fn what_is_too_large_to_be_read_back_is_refused_and_the_last_good_state_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifests.json");
        save(&path, &one(MODEL.to_owned())).unwrap();

        let bytes_max = usize::try_from(KEPT_BYTES_MAX).unwrap();
        let error = save(&path, &one("#".repeat(bytes_max))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");

        let loaded = load(&path);
        assert_eq!(loaded.iter().map(|d| &*d.text).collect::<Vec<_>>(), [MODEL]);
    }
}
