//! `realm:tenant/random`: randomness of the system's.

use realm_core::refusal::Refusal;

use super::Host;
use crate::{bindings::realm::tenant::random, refusal::Ended};

/// Bytes at once: keys, ids and seeds of any size, and no stream.
const BYTES_MAX: u32 = 4096;

impl random::Host for Host {
    fn bytes(&mut self, count: u32) -> wasmtime::Result<Vec<u8>> {
        self.enter()?;
        let size = usize::try_from(count.min(BYTES_MAX)).unwrap_or_default();
        if count > BYTES_MAX {
            let message = format!("it asked for {count} random bytes; {BYTES_MAX} are the most");
            return Err(Ended(Refusal::ProgramFailed(message)).into());
        }
        let mut bytes = vec![0; size];
        let drawn = getrandom::fill(&mut bytes);
        drawn.map_err(|error| {
            Ended(crate::refusal::internal(&format!("drawing random bytes: {error}")))
        })?;
        Ok(bytes)
    }
}
