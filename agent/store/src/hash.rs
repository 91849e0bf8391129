//! SHA-256 of files of any size, a piece at a time.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use realm_core::desired::Sha256;
use sha2::Digest;

/// Bytes hashed between two looks at whether anybody still waits: about 5 ms at 1.5 GB/s, so a
/// dropped fetch stops at once and the hand-over costs nothing.
const STEP_BYTES: usize = 8 << 20;

/// Bytes read at once: more no longer makes reads faster.
const READ_BYTES: usize = 256 << 10;

/// A digest that grows with the bytes.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> Sha256 {
        Sha256(self.0.clone().finalize().into())
    }
}

/// A file that has been hashed up to some byte.
struct Hashing {
    file: Arc<File>,
    hasher: Hasher,
    bytes_done: u64,
    buffer: Vec<u8>,
}

impl Hashing {
    /// Hashes some more; says whether the end was reached.
    fn step(mut self) -> io::Result<(Self, bool)> {
        for _ in 0..STEP_BYTES / READ_BYTES {
            let count = self.file.read_at(&mut self.buffer, self.bytes_done)?;
            if count == 0 {
                return Ok((self, true));
            }
            self.hasher.update(self.buffer.get(..count).unwrap_or_default());
            self.bytes_done = self.bytes_done.saturating_add(count as u64);
        }
        Ok((self, false))
    }
}

/// Hashes all of `file`, telling `on_bytes` how many are done. Dropped, it stops.
pub(crate) async fn hash(
    file: Arc<File>,
    on_bytes: impl Fn(u64) + Send + Sync,
) -> io::Result<(Hasher, u64)> {
    let buffer = vec![0; READ_BYTES];
    let mut hashing = Hashing { file, hasher: Hasher::default(), bytes_done: 0, buffer };
    loop {
        let (next, ended) = tokio::task::spawn_blocking(move || hashing.step()).await??;
        on_bytes(next.bytes_done);
        if ended {
            return Ok((next.hasher, next.bytes_done));
        }
        hashing = next;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_file_longer_than_a_step_has_the_digest_of_all_its_bytes() {
        let bytes: Vec<u8> = (0..251).cycle().take(STEP_BYTES + 12_345).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let (hasher, count) =
            hash(Arc::new(file), |done| told.lock().unwrap().push(done)).await.unwrap();
        assert_eq!(count, bytes.len() as u64);
        assert_eq!(hasher.digest().0, <[u8; 32]>::from(sha2::Sha256::digest(&bytes)));
        assert_eq!(*told.lock().unwrap(), [STEP_BYTES as u64, bytes.len() as u64]);
    }
}
