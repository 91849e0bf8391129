//! The slices of limits that this door spends by, kept on its disk.
//!
//! Beside the ledger, whose folder belongs to one process: an agent that starts again while its
//! operator is away spends by what it was leased last. What is answered is on the disk, so that a
//! door never comes back with a slice that another one has been given since. One file is replaced
//! whole; of one that is damaged the agent knows only that it may not spend by an older one, and it
//! spends nothing until an operator says what it may.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message as _;
use realm_core::slices::Slices;
use realm_proto::link::{AGENT_MESSAGE_BYTES_MAX, v1 as proto};
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task};

use crate::{convert, durable};

const FILE: &str = "slices";
const TEMPORARY: &str = "slices.new";

/// Changes with the meaning of what follows.
const MAGIC: &[u8; 8] = b"RealmSl1";

/// Most bytes of slices: what is held is said whole at the beginning of each stream.
const BYTES_MAX: usize = AGENT_MESSAGE_BYTES_MAX - 1024;

/// The slices that are held; none where nobody leases any. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct SliceStore {
    dir: PathBuf,
    held: watch::Sender<Option<Arc<Slices>>>,
}

/// A file of slices that could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    #[error("the file is damaged, or of another format version")]
    Damaged,
}

impl SliceStore {
    /// Opens the store in the folder `dir` of the ledger. Touches the disk.
    pub fn open(dir: &Path) -> (Self, Option<SliceError>) {
        let (held, error) = match read(&dir.join(FILE)) {
            Ok(held) => (held, None),
            Err(error) => (Some(Slices::default()), Some(error)),
        };
        let held = watch::Sender::new(held.map(Arc::new));
        (Self { dir: dir.to_owned(), held }, error)
    }

    pub fn held(&self) -> Option<Arc<Slices>> {
        self.held.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Slices>>> {
        self.held.subscribe()
    }

    /// Holds these from now on, and after a restart too. Older ones than those that are held are
    /// passed over, and after an error those are still held.
    pub(crate) async fn take(&self, slices: Arc<Slices>) -> io::Result<()> {
        if self.held().is_some_and(|held| slices.epoch <= held.epoch) {
            return Ok(());
        }
        self.replace(slices).await
    }

    /// Holds slices of nothing, where none have ever been held: a door that is new knows of others
    /// only what it is leased, and lets nobody in before that.
    pub(crate) async fn begin(&self) -> io::Result<()> {
        if self.held().is_some() {
            return Ok(());
        }
        self.replace(Arc::default()).await
    }

    async fn replace(&self, slices: Arc<Slices>) -> io::Result<()> {
        let payload = convert::slices_to(&slices).encode_to_vec();
        if payload.len() > BYTES_MAX {
            let bytes = payload.len();
            return Err(io::Error::other(format!(
                "{bytes} bytes of slices; the most is {BYTES_MAX}"
            )));
        }
        let bytes = seal(&payload);
        self.blocking(move |dir| durable::replace(dir, TEMPORARY, FILE, &bytes)).await?;
        self.held.send_replace(Some(slices));
        Ok(())
    }

    /// Holds none any more: the operator leases none.
    pub(crate) async fn forget(&self) -> io::Result<()> {
        if self.held().is_none() {
            return Ok(());
        }
        self.blocking(|dir| match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(dir)?.sync_all(),
        })
        .await?;
        self.held.send_replace(None);
        Ok(())
    }

    async fn blocking(
        &self,
        work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let dir = self.dir.clone();
        task::spawn_blocking(move || work(&dir)).await.map_err(io::Error::other)?
    }
}

fn seal(payload: &[u8]) -> Vec<u8> {
    [MAGIC, &Sha256::digest(payload)[..], payload].concat()
}

fn read(path: &Path) -> Result<Option<Slices>, SliceError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SliceError::Read(source)),
    };
    let mut bytes = Vec::new();
    file.take(AGENT_MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(SliceError::Read)?;
    open(&bytes).map(Some).ok_or(SliceError::Damaged)
}

fn open(bytes: &[u8]) -> Option<Slices> {
    let (digest, payload) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if *digest != <[u8; 32]>::from(Sha256::digest(payload)) {
        return None;
    }
    convert::slices_from(proto::Slices::decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use realm_core::{name::TenantName, slices::Each};

    use super::*;

    fn slices(epoch: u64) -> Arc<Slices> {
        let acme = TenantName::new("default", "acme").unwrap();
        Arc::new(Slices { epoch, share: 5, tenants: [(acme, Each::all(7))].into() })
    }

    #[tokio::test]
    async fn what_was_taken_is_held_after_a_restart_and_older_slices_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (store, error) = SliceStore::open(dir.path());
        assert!(error.is_none() && store.held().is_none());
        store.take(slices(2)).await.unwrap();
        store.take(slices(1)).await.unwrap();
        assert_eq!(store.held(), Some(slices(2)));
        let (store, error) = SliceStore::open(dir.path());
        assert!(error.is_none());
        assert_eq!(store.held(), Some(slices(2)));
        store.forget().await.unwrap();
        assert!(store.held().is_none() && SliceStore::open(dir.path()).0.held().is_none());
    }

    #[tokio::test]
    async fn a_door_whose_slices_are_damaged_spends_nothing_until_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SliceStore::open(dir.path());
        store.take(slices(2)).await.unwrap();
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(dir.path().join(FILE), bytes).unwrap();
        let (store, error) = SliceStore::open(dir.path());
        assert!(matches!(error, Some(SliceError::Damaged)));
        assert_eq!(store.held(), Some(Arc::default()));
        store.take(slices(3)).await.unwrap();
        assert_eq!(SliceStore::open(dir.path()).0.held(), Some(slices(3)));
    }

    #[tokio::test]
    async fn a_new_door_spends_nothing_until_it_is_told_and_an_older_one_what_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SliceStore::open(dir.path());
        store.begin().await.unwrap();
        assert_eq!(store.held(), Some(Arc::default()));
        assert_eq!(SliceStore::open(dir.path()).0.held(), Some(Arc::default()));
        store.take(slices(1)).await.unwrap();
        store.begin().await.unwrap();
        assert_eq!(store.held(), Some(slices(1)));
    }

    #[tokio::test]
    async fn slices_that_could_not_be_said_are_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SliceStore::open(dir.path());
        store.take(slices(1)).await.unwrap();
        let name = |n: u32| TenantName::new(&"n".repeat(63), &format!("t{n:0>60}")).unwrap();
        let tenants = (0..60_000).map(|n| (name(n), Each::all(7))).collect();
        let many = Arc::new(Slices { epoch: 2, share: 5, tenants });
        let error = store.take(many).await.unwrap_err();
        assert!(error.to_string().ends_with(&format!("the most is {BYTES_MAX}")), "{error}");
        assert_eq!(store.held(), Some(slices(1)));
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SliceStore::open(dir.path());
        store.take(slices(1)).await.unwrap();
        dir.close().unwrap();
        store.take(slices(2)).await.unwrap_err();
        assert_eq!(store.held(), Some(slices(1)));
    }
}
