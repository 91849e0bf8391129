//! Which program of its own each tenant had last that worked, on this node's disk: where a newer one
//! fails, an agent that starts again goes on with that one, as an agent does that was not away.
//!
//! A file for each tenant, replaced whole. It says where the program came from and its digest; the
//! program itself lies where it did, and is checked as every other one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::{
    desired::{Artifact, Sha256},
    name::TenantName,
};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

/// Between a tenant's namespace and its name in the name of its file, which neither of them has.
const BETWEEN: char = '_';

const ENDING: &str = ".json";

/// The programs that have worked last. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Proven {
    folder: PathBuf,
    of: Arc<Mutex<BTreeMap<TenantName, Artifact>>>,
}

impl Proven {
    /// Opens the folder, which is made where it is not there. Files that say nothing are passed over.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut of = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match tenant_of(&path).map(|tenant| (tenant, read(&path))) {
                Some((tenant, Ok(artifact))) => drop(of.insert(tenant, artifact)),
                Some((_, Err(error))) => {
                    tracing::warn!(path = %path.display(), %error, "which program has worked");
                }
                None => {}
            }
        }
        Ok(Self { folder: folder.to_owned(), of: Arc::new(Mutex::new(of)) })
    }

    /// The program that has worked for a tenant last.
    pub(crate) fn of(&self, tenant: &TenantName) -> Option<Artifact> {
        self.lock().get(tenant).cloned()
    }

    /// Takes note of the program that works for a tenant now, `None` of one that has none of its own.
    /// Where that cannot be written, the next start does not know of it.
    pub(crate) async fn put(&self, tenant: &TenantName, artifact: Option<Artifact>) {
        {
            let mut of = self.lock();
            if of.get(tenant) == artifact.as_ref() {
                return;
            }
            match artifact.clone() {
                Some(artifact) => of.insert(tenant.clone(), artifact),
                None => of.remove(tenant),
            };
        }
        let path = self.folder.join(file_of(tenant));
        let written = spawn_blocking(move || write(&path, artifact.as_ref()));
        if let Err(error) = written.await.map_err(io::Error::other).flatten() {
            tracing::warn!(%tenant, %error, "writing which program works");
        }
    }

    /// Forgets all tenants but these.
    pub(crate) async fn retain(&self, is_known: impl Fn(&TenantName) -> bool) {
        let gone: Vec<_> = self.lock().keys().filter(|name| !is_known(name)).cloned().collect();
        for tenant in gone {
            self.put(&tenant, None).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantName, Artifact>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_of(tenant: &TenantName) -> String {
    format!("{}{ENDING}", tenant.as_str().replace('/', &BETWEEN.to_string()))
}

fn tenant_of(path: &Path) -> Option<TenantName> {
    let (namespace, name) =
        path.file_name()?.to_str()?.strip_suffix(ENDING)?.split_once(BETWEEN)?;
    TenantName::new(namespace, name).ok()
}

fn read(path: &Path) -> io::Result<Artifact> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it does not say a program");
    let said: Value = serde_json::from_slice(&fs::read(path)?)?;
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let sources = texts(&said["sources"]).filter(|sources| !sources.is_empty());
    let sha256 = said["sha256"].as_str().and_then(|text| text.parse::<Sha256>().ok());
    let (sources, sha256) = sources.zip(sha256).ok_or_else(wrong)?;
    Ok(Artifact { sources, sha256: Some(sha256), parts: Vec::new() })
}

fn write(path: &Path, artifact: Option<&Artifact>) -> io::Result<()> {
    let Some(Artifact { sources, sha256, parts: _ }) = artifact else {
        return match fs::remove_file(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    };
    let said = json!({ "sources": sources, "sha256": sha256.map(|sha256| sha256.to_string()) });
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(said.to_string().as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(source: &str) -> Artifact {
        let sha256 = Some(Sha256([7; 32]));
        Artifact { sources: vec![source.to_owned()], sha256, parts: Vec::new() }
    }

    #[tokio::test]
    async fn what_worked_is_known_after_a_restart_and_what_is_gone_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("programs");
        let name = |name| TenantName::new("lab", name).unwrap();
        let (acme, zeta, gone) = (name("acme"), name("zeta"), name("gone"));
        let proven = Proven::open(&folder).unwrap();
        for tenant in [&acme, &zeta, &gone] {
            proven.put(tenant, Some(artifact("file:///a"))).await;
        }
        proven.put(&acme, Some(artifact("file:///b"))).await;
        proven.put(&zeta, None).await;
        proven.retain(|name| *name != gone).await;
        for proven in [proven, Proven::open(&folder).unwrap()] {
            assert_eq!(proven.of(&acme), Some(artifact("file:///b")));
            assert_eq!((proven.of(&zeta), proven.of(&gone)), (None, None));
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_damaged_or_of_somebody_else_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Sha256([7; 32]).to_string();
        for (file, text) in [
            ("lab_a.json", String::new()),
            ("lab_b.json", json!({ "sources": [], "sha256": digest }).to_string()),
            ("lab_c.json", json!({ "sources": ["file:///a"] }).to_string()),
            ("lab_d.json", json!({ "sources": [1], "sha256": digest }).to_string()),
            ("lab_e.new", json!({ "sources": ["file:///a"], "sha256": digest }).to_string()),
            ("Lab_e.json", json!({ "sources": ["file:///a"], "sha256": digest }).to_string()),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        assert!(Proven::open(dir.path()).unwrap().lock().is_empty());
    }
}
