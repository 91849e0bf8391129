//! Where `realm` keeps things on one machine.
//!
//! Nothing is made before something is kept: a command that only speaks to a door or a cluster runs
//! where nobody has a home, and where nothing can be written.

use std::{
    env,
    path::{Path, PathBuf, absolute},
};

use anyhow::Context as _;

/// The folders of one user's Realm; a user may have none.
#[derive(Clone, Debug)]
pub(crate) struct Home(Option<PathBuf>);

impl Home {
    /// `--home` or `REALM_HOME`, else `realm` in the user's data folder (XDG Base Directory).
    pub(crate) fn find(given: Option<&Path>) -> Self {
        let data_home =
            || env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let user_home = || env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
        let of_user = || data_home().or_else(user_home).map(|data| data.join("realm"));
        Self(given.map(Path::to_owned).or_else(of_user))
    }

    /// The folder, whether or not it is there.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        let path = self
            .0
            .as_deref()
            .context("neither --home, REALM_HOME, XDG_DATA_HOME nor HOME is set")?;
        absolute(path).with_context(|| format!("resolve {}", path.display()))
    }

    /// Model files, shared by everything that runs here.
    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        Ok(self.path()?.join("store"))
    }

    /// The manifests that are served when no folder is named.
    pub(crate) fn sample(&self) -> anyhow::Result<PathBuf> {
        Ok(self.path()?.join("sample"))
    }

    /// The ledger of the server of one manifest folder: two folders are two servers with two
    /// histories.
    pub(crate) fn ledger(&self, manifests: &Path) -> anyhow::Result<PathBuf> {
        use sha2::Digest as _;
        let manifests = manifests
            .canonicalize()
            .with_context(|| format!("there is no folder {}", manifests.display()))?;
        let digest = sha2::Sha256::digest(manifests.as_os_str().as_encoded_bytes());
        let name = hex::encode(digest.get(..8).unwrap_or_default());
        Ok(self.path()?.join("ledger").join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_where_things_are_makes_no_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let given = scratch.path().join("none");
        let home = Home::find(Some(&given));
        assert_eq!(home.path().unwrap(), given);
        assert_eq!(home.store().unwrap(), given.join("store"));
        assert!(home.ledger(scratch.path()).unwrap().starts_with(&given));
        assert!(!given.exists());
    }

    #[test]
    fn who_has_no_home_hears_it_only_when_something_is_kept() {
        let error = Home(None).sample().unwrap_err();
        assert!(error.to_string().contains("REALM_HOME"), "{error}");
    }
}
