//! What is known of an unfinished file, in a small file beside it: which source its last bytes came
//! from, that source's own mark of the version, and how many bytes there will be.
//!
//! Losing it costs a little comfort and nothing else: the digest decides in the end.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    fs,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use realm_core::desired::Sha256;

use crate::{disk, error::StoreError};

/// Longest file read back: a digest, a number, and an entity tag as long as a header may be.
const STATE_LEN_MAX: u64 = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Digest of the source, not its text: an address may hold a secret.
    pub(crate) source: Sha256,
    pub(crate) bytes_total: Option<u64>,
    /// A strong entity tag; a weak one does not promise the same bytes.
    pub(crate) etag: Option<String>,
}

impl State {
    fn encode(&self) -> String {
        let total = self.bytes_total.map(|total| total.to_string()).unwrap_or_default();
        format!("{}\n{total}\n{}\n", self.source, self.etag.as_deref().unwrap_or_default())
    }

    fn decode(text: &str) -> Option<Self> {
        // The last newline says that the text was written to its end.
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let source = lines.next()?.parse().ok()?;
        let bytes_total = match lines.next()? {
            "" => None,
            total => Some(total.parse().ok()?),
        };
        let etag = Some(lines.next()?).filter(|etag| !etag.is_empty()).map(str::to_owned);
        lines.next().is_none().then_some(Self { source, bytes_total, etag })
    }
}

fn path_of(partial: &Path) -> PathBuf {
    partial.with_extension("state")
}

pub(crate) fn write(partial: &Path, state: &State) -> Result<(), StoreError> {
    let path = path_of(partial);
    fs::write(&path, state.encode()).map_err(|e| disk::error("write", &path, None, e))
}

/// What was kept, if it can be read.
pub(crate) fn read(partial: &Path) -> Option<State> {
    let mut text = String::new();
    fs::File::open(path_of(partial)).ok()?.take(STATE_LEN_MAX).read_to_string(&mut text).ok()?;
    State::decode(&text)
}

pub(crate) fn forget(partial: &Path) -> Result<(), StoreError> {
    let path = path_of(partial);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(disk::error("remove", &path, None, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_state_is_read_back_as_written_and_a_torn_one_never_as_another(
            source: [u8; 32],
            bytes_total: Option<u64>,
            etag in proptest::option::of("\"[!#-~]{0,40}\""),
            cut in 0usize..200,
        ) {
            let state = State { source: Sha256(source), bytes_total, etag };
            let text = state.encode();
            prop_assert_eq!(State::decode(&text), Some(state));
            if cut < text.len() {
                prop_assert_eq!(State::decode(&text[..cut]), None);
            }
        }
    }
}
