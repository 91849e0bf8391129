//! Weights on the device.

use std::sync::Arc;

use realm_kernels::{backend::BackendError, format::Format};

use super::{counted, kernels::WeightKernels};
use crate::{
    device::{Device, Memory},
    layout::{Layout, PLANES, RUN},
};

/// Where planes begin: what a memory transaction may span.
const ALIGN: usize = 256;
/// Values in the vectors that rows of floats are padded to.
pub(super) const FLOAT_LANES: usize = 8;
/// Bytes of weights that are laid out at a time, so that a load takes no more than that beside the
/// file.
const SLAB_BYTES: usize = 64 << 20;
/// Bytes that are worth a thread.
const THREAD_BYTES: usize = 1 << 20;

/// Weights, in planes.
pub struct CudaMatrix {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Values of a row of floats, the padding among them.
    pub(super) stride: usize,
    /// Where the planes begin; floats have one.
    pub(super) planes: [u64; PLANES],
    pub(super) kernels: Arc<WeightKernels>,
    _memory: Memory,
}

/// That bytes are the weights that they should be.
pub(super) fn check(
    format: Format,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> Result<(), BackendError> {
    let op = "matrix";
    if !format.is_float() && Layout::of(format).is_none() {
        return Err(BackendError::UnsupportedFormat { format });
    }
    if format.row_bytes(cols).is_none() {
        let (what, have) = ("columns beyond whole blocks", cols % format.block_len());
        return Err(BackendError::Shape { op, what, need: 0, have });
    }
    let need = format.tensor_bytes(rows, cols).unwrap_or(usize::MAX);
    if bytes.len() != need || need == 0 {
        return Err(BackendError::Shape { op, what: "bytes", need, have: bytes.len() });
    }
    counted(op, "rows", rows)?;
    counted(op, "columns", cols)?;
    Ok(())
}

impl CudaMatrix {
    /// Lays out and copies weights that were checked.
    pub(super) fn new(
        device: &Arc<Device>,
        kernels: Arc<WeightKernels>,
        (format, rows, cols): (Format, usize, usize),
        bytes: &[u8],
    ) -> Result<Self, BackendError> {
        let stride = cols.next_multiple_of(FLOAT_LANES);
        let row_bytes = match Layout::of(format) {
            Some(layout) => layout.row_bytes(cols / RUN),
            None => [stride * format.block_bytes(), 0, 0, 0, 0],
        };
        let mut end = 0_usize;
        let starts = row_bytes.map(|bytes| {
            let start = end;
            end = end.saturating_add(rows.saturating_mul(bytes)).next_multiple_of(ALIGN);
            start
        });
        let memory = device.allocate(end)?;
        let stored = bytes.len() / rows;
        let slab = (SLAB_BYTES / stored).max(1);
        for (index, bytes) in bytes.chunks(slab * stored).enumerate() {
            let planes = lay_out(format, bytes, (stored, row_bytes));
            for ((start, row_bytes), plane) in starts.iter().zip(row_bytes).zip(planes) {
                device.write(&memory, start + index * slab * row_bytes, &plane)?;
            }
        }
        let planes = starts.map(|start| memory.address() + start as u64);
        Ok(Self { format, rows, cols, stride, planes, kernels, _memory: memory })
    }
}

/// Rows of weights in planes, laid out by as many threads as it is worth.
fn lay_out(
    format: Format,
    bytes: &[u8],
    (stored, row_bytes): (usize, [usize; PLANES]),
) -> [Vec<u8>; PLANES] {
    let rows = bytes.len() / stored;
    let mut planes = row_bytes.map(|bytes| vec![0; rows * bytes]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(bytes.len() / THREAD_BYTES).max(1);
    let share = rows.div_ceil(threads);
    let mut rest = planes.each_mut().map(Vec::as_mut_slice);
    std::thread::scope(|scope| {
        for bytes in bytes.chunks(share * stored) {
            let mut own = split_off(&mut rest, row_bytes.map(|row| bytes.len() / stored * row));
            let mut work = move || {
                for row in bytes.chunks_exact(stored) {
                    lay_out_row(format, row, split_off(&mut own, row_bytes));
                }
            };
            if threads == 1 { work() } else { drop(scope.spawn(work)) }
        }
    });
    planes
}

fn lay_out_row(format: Format, row: &[u8], planes: [&mut [u8]; PLANES]) {
    if let Some(layout) = Layout::of(format) {
        layout.row(format, row, planes);
    } else {
        let [floats, ..] = planes;
        floats.iter_mut().zip(row).for_each(|(to, byte)| *to = *byte);
    }
}

/// The first bytes of each plane, which the planes then lack.
fn split_off<'a>(
    planes: &mut [&'a mut [u8]; PLANES],
    bytes: [usize; PLANES],
) -> [&'a mut [u8]; PLANES] {
    let mut bytes = bytes.into_iter();
    planes.each_mut().map(|plane| {
        let (first, rest) = std::mem::take(plane).split_at_mut(bytes.next().unwrap_or(0));
        *plane = rest;
        first
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Each lays out megabytes.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rows_lie_as_they_do_alone_whoever_lays_them_out(
            format in prop::sample::select(Format::WEIGHTS.to_vec()),
            rows in 1_usize..9,
            seed in any::<u64>(),
        ) {
            // As many bytes as two threads are worth.
            let blocks = (2 * THREAD_BYTES).div_ceil(rows * format.block_bytes());
            let blocks = if format.is_float() { blocks.next_multiple_of(FLOAT_LANES) } else { blocks };
            let stored = blocks * format.block_bytes();
            let mut state = seed;
            let mut byte = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[7]
            };
            let bytes: Vec<u8> = (0..rows * stored).map(|_| byte()).collect();
            let row_bytes = match Layout::of(format) {
                Some(layout) => layout.row_bytes(blocks * format.block_len() / RUN),
                None => [stored, 0, 0, 0, 0],
            };
            let together = lay_out(format, &bytes, (stored, row_bytes));
            for (index, row) in bytes.chunks_exact(stored).enumerate() {
                let alone = lay_out(format, row, (stored, row_bytes));
                for ((together, alone), bytes) in together.iter().zip(&alone).zip(row_bytes) {
                    prop_assert!(together[index * bytes..][..bytes] == **alone);
                }
            }
        }
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let refused = |format, rows, cols, bytes: usize| {
            check(format, rows, cols, &vec![0; bytes]).unwrap_err()
        };
        let what = "columns beyond whole blocks";
        let shape = BackendError::Shape { op: "matrix", what, need: 0, have: 1 };
        assert_eq!(refused(Format::Q8_0, 1, 33, 68), shape);
        let format = Format::Q8K;
        assert_eq!(refused(format, 1, 256, 292), BackendError::UnsupportedFormat { format });
        let shape = BackendError::Shape { op: "matrix", what: "bytes", need: 16, have: 15 };
        assert_eq!(refused(Format::F32, 2, 2, 15), shape);
        assert!(check(Format::F32, usize::MAX, 2, &[0; 8]).is_err());
        assert_eq!(check(Format::Q4K, 2, 512, &[0; 4 * 144]), Ok(()));
    }
}
