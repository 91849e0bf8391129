//! The newest certificate and its key on disk, for an agent that starts while its operator is away.
//!
//! Whoever reads this file can be this node until the certificate ends, as whoever reads the ledger
//! knows its tenants' configuration: both are this user's alone.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{fs, io::AsyncReadExt as _, task};

use super::error::IdentityError;
use crate::{client::Enrolled, durable};

const FILE: &str = "identity";
const TEMPORARY: &str = "identity.new";

/// Largest file that is read back: a chain, a bundle of three authorities and a key have 5 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What the operator signed, and the key that it signed it for. Not `Debug`, for it is a secret.
pub(super) struct Kept {
    pub(super) enrolled: Enrolled,
    /// PKCS #8.
    pub(super) key_der: Vec<u8>,
}

/// What was kept in `dir` and is still good at `now`.
pub(super) async fn read(dir: &Path, now: SystemTime) -> Result<Option<Kept>, IdentityError> {
    let path = dir.join(FILE);
    let file = match fs::File::open(&path).await {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Read { path, source }),
    };
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await;
    read.map_err(|source| IdentityError::Read { path: path.clone(), source })?;
    let kept = decode(&bytes).ok_or(IdentityError::Damaged { path })?;
    Ok(Some(kept).filter(|kept| now < kept.enrolled.not_after))
}

/// Keeps it in `dir` in place of what was kept before.
pub(super) async fn write(dir: PathBuf, kept: &Kept) -> Result<(), IdentityError> {
    let (bytes, path) = (encode(kept), dir.join(FILE));
    let written = task::spawn_blocking(move || durable::replace(&dir, TEMPORARY, FILE, &bytes));
    written
        .await
        .unwrap_or_else(|lost| Err(io::Error::other(lost)))
        .map_err(|source| IdentityError::Write { path, source })
}

fn encode(kept: &Kept) -> Vec<u8> {
    let Kept { enrolled: Enrolled { certificate_chain, ca, not_after }, key_der } = kept;
    let not_after = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = json!({
        "certificate_chain": certificate_chain,
        "ca": ca,
        "not_after": not_after,
        "key_der": key_der,
    });
    kept.to_string().into_bytes()
}

fn decode(bytes: &[u8]) -> Option<Kept> {
    let kept: Value = serde_json::from_slice(bytes).ok()?;
    let text = |field: &str| Some(kept.get(field)?.as_str()?.to_owned());
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    let not_after = Duration::from_secs(kept.get("not_after")?.as_u64()?);
    Some(Kept {
        enrolled: Enrolled {
            certificate_chain: text("certificate_chain")?,
            ca: text("ca")?,
            not_after: SystemTime::UNIX_EPOCH.checked_add(not_after)?,
        },
        key_der: kept.get("key_der")?.as_array()?.iter().map(byte).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Seconds since the epoch at which it ends.
    const END: u64 = 1_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap()
    }

    fn kept() -> Kept {
        let enrolled = Enrolled {
            certificate_chain: "a chain\n".to_owned(),
            ca: "an authority\n".to_owned(),
            not_after: at(END),
        };
        Kept { enrolled, key_der: vec![48, 0, 255] }
    }

    #[tokio::test]
    async fn what_was_kept_is_read_back_until_it_ends_and_is_nobody_elses_to_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path(), at(0)).await.unwrap().is_none());
        write(dir.path().to_owned(), &kept()).await.unwrap();
        let found = read(dir.path(), at(999)).await.unwrap().unwrap();
        assert_eq!((found.enrolled, found.key_der), (kept().enrolled, kept().key_der));
        assert!(read(dir.path(), at(END)).await.unwrap().is_none());
        let mode = dir.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_cut_at_any_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = encode(&kept());
        for len in 0..bytes.len() {
            std::fs::write(dir.path().join(FILE), bytes.get(..len).unwrap()).unwrap();
            let found = read(dir.path(), at(0)).await;
            assert!(matches!(found, Err(IdentityError::Damaged { .. })), "{len}");
        }
    }
}
