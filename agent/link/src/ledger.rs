//! What this agent was last told to hold, kept on its disk.
//!
//! An agent goes on serving from here while its operator is away. Two slots take turns: the slot
//! that does not hold the newest state is replaced whole (temporary file, fsync, rename, fsync of
//! the folder), so at every moment at least one slot is good and a crash costs nothing that was
//! accepted.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use prost::bytes::Bytes;
use realm_core::desired::Desired;
use thiserror::Error;
use tokio::{sync::watch, task};

use crate::convert::{self, ConvertError};

mod disk;
mod slot;

use disk::Disk;
pub use slot::SlotError;

/// Why a desired state was not accepted, or a ledger not opened.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("the ledger in {} cannot be opened", dir.display())]
    Open {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the ledger in {} belongs to another running process", dir.display())]
    InUse { dir: PathBuf },
    #[error("generation {got} is older than generation {have}, which is held")]
    Older { got: u64, have: u64 },
    #[error("generation {generation} is held already, with other content")]
    Changed { generation: u64 },
    #[error("the desired state is not one that could be read back")]
    Invalid(#[source] ConvertError),
    #[error("the desired state has {bytes} bytes; {bytes_max} are the most")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the disk that holds the ledger in {} is full", dir.display())]
    DiskFull {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the ledger in {} cannot be written", dir.display())]
    Write {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A slot that could not be read back. The other one, if good, was taken instead.
#[derive(Debug, Error)]
#[error("{} is not readable", path.display())]
pub struct LedgerWarning {
    pub path: PathBuf,
    pub source: SlotError,
}

/// What became of a desired state that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New,
    AlreadyHave,
}

/// The last accepted desired state. Clones are handles to the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    disk: Arc<Mutex<Disk>>,
    newest: watch::Sender<Arc<Desired>>,
}

impl Ledger {
    /// Opens the ledger in `dir`, which is created if need be and belongs to this process alone.
    pub async fn open(dir: &Path) -> Result<(Self, Vec<LedgerWarning>), LedgerError> {
        let dir = dir.to_owned();
        let opened = task::spawn_blocking({
            let dir = dir.clone();
            move || Disk::open(dir)
        });
        let (disk, newest, warnings) = match opened.await {
            Ok(opened) => opened?,
            Err(lost) => return Err(LedgerError::Open { dir, source: io::Error::other(lost) }),
        };
        let (newest, _) = watch::channel(Arc::new(newest.unwrap_or_default()));
        Ok((Self { disk: Arc::new(Mutex::new(disk)), newest }, warnings))
    }

    /// The last accepted state; before the first one an empty state of generation 0.
    pub fn newest(&self) -> Arc<Desired> {
        self.newest.borrow().clone()
    }

    /// Every state from now on that was accepted, and only those. Old ones may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.newest.subscribe()
    }

    /// Keeps `desired` on disk, then tells the subscribers.
    ///
    /// After an error the subscribers still hold the state that was held before. So does the disk,
    /// unless the state had its slot and only the folder could not be synced: then a restart may
    /// find either of the two, and until then the next state is written over the new one.
    pub async fn accept(&self, desired: impl Into<Arc<Desired>>) -> Result<Accepted, LedgerError> {
        self.accept_with(desired.into(), |desired| {
            let payload = convert::encode(desired);
            convert::decode(&payload).map_err(LedgerError::Invalid)?;
            Ok(payload.into())
        })
        .await
    }

    /// The same for a state that came as `payload`, and was read from it.
    pub(crate) async fn accept_received(
        &self,
        desired: Arc<Desired>,
        payload: Bytes,
    ) -> Result<Accepted, LedgerError> {
        self.accept_with(desired, |_| Ok(payload)).await
    }

    async fn accept_with(
        &self,
        desired: Arc<Desired>,
        payload: impl FnOnce(&Desired) -> Result<Bytes, LedgerError> + Send + 'static,
    ) -> Result<Accepted, LedgerError> {
        let ledger = self.clone();
        let accepted = task::spawn_blocking(move || ledger.accept_blocking(desired, payload));
        match accepted.await {
            Ok(accepted) => accepted,
            Err(lost) => {
                let dir = self.disk.lock().unwrap_or_else(PoisonError::into_inner).dir.clone();
                Err(LedgerError::Write { dir, source: io::Error::other(lost) })
            }
        }
    }

    fn accept_blocking(
        &self,
        desired: Arc<Desired>,
        payload: impl FnOnce(&Desired) -> Result<Bytes, LedgerError>,
    ) -> Result<Accepted, LedgerError> {
        // Held from the check to the end: of two states that are accepted at once, the second
        // is checked against the first.
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Accepted::AlreadyHave = check(&self.newest(), &desired)? {
            return Ok(Accepted::AlreadyHave);
        }
        disk.write(&slot::seal(&payload(&desired)?)?)?;
        self.newest.send_replace(desired);
        Ok(Accepted::New)
    }
}

/// Whether `desired` may follow `newest`. Pure.
fn check(newest: &Desired, desired: &Desired) -> Result<Accepted, LedgerError> {
    let (got, have) = (desired.generation, newest.generation);
    if got < have {
        Err(LedgerError::Older { got, have })
    } else if got > have {
        Ok(Accepted::New)
    } else if desired == newest {
        Ok(Accepted::AlreadyHave)
    } else {
        Err(LedgerError::Changed { generation: got })
    }
}

#[cfg(test)]
mod tests;
