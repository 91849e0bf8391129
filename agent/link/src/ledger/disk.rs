//! The ledger's folder: two slots, a lock, and a temporary file while one is written.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use realm_core::desired::Desired;

use super::{
    LedgerError, LedgerWarning,
    slot::{self, SLOT_BYTES_MAX, SlotError},
};
use crate::durable::{self, MODE};

const SLOTS: [&str; 2] = ["desired.0", "desired.1"];
const TEMPORARY: &str = "desired.new";
const LOCK: &str = "lock";

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) dir: PathBuf,
    /// The slot that is written next: not the one with the newest state.
    next: usize,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

type Opened = (Disk, Option<Desired>, Vec<LedgerWarning>);

impl Disk {
    pub(super) fn open(dir: PathBuf) -> Result<Opened, LedgerError> {
        let lock = lock(&dir)?;
        let mut warnings = Vec::new();
        let mut newest: Option<(usize, Desired)> = None;
        for (index, name) in SLOTS.into_iter().enumerate() {
            let path = dir.join(name);
            match read_slot(&path) {
                Ok(None) => {}
                Ok(Some(desired)) => {
                    let have = newest.as_ref().map(|(_, newest)| newest.generation);
                    if have.is_none_or(|have| have < desired.generation) {
                        newest = Some((index, desired));
                    }
                }
                Err(source) => warnings.push(LedgerWarning { path, source }),
            }
        }
        let (newest_slot, newest) = newest.unzip();
        let next = newest_slot.map_or(0, |slot| 1 - slot);
        Ok((Self { dir, next, _lock: lock }, newest, warnings))
    }

    /// Replaces the older slot by `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), LedgerError> {
        let slot = SLOTS[self.next];
        if let Err(source) = durable::replace(&self.dir, TEMPORARY, slot, bytes) {
            let dir = self.dir.clone();
            return Err(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    LedgerError::DiskFull { dir, source }
                }
                _ => LedgerError::Write { dir, source },
            });
        }
        self.next = 1 - self.next;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, LedgerError> {
    let failed = |source| LedgerError::Open { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(MODE);
    let file = options.open(dir.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn read_slot(path: &Path) -> Result<Option<Desired>, SlotError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SlotError::Read(source)),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    file.take(SLOT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(SlotError::Read)?;
    slot::open(&bytes).map(Some)
}
