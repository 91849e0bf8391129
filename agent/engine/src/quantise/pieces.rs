//! One tensor on its way into a file, piece by piece: every thread converts some rows, and they are
//! written in their order.

use std::{io::Write, num::NonZeroUsize, thread};

use realm_kernels::{
    format::Format,
    formats::{self, FormatError},
};

use super::{Part, QuantiseError, Watch, length};

/// Values that a thread converts at a time, or one row where that has more.
///
/// A mebibyte of floats: some milliseconds of work in the fastest formats, a hundred times what it
/// takes to start a thread, and for 64 threads no more memory than a tensor of a large model.
const PIECE_VALUES: usize = 1 << 18;

/// Threads that convert at a time, however many are asked for: as many as the largest machines have
/// processors. More would only take memory.
const THREADS_MAX: usize = 512;

/// Bytes that are copied at a time, so that a copy can be broken off too.
const COPY_BYTES: usize = 16 << 20;

/// Why a piece could not be converted.
enum Fault {
    NotFinite,
    Range,
    Convert(FormatError),
}

/// Writes bytes as they are.
pub(super) fn copy(
    bytes: &[u8],
    out: &mut impl Write,
    watch: Watch<'_>,
) -> Result<(), QuantiseError> {
    for piece in bytes.chunks(COPY_BYTES) {
        put(piece, piece.len(), out, watch)?;
    }
    Ok(())
}

/// Writes the values of `bytes` in another format.
pub(super) fn convert(
    part: &Part<'_>,
    bytes: &[u8],
    out: &mut impl Write,
    threads: NonZeroUsize,
    watch: Watch<'_>,
) -> Result<(), QuantiseError> {
    let (from, to) = (part.tensor.format, part.format);
    let cols = part.tensor.shape.first().and_then(|&cols| usize::try_from(cols).ok());
    let cols = cols.unwrap_or(usize::MAX).max(1);
    let rows = PIECE_VALUES.checked_div(cols).unwrap_or(0).max(1);
    let piece_bytes = from.tensor_bytes(rows, cols).unwrap_or(usize::MAX).max(1);
    let mut pieces = bytes.chunks(piece_bytes);
    loop {
        let together: Vec<&[u8]> = pieces.by_ref().take(threads.get().min(THREADS_MAX)).collect();
        if together.is_empty() {
            return Ok(());
        }
        let converted = thread::scope(|scope| {
            let running: Vec<_> =
                together.iter().map(|piece| scope.spawn(|| in_format(from, to, piece))).collect();
            let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
            ended
                .map(|piece| piece.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        });
        for (piece, converted) in together.into_iter().zip(converted) {
            let converted = converted.map_err(|fault| fault.of(part))?;
            put(&converted, piece.len(), out, watch)?;
        }
    }
}

fn put(
    bytes: &[u8],
    read: usize,
    out: &mut impl Write,
    watch: Watch<'_>,
) -> Result<(), QuantiseError> {
    out.write_all(bytes).map_err(QuantiseError::Write)?;
    if watch(length(read)).is_break() { Err(QuantiseError::Stopped) } else { Ok(()) }
}

/// Whole rows in another format, if it holds them.
fn in_format(from: Format, to: Format, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let blocks = bytes.len().checked_div(from.block_bytes()).unwrap_or(0);
    let mut values = vec![0.0_f32; blocks.saturating_mul(from.block_len())];
    formats::dequantise(from, bytes, &mut values).map_err(Fault::Convert)?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Fault::NotFinite);
    }
    let converted = formats::quantise(to, &values).map_err(Fault::Convert)?;
    // Sixteen bits end long before 32 do: as a value, or as the scale of a block.
    formats::dequantise(to, &converted, &mut values).map_err(Fault::Convert)?;
    if values.iter().all(|value| value.is_finite()) { Ok(converted) } else { Err(Fault::Range) }
}

impl Fault {
    fn of(self, part: &Part<'_>) -> QuantiseError {
        let (tensor, format) = (part.tensor.name.clone(), part.format);
        match self {
            Self::NotFinite => QuantiseError::NotFinite { tensor },
            Self::Range => QuantiseError::Range { tensor, format },
            Self::Convert(source) => QuantiseError::Convert { tensor, source },
        }
    }
}
