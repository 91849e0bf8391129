//! The bytes of one slot: magic, format version, SHA-256 of the payload, payload.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::io;

use realm_core::desired::Desired;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::LedgerError;
use crate::convert::{self, ConvertError};

const MAGIC: &[u8; 8] = b"RealmLdg";

/// Changes when the header or the meaning of the payload does: a state of another version is
/// refused whole, for half of it would be served as if it were all.
const VERSION: u32 = 2;

/// Most bytes of a payload: ten thousand tenants at 4 KiB of keys, grants and configuration each,
/// and as much again for pipelines.
const PAYLOAD_BYTES_MAX: usize = 80 << 20;

const HEADER_BYTES: usize = MAGIC.len() + size_of::<u32>() + 32;

/// Most bytes of a slot that are read from disk.
pub(super) const SLOT_BYTES_MAX: u64 = (80 << 20) + 64;

const _: () = assert!(HEADER_BYTES <= 64, "the header fits in what a slot may have besides");

/// Why a slot cannot be read back.
#[derive(Debug, Error)]
pub enum SlotError {
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    #[error("the file is not a ledger")]
    NotALedger,
    #[error("the file has format version {version}, this program writes {VERSION}")]
    Version { version: u32 },
    #[error("the file is damaged: its digest is not that of its content")]
    Damaged,
    #[error("the content is not a desired state")]
    Invalid(#[source] ConvertError),
}

/// The bytes of a slot that holds `payload`.
pub(super) fn seal(payload: &[u8]) -> Result<Vec<u8>, LedgerError> {
    let bytes = payload.len();
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(LedgerError::TooLarge { bytes, bytes_max: PAYLOAD_BYTES_MAX });
    }
    let digest: [u8; 32] = Sha256::digest(payload).into();
    Ok([MAGIC, &VERSION.to_le_bytes()[..], &digest[..], payload].concat())
}

/// Reads what [`seal`] wrote.
pub(super) fn open(bytes: &[u8]) -> Result<Desired, SlotError> {
    let (magic, rest) = bytes.split_first_chunk().ok_or(SlotError::NotALedger)?;
    if magic != MAGIC {
        return Err(SlotError::NotALedger);
    }
    let (version, rest) = rest.split_first_chunk().ok_or(SlotError::Damaged)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(SlotError::Version { version });
    }
    let (digest, payload) = rest.split_first_chunk::<32>().ok_or(SlotError::Damaged)?;
    if *digest != <[u8; 32]>::from(Sha256::digest(payload)) {
        return Err(SlotError::Damaged);
    }
    convert::decode(payload).map_err(SlotError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary;

    fn sealed() -> Vec<u8> {
        seal(&convert::encode(&arbitrary::sample())).unwrap()
    }

    #[test]
    fn a_slot_that_was_sealed_opens() {
        assert_eq!(open(&sealed()).unwrap(), arbitrary::sample());
    }

    #[test]
    fn a_slot_cut_at_any_byte_is_refused() {
        let bytes = sealed();
        for len in 0..bytes.len() {
            open(bytes.get(..len).unwrap()).unwrap_err();
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let mut bytes = sealed();
        for index in 0..bytes.len() {
            for bit in 0..8 {
                *bytes.get_mut(index).unwrap() ^= 1 << bit;
                open(&bytes).unwrap_err();
                *bytes.get_mut(index).unwrap() ^= 1 << bit;
            }
        }
    }

    #[test]
    fn bytes_after_the_end_are_noticed() {
        open(&[sealed(), vec![0]].concat()).unwrap_err();
    }

    #[test]
    fn a_ledger_of_the_format_before_is_refused_by_its_version() {
        let mut bytes = sealed();
        *bytes.get_mut(8).unwrap() = 1;
        assert!(matches!(open(&bytes), Err(SlotError::Version { version: 1 })));
    }

    #[test]
    fn another_format_version_is_named() {
        let mut bytes = sealed();
        *bytes.get_mut(8).unwrap() = 9;
        assert!(matches!(open(&bytes), Err(SlotError::Version { version: 9 })));
    }

    #[test]
    fn a_state_larger_than_what_is_read_back_is_refused() {
        let payload = vec![0; PAYLOAD_BYTES_MAX.saturating_add(1)];
        assert!(matches!(seal(&payload), Err(LedgerError::TooLarge { .. })));
    }
}
