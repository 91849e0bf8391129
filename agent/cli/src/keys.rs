//! API keys on one machine: a Secret in a file of its own among the manifests.
//!
//! The file belongs to `realm api-key`; what it holds is what the same Secret holds in a cluster.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use realm_core::auth::Credential;
use realm_crds::{KeyEntry, ObjectMeta, Secret};
use thiserror::Error;

/// What every key starts with, so that scanners for leaked secrets can know one.
const PREFIX: &str = "rk_";

/// Random bytes in a key: as many as its digest has, so that neither is the weaker.
const RANDOM_BYTES: usize = 32;

#[derive(Debug, Error)]
pub(crate) enum KeysError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} does not hold a Secret of API keys")]
    Parse { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("key `{key}` in {path} is not what `realm api-key` writes")]
    Entry { path: PathBuf, key: String, source: serde_json::Error },
    #[error("a key named `{0}` is there already; revoke it or choose another name")]
    Exists(String),
    #[error("there is no key named `{0}`")]
    Missing(String),
    #[error("`{0}` is not a key's name: 1 to 63 of a-z, 0-9, `-`, `_` and `.`")]
    Name(String),
    #[error("lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
    #[error("write the Secret as YAML")]
    Render(#[source] Box<serde_saphyr::ser::Error>),
}

/// A new key: shown once, never stored.
pub(crate) struct NewKey(String);

impl NewKey {
    pub(crate) fn generate() -> Result<Self, KeysError> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(KeysError::Random)?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random))))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn entry(&self, expires_at: Option<jiff::Timestamp>) -> KeyEntry {
        let sha256 = Credential::of(&self.0).digest().to_string();
        KeyEntry { sha256, expires_at, disabled: false }
    }
}

/// The keys of one Secret, as one file, held alone: whoever else wants it waits until this value
/// is gone, so that no change is lost and a revoked key never comes back.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    _lock: fs::File,
    /// As it was read, its keys apart.
    secret: Secret,
    entries: BTreeMap<String, KeyEntry>,
}

impl KeyFile {
    /// The name of the file that holds the keys of `secret`.
    pub(crate) fn name(namespace: &str, secret: &str) -> String {
        format!("{namespace}.{secret}.keys.yaml")
    }

    /// Reads the file of `secret`, or begins an empty one.
    pub(crate) fn open(manifests: &Path, namespace: &str, secret: &str) -> Result<Self, KeysError> {
        let path = manifests.join(Self::name(namespace, secret));
        let lock = lock(manifests)?;
        let mut secret = match fs::read_to_string(&path) {
            Ok(text) => serde_saphyr::from_str(&text).map_err(|source| KeysError::Parse {
                path: path.clone(),
                source: Box::new(source),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Secret {
                metadata: ObjectMeta {
                    name: Some(secret.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    ..ObjectMeta::default()
                },
                ..Secret::default()
            },
            Err(source) => return Err(KeysError::Read { path, source }),
        };
        let entries = take_entries(&path, &mut secret)?;
        Ok(Self { path, _lock: lock, secret, entries })
    }

    pub(crate) const fn entries(&self) -> &BTreeMap<String, KeyEntry> {
        &self.entries
    }

    pub(crate) fn add(&mut self, name: &str, entry: KeyEntry) -> Result<(), KeysError> {
        check_name(name)?;
        if self.entries.contains_key(name) {
            return Err(KeysError::Exists(name.to_owned()));
        }
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Adds a key, or puts it in place of the one of the same name.
    pub(crate) fn replace(&mut self, name: &str, entry: KeyEntry) {
        self.entries.insert(name.to_owned(), entry);
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<(), KeysError> {
        self.entries.remove(name).map(drop).ok_or_else(|| KeysError::Missing(name.to_owned()))
    }

    /// Writes the file whole or not at all: a server that reads it meanwhile sees one or the other.
    pub(crate) fn save(&self) -> Result<(), KeysError> {
        let text = serde_saphyr::to_string(&self.to_secret())
            .map_err(|error| KeysError::Render(Box::new(error)))?;
        let write = || {
            let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
            let mut file = tempfile::Builder::new().prefix(".keys-").tempfile_in(folder)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| KeysError::Write { path: self.path.clone(), source })
    }

    fn to_secret(&self) -> Secret {
        let value = |entry| serde_json::to_string(entry).expect("an entry has only string keys");
        let data = self.entries.iter().map(|(name, entry)| (name.clone(), value(entry)));
        Secret { string_data: Some(data.collect()), ..self.secret.clone() }
    }
}

/// A key's name, which is the name of an entry of a Secret too.
pub(crate) fn check_name(name: &str) -> Result<(), KeysError> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(fits) {
        return Err(KeysError::Name(name.to_owned()));
    }
    Ok(())
}

/// Waits for the folder's lock on keys. It lies beside them and is no manifest.
fn lock(manifests: &Path) -> Result<fs::File, KeysError> {
    let path = manifests.join(".keys.lock");
    let take = || {
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(|source| KeysError::Lock { path: path.clone(), source })
}

/// Takes the keys out of a Secret, from `data` as clusters write it and `stringData` as people do.
fn take_entries(path: &Path, secret: &mut Secret) -> Result<BTreeMap<String, KeyEntry>, KeysError> {
    let entry = |(key, value): (String, Vec<u8>)| match serde_json::from_slice(&value) {
        Ok(entry) => Ok((key, entry)),
        Err(source) => Err(KeysError::Entry { path: path.to_owned(), key, source }),
    };
    let data = secret.data.take().unwrap_or_default();
    let plain = secret.string_data.take().unwrap_or_default();
    let data = data.into_iter().map(|(key, value)| (key, value.0));
    // As in Kubernetes, `stringData` wins.
    data.chain(plain.into_iter().map(|(key, value)| (key, value.into_bytes()))).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_digests_and_never_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = NewKey::generate().unwrap();
        let mut file = KeyFile::open(folder.path(), "default", "keys").unwrap();
        file.add("laptop", key.entry(None)).unwrap();
        file.save().unwrap();
        let text = fs::read_to_string(folder.path().join("default.keys.keys.yaml")).unwrap();
        assert!(!text.contains(key.reveal()));
        let entries = file.entries().clone();
        drop(file);
        let again = KeyFile::open(folder.path(), "default", "keys").unwrap();
        assert_eq!(again.entries(), &entries);
        assert_eq!(
            again.entries()["laptop"].sha256,
            Credential::of(key.reveal()).digest().to_string()
        );
    }

    #[test]
    fn a_name_is_taken_once_and_revoked_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = KeyFile::open(folder.path(), "default", "keys").unwrap();
        let entry = NewKey::generate().unwrap().entry(None);
        file.add("a", entry.clone()).unwrap();
        assert!(matches!(file.add("a", entry.clone()), Err(KeysError::Exists(_))));
        assert!(matches!(file.add("A b", entry), Err(KeysError::Name(_))));
        file.remove("a").unwrap();
        assert!(matches!(file.remove("a"), Err(KeysError::Missing(_))));
    }

    #[test]
    fn keys_and_labels_that_a_cluster_wrote_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let digest = "ab".repeat(32);
        let entry = base64::engine::general_purpose::STANDARD
            .encode(format!(r#"{{"sha256":"{digest}","disabled":true}}"#));
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: default, \
             labels: {{team: a}}}}\ndata: {{old: {entry}}}\n"
        );
        fs::write(folder.path().join(KeyFile::name("default", "keys")), text).unwrap();
        let mut file = KeyFile::open(folder.path(), "default", "keys").unwrap();
        file.add("new", NewKey::generate().unwrap().entry(None)).unwrap();
        file.save().unwrap();
        drop(file);
        let file = KeyFile::open(folder.path(), "default", "keys").unwrap();
        assert_eq!(file.entries()["old"].sha256, digest);
        assert!(file.entries()["old"].disabled);
        assert!(file.entries().contains_key("new"));
        assert_eq!(file.secret.metadata.labels.as_ref().unwrap()["team"], "a");
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    let mut file = KeyFile::open(folder, "default", "keys").unwrap();
                    let key = NewKey::generate().unwrap();
                    file.add(&format!("k{number}"), key.entry(None)).unwrap();
                    file.save().unwrap();
                });
            }
        });
        let file = KeyFile::open(folder.path(), "default", "keys").unwrap();
        assert_eq!(file.entries().len(), 8);
    }

    #[test]
    fn two_keys_are_never_the_same() {
        let (one, two) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(one.reveal().len(), 46);
    }
}
