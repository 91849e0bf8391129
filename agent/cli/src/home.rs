//! Where `realm` keeps things on one machine.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The folders of one user's Realm.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `--home` or `REALM_HOME`, else `realm` in the user's data folder (XDG Base Directory).
    pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        let data_home =
            || env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let user_home = || env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
        let path = match given {
            Some(path) => path.to_owned(),
            None => match data_home().or_else(user_home) {
                Some(data) => data.join("realm"),
                None => bail!("neither --home, REALM_HOME, XDG_DATA_HOME nor HOME is set"),
            },
        };
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path.canonicalize().with_context(|| format!("resolve {}", path.display()))?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Model files, shared by everything that runs here.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The manifests that are served when no folder is named.
    pub(crate) fn sample(&self) -> PathBuf {
        self.0.join("sample")
    }

    /// The ledger of the server of one manifest folder: two folders are two servers with two
    /// histories.
    pub(crate) fn ledger(&self, manifests: &Path) -> io::Result<PathBuf> {
        use sha2::Digest as _;
        let manifests = manifests.canonicalize()?;
        let digest = sha2::Sha256::digest(manifests.as_os_str().as_encoded_bytes());
        let name = hex::encode(digest.get(..8).unwrap_or_default());
        Ok(self.0.join("ledger").join(name))
    }
}
