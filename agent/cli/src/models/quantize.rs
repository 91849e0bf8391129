//! `realm models quantize`: a model file anew, in another format.
//!
//! The new file grows beside its place, under a name of its own, and takes its place when it is whole
//! and on the disk: whatever ends this before leaves what was there.

use std::{
    fs::{File, Permissions},
    io::{self, BufWriter},
    num::NonZeroUsize,
    ops::ControlFlow,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use realm_engine::{
    gguf::Gguf,
    quantise::{Part, Plan, QuantiseError, Requantise},
};
use realm_kernels::cpu;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use tempfile::NamedTempFile;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use crate::{args::QuantizeArgs, manifests::one_line, output, run::bar::Bar, table::Table};

/// Bytes that are gathered before they are written: small pieces come of small tensors only.
const BUFFER_BYTES: usize = 1 << 20;

/// What a new file may be used for, before the process's own mask takes from it.
const MODE: u32 = 0o666;

/// SIGINT and SIGTERM end it, and the unfinished file with it.
pub(super) async fn quantize(args: QuantizeArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let mut work = spawn_blocking(move || write(&args, &stopped));
    tokio::select! {
        done = &mut work => return done.context("write the file")?,
        _ = terminate.recv() => stop.cancel(),
        _ = interrupt.recv() => stop.cancel(),
    }
    work.await.context("write the file")?
}

fn write(args: &QuantizeArgs, stop: &CancellationToken) -> anyhow::Result<()> {
    let QuantizeArgs { input, output, format, allow_requantize, force, threads } = args;
    if output.is_dir() {
        bail!("{} is a folder", output.display());
    }
    if !force && output.symlink_metadata().is_ok() {
        bail!("{} is there already; --force replaces it", output.display());
    }
    let reading = || format!("read {}", input.display());
    let gguf = Gguf::open(input).with_context(reading)?;
    let requantise = if *allow_requantize { Requantise::Allowed } else { Requantise::Refused };
    let plan = match Plan::new(&gguf, *format, requantise) {
        Err(error @ QuantiseError::Quantised { .. }) => {
            return Err(error).context("without --allow-requantize nothing is rounded twice");
        }
        plan => plan.with_context(reading)?,
    };
    tell(&plan)?;
    let (read, written) = (plan.bytes_to_read(), plan.bytes_to_write());
    let making = || format!("write {}", output.display());
    let mut draft = draft(output, written).with_context(making)?;
    let mut bar = Bar::new("quantizing the model");
    let mut done = 0;
    let mut watch = |bytes: u64| {
        done += bytes;
        bar.show(done, Some(read));
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let threads = threads.or_else(|| NonZeroUsize::new(cpu::default_threads()));
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, draft.as_file_mut());
    plan.write(&mut out, threads.unwrap_or(NonZeroUsize::MIN), &mut watch).with_context(making)?;
    drop(out);
    place(draft, output, *force).with_context(making)?;
    drop(bar);
    output::line(format!(
        "{}: {:.1} MB in {format}, {:.0}% of {:.1} MB",
        output.display(),
        written as f64 / 1e6,
        written as f64 / read.max(1) as f64 * 100.0,
        read as f64 / 1e6,
    ))?;
    Ok(())
}

/// Says of each tensor that does not get what the recipe has for it what it gets.
fn tell(plan: &Plan<'_>) -> io::Result<()> {
    let mut table = Table::plain();
    for Part { tensor, format, instead_of, .. } in plan.parts() {
        if let Some(wanted) = instead_of {
            let cols = tensor.shape.first().copied().unwrap_or(0);
            let why = format!("its rows of {cols} are no whole blocks of {wanted}");
            table.add([one_line(&tensor.name), format.to_string(), why]);
        }
    }
    table.lines().try_for_each(output::line)
}

/// An empty file beside `output`, with room for what comes: a disk that is too small is found out
/// before hours of work, where its file system can say so.
fn draft(output: &Path, bytes: u64) -> io::Result<NamedTempFile> {
    let draft = tempfile::Builder::new()
        .prefix(".realm-")
        .suffix(".part")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder(output))?;
    match fallocate(draft.as_file(), FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(draft),
        Err(error) => Err(error.into()),
    }
}

/// Gives a whole file its place; without `force`, one that has appeared there meanwhile stays.
fn place(draft: NamedTempFile, output: &Path, force: bool) -> io::Result<()> {
    draft.as_file().sync_all()?;
    let placed = if force { draft.persist(output) } else { draft.persist_noclobber(output) };
    placed.map_err(|error| error.error)?;
    File::open(folder(output))?.sync_all()
}

fn folder(output: &Path) -> &Path {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}
