//! Machine code on disk, so that a kernel is compiled once for each machine and not at each start.
//!
//! A file is named after the digest of all that goes into it and begins with the digest of what
//! follows: one that is torn, or of other contents, is compiled anew. A cache that cannot be written is
//! no error, for it saves time alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

const DIGEST_BYTES: usize = 32;

/// A folder of machine code, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

/// What a compiled program depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) source: &'a str,
    /// The architecture is one of them.
    pub(crate) options: &'a [String],
    pub(crate) compiler: (i32, i32),
}

impl Key<'_> {
    fn name(&self) -> String {
        let mut digest = Sha256::new();
        let (major, minor) = self.compiler;
        let compiler = format!("{major}.{minor}");
        let parts =
            [self.source, &compiler].into_iter().chain(self.options.iter().map(String::as_str));
        for part in parts {
            // Each with its length, so that no two lists of parts are one text.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        format!("{}.cubin", hex::encode(digest.finalize()))
    }
}

impl Cache {
    pub(crate) const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// What was put under that key.
    pub(crate) fn get(&self, key: &Key<'_>) -> Option<Vec<u8>> {
        let stored = fs::read(self.folder.as_ref()?.join(key.name())).ok()?;
        let (digest, code) = stored.split_at_checked(DIGEST_BYTES)?;
        (Sha256::digest(code).as_slice() == digest).then(|| code.to_vec())
    }

    /// Keeps code, for the owner of the process alone: it will run in it.
    pub(crate) fn put(&self, key: &Key<'_>, code: &[u8]) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        own_folder(folder)?;
        let path = folder.join(key.name());
        // Whoever writes the same at the same time writes the same bytes to a file of their own.
        let unfinished = path.with_extension(std::process::id().to_string());
        let stored = [Sha256::digest(code).as_slice(), code].concat();
        fs::write(&unfinished, stored)?;
        fs::rename(unfinished, path)
    }
}

#[cfg(unix)]
fn own_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn own_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_again_under_its_own_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(folder.path().join("kernels")));
        let options = ["--gpu-architecture=sm_90".to_owned()];
        let key = Key { source: "source", options: &options, compiler: (13, 0) };
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"code").unwrap();
        assert_eq!(cache.get(&key).as_deref(), Some(b"code".as_slice()));
        let others = [
            Key { source: "other", ..key },
            Key { options: &[], ..key },
            Key { compiler: (13, 1), ..key },
            Key { source: "source--gpu", options: &["architecture=sm_90".to_owned()], ..key },
        ];
        for other in others {
            assert_eq!(cache.get(&other), None);
        }
    }

    #[test]
    fn a_torn_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(folder.path().to_owned()));
        let key = Key { source: "source", options: &[], compiler: (12, 4) };
        cache.put(&key, b"machine code").unwrap();
        let path = folder.path().join(key.name());
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(cache.get(&key), None, "{len} bytes");
        }
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let cache = Cache::default();
        let key = Key { source: "source", options: &[], compiler: (12, 4) };
        cache.put(&key, b"code").unwrap();
        assert_eq!(cache.get(&key), None);
    }
}
