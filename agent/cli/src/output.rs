//! What the command line prints, and the only place it does.

use std::io::{self, Write as _};

use crate::table::Table;

/// Prints `text` and a newline to standard output.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())
}

/// Prints a table, or says beside it that it is empty.
pub(crate) fn table<const N: usize>(table: &Table<N>, empty: &str) -> anyhow::Result<()> {
    if table.is_empty() {
        note(empty);
        return Ok(());
    }
    table.lines().try_for_each(line)?;
    Ok(())
}

/// Prints `text` as it is and flushes, so that a stream is seen as it comes.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints `text` and a newline to standard error: what is said beside the answer.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nothing is left to tell anyone when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}
