//! Which program of its own each tenant had last that worked, on this node's disk: where a newer one
//! fails, an agent that starts again goes on with that one, as an agent does that was not away.
//!
//! A file for each tenant, replaced whole. It says where the program came from and its digest; the
//! program itself lies where it did, and is checked as every other one. A tenant whose program leaves
//! the node, or which is removed, is forgotten; one that was removed while no agent ran as soon as all
//! tenants have been tried.
//!
//! What is wanted is known at once and written behind, each time as it is by then, so that neither a
//! slow disk nor a step that is cancelled keeps a program from its calls, and the last one wins.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::{
    desired::{Artifact, Sha256},
    name::TenantName,
};
use realm_link::durable;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};

/// Between a tenant's namespace and its name in the name of its file, which neither of them has.
const BETWEEN: char = '_';

const ENDING: &str = ".json";

type Programs = BTreeMap<TenantName, Artifact>;

/// The programs that have worked last. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Proven {
    folder: PathBuf,
    known: Arc<Mutex<Programs>>,
    /// What the files say. Held while one is written.
    written: Arc<Mutex<Programs>>,
}

impl Proven {
    /// Opens the folder, which is made where it is not there. What cannot be read is not known.
    pub(crate) fn open(folder: &Path) -> Self {
        let programs = read_all(folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "which programs have worked");
            Programs::new()
        });
        let [known, written] = [programs.clone(), programs].map(|it| Arc::new(Mutex::new(it)));
        Self { folder: folder.to_owned(), known, written }
    }

    /// The program that has worked for a tenant last.
    pub(crate) fn of(&self, tenant: &TenantName) -> Option<Artifact> {
        lock(&self.known).get(tenant).cloned()
    }

    /// Takes note of the program that works for a tenant now, `None` of one that has none of its own.
    /// Gives what writes it, if there is anything to write, which nobody needs to wait for.
    pub(crate) fn put(
        &self,
        tenant: &TenantName,
        artifact: Option<Artifact>,
    ) -> Option<JoinHandle<()>> {
        {
            let mut known = lock(&self.known);
            if known.get(tenant) == artifact.as_ref() {
                return None;
            }
            match artifact {
                Some(artifact) => known.insert(tenant.clone(), artifact),
                None => known.remove(tenant),
            };
        }
        Some(self.write(tenant.clone()))
    }

    /// Forgets all tenants but these.
    pub(crate) fn retain(&self, is_known: impl Fn(&TenantName) -> bool) -> Vec<JoinHandle<()>> {
        let gone: Programs = lock(&self.known).extract_if(.., |name, _| !is_known(name)).collect();
        gone.into_keys().map(|tenant| self.write(tenant)).collect()
    }

    /// Writes what is known of a tenant by then. Where that fails, the next start knows what was
    /// written last.
    fn write(&self, tenant: TenantName) -> JoinHandle<()> {
        let Self { folder, known, written } = self.clone();
        spawn_blocking(move || {
            let mut written = lock(&written);
            let newest = lock(&known).get(&tenant).cloned();
            if written.get(&tenant) == newest.as_ref() {
                return;
            }
            match write(&folder, &tenant, newest.as_ref()) {
                Ok(()) => match newest {
                    Some(newest) => drop(written.insert(tenant, newest)),
                    None => drop(written.remove(&tenant)),
                },
                Err(error) => tracing::warn!(%tenant, %error, "writing which program works"),
            }
        })
    }
}

fn lock(programs: &Mutex<Programs>) -> MutexGuard<'_, Programs> {
    programs.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_all(folder: &Path) -> io::Result<Programs> {
    fs::create_dir_all(folder)?;
    let mut programs = Programs::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match tenant_of(&path).map(|tenant| (tenant, read(&path))) {
            Some((tenant, Ok(artifact))) => drop(programs.insert(tenant, artifact)),
            Some((_, Err(error))) => {
                tracing::warn!(path = %path.display(), %error, "which program has worked");
            }
            None => {}
        }
    }
    Ok(programs)
}

fn file_of(tenant: &TenantName) -> String {
    format!("{}{ENDING}", tenant.as_str().replace('/', &BETWEEN.to_string()))
}

fn tenant_of(path: &Path) -> Option<TenantName> {
    let stem = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let (namespace, name) = stem.split_once(BETWEEN)?;
    TenantName::new(namespace, name).ok()
}

fn read(path: &Path) -> io::Result<Artifact> {
    let wrong = || io::Error::new(ErrorKind::InvalidData, "it does not say a program");
    let said: Value = serde_json::from_slice(&fs::read(path)?)?;
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let sources = texts(&said["sources"]).filter(|sources| !sources.is_empty());
    let sha256 = said["sha256"].as_str().and_then(|text| text.parse::<Sha256>().ok());
    let (sources, sha256) = sources.zip(sha256).ok_or_else(wrong)?;
    Ok(Artifact { sources, sha256: Some(sha256), parts: Vec::new() })
}

fn write(folder: &Path, tenant: &TenantName, artifact: Option<&Artifact>) -> io::Result<()> {
    let name = file_of(tenant);
    let Some(Artifact { sources, sha256, parts: _ }) = artifact else {
        return durable::remove(folder, &name);
    };
    let said = json!({ "sources": sources, "sha256": sha256.map(|sha256| sha256.to_string()) });
    durable::replace(folder, &format!("{name}.new"), &name, said.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn artifact(source: &str) -> Artifact {
        let sha256 = Some(Sha256([7; 32]));
        Artifact { sources: vec![source.to_owned()], sha256, parts: Vec::new() }
    }

    fn name(name: &str) -> TenantName {
        TenantName::new("lab", name).unwrap()
    }

    async fn ended(writes: impl IntoIterator<Item = JoinHandle<()>>) {
        for write in writes {
            write.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_worked_is_known_after_a_restart_and_what_is_gone_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("programs");
        let (acme, zeta, gone) = (name("acme"), name("zeta"), name("gone"));
        let proven = Proven::open(&folder);
        for tenant in [&acme, &zeta, &gone] {
            ended(proven.put(tenant, Some(artifact("file:///a")))).await;
        }
        // Nobody waits for either, and the last one wins.
        let writes = [proven.put(&acme, None), proven.put(&acme, Some(artifact("file:///b")))];
        ended(writes.into_iter().flatten()).await;
        ended(proven.put(&zeta, None)).await;
        ended(proven.retain(|name| *name != gone)).await;
        assert!(proven.put(&acme, Some(artifact("file:///b"))).is_none(), "it is written");
        for proven in [proven, Proven::open(&folder)] {
            assert_eq!(proven.of(&acme), Some(artifact("file:///b")));
            assert_eq!((proven.of(&zeta), proven.of(&gone)), (None, None));
        }
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
        let mode = files[0].metadata().unwrap().permissions().mode();
        assert_eq!((files.len(), mode & 0o777), (1, 0o600), "sources may hold secrets");
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_with_the_next_word_of_its_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("programs");
        let proven = Proven::open(&folder);
        fs::remove_dir(&folder).unwrap();
        ended(proven.put(&name("acme"), Some(artifact("file:///a")))).await;
        fs::create_dir(&folder).unwrap();
        ended(proven.put(&name("acme"), Some(artifact("file:///b")))).await;
        assert_eq!(Proven::open(&folder).of(&name("acme")), Some(artifact("file:///b")));
    }

    #[test]
    fn a_folder_that_cannot_be_opened_stops_nobody() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Proven::open(file.path()).of(&name("acme")), None);
    }

    #[test]
    fn a_file_that_is_damaged_or_of_somebody_else_says_nothing() {
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
        assert_eq!(read_all(dir.path()).unwrap(), Programs::new());
    }
}
