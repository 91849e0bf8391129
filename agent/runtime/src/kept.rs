//! Compiled programs on disk, so that a component is compiled once for a node and not once for each
//! start of its agent.
//!
//! Machine code runs outside any sandbox, so nothing is believed because it lies in the right
//! folder: each file is sealed with a key that is kept elsewhere, over what it is of, and is read
//! whole before that is checked. A file whose seal is not right is compiled anew.
#![expect(unsafe_code, reason = "machine code that this node has sealed is taken as it is")]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    fs::{self, File, OpenOptions},
    hash::{Hash as _, Hasher},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use realm_core::desired::Sha256;
use sha2::Digest as _;
use thiserror::Error;
use wasmtime::{Engine, component::Component};

/// Bytes of all files together. What CPython compiles to is 34 MB, and most programs to less than one:
/// room for dozens of interpreters or thousands of others.
const FOLDER_BYTES_MAX: u64 = 1 << 30;

/// Bytes of one file: eight times the largest component.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A block of the hash: shorter keys would be filled up to it.
const KEY_BYTES: usize = 64;
const SEAL_BYTES: usize = 32;

/// What a file is named by, and what it is while it is written.
const ENDING: &str = "program";
const PARTIAL: &str = "partial";

/// What is sealed begins with this, so that no other seal of the same key is one of these.
const DOMAIN: &[u8] = b"realm compiled program 1\0";

type Seal = Hmac<sha2::Sha256>;

/// Why compiled programs cannot be kept.
#[derive(Debug, Error)]
pub enum KeptError {
    #[error("reading or making the key {}", path.display())]
    Key { path: PathBuf, source: io::Error },
    #[error("making the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("drawing a key")]
    Random(#[from] getrandom::Error),
}

/// The folder of compiled programs, and what they are sealed with.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    bytes_max: u64,
    /// Names for files that are being written.
    written: AtomicU64,
}

impl Kept {
    /// Opens the folder `folder` of compiled programs and the key in the file `key`, both of which are
    /// made where they are not there. They should not lie where the same people may write: who can
    /// read the key and write into the folder runs code as this process.
    pub fn open(folder: &Path, key: &Path) -> Result<Self, KeptError> {
        fs::create_dir_all(folder)
            .map_err(|source| KeptError::Folder { path: folder.to_owned(), source })?;
        let key = read_key(key)?;
        let kept = Self {
            folder: folder.to_owned(),
            key,
            bytes_max: FOLDER_BYTES_MAX,
            written: AtomicU64::new(0),
        };
        kept.sweep();
        Ok(kept)
    }

    /// The compiled form of the component of that digest, as this engine runs it.
    pub(crate) fn get(&self, engine: &Engine, digest: Sha256) -> Option<Component> {
        let identity = Identity::of(engine, digest);
        let path = self.folder.join(identity.name());
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "reading a compiled program");
                return None;
            }
        };
        let component = self.opened(engine, &identity, &bytes);
        if component.is_none() {
            tracing::warn!(path = %path.display(), "a compiled program was not sealed by this node");
            drop(fs::remove_file(&path));
        } else {
            // The oldest goes first, and this one is in use.
            drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now())));
        }
        component
    }

    fn opened(&self, engine: &Engine, identity: &Identity, bytes: &[u8]) -> Option<Component> {
        let (seal, code) = bytes.split_at_checked(SEAL_BYTES)?;
        // In the same time whatever is wrong.
        self.seal(identity, code).verify_slice(seal).ok()?;
        // SAFETY: `deserialize` asks for bytes that `Component::serialize` gave. `put` alone makes
        // seals, of just that, and nobody else has the key; the seal says of which component it is and
        // with which engine it was compiled. The bytes are this process' own: whatever becomes of the
        // file, they stay what was checked.
        let component = unsafe { Component::deserialize(engine, code) };
        component
            .inspect_err(|error| tracing::warn!(%error, "a compiled program is not taken"))
            .ok()
    }

    /// Keeps the compiled form of a component. Where that cannot be done it is compiled again another
    /// time.
    pub(crate) fn put(&self, engine: &Engine, digest: Sha256, component: &Component) {
        let identity = Identity::of(engine, digest);
        let written = component.serialize().map_err(io::Error::other).and_then(|code| {
            if u64::try_from(code.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
                return Ok(());
            }
            let seal = self.seal(&identity, &code).finalize().into_bytes();
            self.write(&identity.name(), &[seal.as_slice(), &code])
        });
        if let Err(error) = written {
            let path = self.folder.display();
            tracing::warn!(%path, %error, "a compiled program could not be kept");
        }
        self.sweep();
    }

    fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let partial = self.folder.join(format!("{name}.{}-{number}.{PARTIAL}", std::process::id()));
        let mut file = private(&partial)?;
        let whole = parts.iter().try_for_each(|part| file.write_all(part));
        let written = whole.and_then(|()| fs::rename(&partial, self.folder.join(name)));
        if written.is_err() {
            drop(fs::remove_file(&partial));
        }
        written
    }

    fn seal(&self, identity: &Identity, code: &[u8]) -> Seal {
        let mut seal = Seal::new(&self.key.into());
        seal.update(DOMAIN);
        seal.update(&identity.component.0);
        seal.update(&identity.compiler);
        seal.update(code);
        seal
    }

    /// Removes what is oldest until the rest fits, and what was left half-written.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(data) = entry.metadata() else { continue };
            let age = data.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some(ENDING) => {
                    let at = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    files.push((at, data.len(), path));
                }
                // No write takes so long.
                Some(PARTIAL) if age.as_secs() > 3600 => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        files.sort();
        let mut bytes = files.iter().map(|(_, bytes, _)| *bytes).fold(0, u64::saturating_add);
        for (_, size, path) in files {
            if bytes <= self.bytes_max {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                bytes = bytes.saturating_sub(size);
            }
        }
    }
}

/// What a compiled program is of.
struct Identity {
    component: Sha256,
    /// Wasmtime's version, its settings, and the processor's features.
    compiler: [u8; 32],
}

impl Identity {
    fn of(engine: &Engine, component: Sha256) -> Self {
        let mut hasher = Digested(sha2::Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { component, compiler: hasher.0.finalize().into() }
    }

    fn name(&self) -> String {
        let compiler = Sha256(self.compiler).to_string();
        let compiler = compiler.get(..16).unwrap_or_default();
        format!("{}-{compiler}.{ENDING}", self.component)
    }
}

/// A digest of everything that is hashed: two settings are never taken for one.
struct Digested(sha2::Sha256);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A new file that nobody else reads.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The key in a file; drawn and kept there where there is none. One of another length is drawn anew:
/// what it sealed is compiled again.
fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], KeptError> {
    let failed = |source| KeptError::Key { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => {
            if let Ok(key) = bytes.try_into() {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key)?;
    let partial = path.with_extension(format!("{}.{PARTIAL}", std::process::id()));
    drop(fs::remove_file(&partial));
    let mut file = private(&partial).map_err(failed)?;
    file.write_all(&key).and_then(|()| fs::rename(&partial, path)).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
