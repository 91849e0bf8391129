//! Weights as the CPU backend holds them: panels of sixteen rows, interleaved.
//!
//! A register then holds sixteen rows at the same column (or at the same four columns, for
//! integers), so a product needs no sum across lanes, the sums of each row are added in the order of
//! the columns whatever the instruction set, and weights stream from memory in one direction. The
//! bytes are those of the file in another order: nothing grows. Rows missing in the last panel are
//! zero.

use half::{bf16, f16};

use super::simd::{LANES, Line};
use crate::backend::BackendError;
use crate::format::Format;
use crate::formats::{q4_1::BlockQ4_1, q8_0::BlockQ8_0};

/// Weights of `rows` outputs and `cols` inputs.
pub struct CpuMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) panels: Panels,
}

/// Panel after panel, within a panel column after column (or block after block).
pub(crate) enum Panels {
    F32(Vec<[f32; LANES]>),
    F16(Vec<[f16; LANES]>),
    BF16(Vec<[bf16; LANES]>),
    Q8_0(Blocks<SignedScales, 8>),
    Q4_1(Blocks<NibbleScales, 4>),
}

/// Blocks of 32 columns of sixteen rows; scales apart so that each line of quants is aligned.
pub(crate) struct Blocks<S, const LINES: usize> {
    pub(crate) scales: Vec<S>,
    pub(crate) quants: Vec<[Line; LINES]>,
}

/// The scale of each row.
#[derive(Clone, Copy)]
pub(crate) struct SignedScales {
    pub(crate) d: [f16; LANES],
}

/// The scale and the offset of each row.
#[derive(Clone, Copy)]
pub(crate) struct NibbleScales {
    pub(crate) d: [f16; LANES],
    pub(crate) m: [f16; LANES],
}

impl CpuMatrix {
    /// Interleaves the rows of a tensor as a file holds it.
    pub(crate) fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, BackendError> {
        let block = format.block_len();
        let row_bytes = format.row_bytes(cols).ok_or(BackendError::Shape {
            op: "matrix",
            what: "columns beyond whole blocks",
            need: 0,
            have: cols % block,
        })?;
        let need = format.tensor_bytes(rows, cols).unwrap_or(usize::MAX);
        if bytes.len() != need || need == 0 {
            let have = bytes.len();
            return Err(BackendError::Shape { op: "matrix", what: "bytes", need, have });
        }
        let source = Source { bytes, row_bytes, rows, steps: cols / block };
        let panels = match format {
            Format::F32 => Panels::F32(source.interleave(|b| f32::from_le_bytes(*b))?),
            Format::F16 => Panels::F16(source.interleave(|b| f16::from_le_bytes(*b))?),
            Format::BF16 => Panels::BF16(source.interleave(|b| bf16::from_le_bytes(*b))?),
            Format::Q8_0 => Panels::Q8_0(source.signed()?),
            Format::Q4_1 => Panels::Q4_1(source.nibbles()?),
            Format::Q8_1 => return Err(BackendError::UnsupportedFormat { format }),
        };
        Ok(Self { rows, cols, panels })
    }

    pub(crate) fn format(&self) -> Format {
        match self.panels {
            Panels::F32(_) => Format::F32,
            Panels::F16(_) => Format::F16,
            Panels::BF16(_) => Format::BF16,
            Panels::Q8_0(_) => Format::Q8_0,
            Panels::Q4_1(_) => Format::Q4_1,
        }
    }

    /// How many panels of sixteen rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Row `row` as floats. The row must exist and `out` be as long as it.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        match &self.panels {
            Panels::F32(values) => lane_of(values, panel, self.cols, out, |v| v[lane]),
            Panels::F16(values) => lane_of(values, panel, self.cols, out, |v| v[lane].to_f32()),
            Panels::BF16(values) => lane_of(values, panel, self.cols, out, |v| v[lane].to_f32()),
            Panels::Q8_0(blocks) => blocks.each(panel, self.cols, out, |scales, lines, out| {
                let mut q = [0; 32];
                for (four, line) in q.as_chunks_mut::<4>().0.iter_mut().zip(lines) {
                    *four = line.0.as_chunks::<4>().0[lane].map(u8::cast_signed);
                }
                BlockQ8_0 { d: scales.d[lane], q }.dequantise(out);
            }),
            Panels::Q4_1(blocks) => blocks.each(panel, self.cols, out, |scales, lines, out| {
                let mut q = [0; 16];
                for (four, line) in q.as_chunks_mut::<4>().0.iter_mut().zip(lines) {
                    *four = line.0.as_chunks::<4>().0[lane];
                }
                BlockQ4_1 { d: scales.d[lane], m: scales.m[lane], q }.dequantise(out);
            }),
        }
    }
}

impl<S, const LINES: usize> Blocks<S, LINES> {
    /// The scales and quants of one panel.
    #[inline]
    pub(crate) fn panel(&self, panel: usize, cols: usize) -> (&[S], &[[Line; LINES]]) {
        let blocks = cols / 32;
        let range = panel * blocks..(panel + 1) * blocks;
        (&self.scales[range.clone()], &self.quants[range])
    }

    fn each(
        &self,
        panel: usize,
        cols: usize,
        out: &mut [f32],
        decode: impl Fn(&S, &[Line; LINES], &mut [f32; 32]),
    ) {
        let (scales, quants) = self.panel(panel, cols);
        let blocks = scales.iter().zip(quants);
        for ((scales, lines), out) in blocks.zip(out.as_chunks_mut::<32>().0) {
            decode(scales, lines, out);
        }
    }
}

fn lane_of<T>(
    values: &[[T; LANES]],
    panel: usize,
    cols: usize,
    out: &mut [f32],
    value: impl Fn(&[T; LANES]) -> f32,
) {
    for (out, lanes) in out.iter_mut().zip(&values[panel * cols..][..cols]) {
        *out = value(lanes);
    }
}

/// A tensor as a file holds it.
struct Source<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    rows: usize,
    /// Blocks in a row.
    steps: usize,
}

impl Source<'_> {
    /// Calls `put` with the same block of sixteen rows, panel by panel and block by block; `None`
    /// stands for a row that does not exist.
    fn each_step<const BYTES: usize>(&self, mut put: impl FnMut([Option<&[u8; BYTES]>; LANES])) {
        for first in (0..self.rows).step_by(LANES) {
            let rows: [&[[u8; BYTES]]; LANES] = std::array::from_fn(|lane| {
                let start = (first + lane).saturating_mul(self.row_bytes);
                let row = self.bytes.get(start..).unwrap_or_default();
                row.get(..self.row_bytes).unwrap_or_default().as_chunks().0
            });
            for step in 0..self.steps {
                put(rows.map(|row| row.get(step)));
            }
        }
    }

    fn panel_steps(&self) -> usize {
        self.rows.div_ceil(LANES) * self.steps
    }

    fn interleave<T: Copy + Default, const BYTES: usize>(
        &self,
        value: impl Fn(&[u8; BYTES]) -> T,
    ) -> Result<Vec<[T; LANES]>, BackendError> {
        let mut out = reserved(self.panel_steps())?;
        self.each_step(|rows| out.push(rows.map(|row| row.map_or_else(T::default, &value))));
        Ok(out)
    }

    fn signed(&self) -> Result<Blocks<SignedScales, 8>, BackendError> {
        let mut scales = reserved(self.panel_steps())?;
        let mut quants = reserved(self.panel_steps())?;
        self.each_step(|rows| {
            let rows = rows.map(|row| row.map(BlockQ8_0::from_bytes));
            scales.push(SignedScales { d: rows.map(|row| row.map_or(f16::ZERO, |row| row.d)) });
            let mut lines = [Line([0; 64]); 8];
            for (lane, row) in rows.iter().enumerate() {
                let Some(row) = row else { continue };
                for (line, four) in lines.iter_mut().zip(row.q.as_chunks::<4>().0) {
                    line.0.as_chunks_mut::<4>().0[lane] = four.map(i8::cast_unsigned);
                }
            }
            quants.push(lines);
        });
        Ok(Blocks { scales, quants })
    }

    fn nibbles(&self) -> Result<Blocks<NibbleScales, 4>, BackendError> {
        let mut scales = reserved(self.panel_steps())?;
        let mut quants = reserved(self.panel_steps())?;
        self.each_step(|rows| {
            let rows = rows.map(|row| row.map(BlockQ4_1::from_bytes));
            scales.push(NibbleScales {
                d: rows.map(|row| row.map_or(f16::ZERO, |row| row.d)),
                m: rows.map(|row| row.map_or(f16::ZERO, |row| row.m)),
            });
            let mut lines = [Line([0; 64]); 4];
            for (lane, row) in rows.iter().enumerate() {
                let Some(row) = row else { continue };
                for (line, four) in lines.iter_mut().zip(row.q.as_chunks::<4>().0) {
                    line.0.as_chunks_mut::<4>().0[lane] = *four;
                }
            }
            quants.push(lines);
        });
        Ok(Blocks { scales, quants })
    }
}

/// An empty vector with room for `len` elements, if the machine has it.
pub(crate) fn reserved<T>(len: usize) -> Result<Vec<T>, BackendError> {
    let mut out = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    out.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { bytes })?;
    Ok(out)
}
