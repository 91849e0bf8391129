//! Weights as the CPU backend holds them: panels of sixteen rows, interleaved.
//!
//! A register then holds sixteen rows at the same column (or at the same four columns, for
//! integers), so a product needs no sum across lanes, the sums of each row are added in the order of
//! the columns whatever the instruction set, and weights stream from memory in one direction. The
//! bytes are those of the file in another order; only the scales of super-blocks grow a little, to
//! whole bytes, so that none has to be put together from parts while a product waits. Rows missing
//! in the last panel are zero.

use half::{bf16, f16};

use super::arena::{Arena, Piece};
use super::codes::{Codes, Eight, Five, Four, Lookup, Six, Three, Two};
use super::scales::{Halved, Offset, Plain, Power, Scaled, Scales, Shifted};
use super::simd::scalar::Scalar;
use super::simd::{LANES, Line};
use crate::backend::BackendError;
use crate::format::Format;
use crate::formats::block::Block;
use crate::formats::grid::{Fp4, NonLinear};
use crate::formats::{
    iq4_nl::BlockIq4Nl, iq4_xs::BlockIq4Xs, mxfp4::BlockMxfp4, q2_k::BlockQ2K, q3_k::BlockQ3K,
    q4_0::BlockQ4_0, q4_1::BlockQ4_1, q4_k::BlockQ4K, q5_0::BlockQ5_0, q5_1::BlockQ5_1,
    q5_k::BlockQ5K, q6_k::BlockQ6K, q8_0::BlockQ8_0,
};

/// Weights of `rows` outputs and `cols` inputs.
pub struct CpuMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) panels: Panels,
}

/// Defines the panels of all formats from how the quantised ones lie.
macro_rules! panels {
    ($($Format:ident: $Block:ty, $Codes:ty, $Scales:ty, $row:expr;)*) => {
        /// Panel after panel, within a panel column after column (or block after block).
        pub(crate) enum Panels {
            F32(Piece<[f32; LANES]>),
            F16(Piece<[f16; LANES]>),
            BF16(Piece<[bf16; LANES]>),
            $($Format(Blocks<$Codes, $Scales>),)*
        }

        impl Panels {
            fn pack(
                format: Format,
                source: &Source<'_>,
                arena: &mut Arena,
            ) -> Result<Self, BackendError> {
                Ok(match format {
                    Format::F32 => Self::F32(source.interleave(arena, |b| f32::from_le_bytes(*b))?),
                    Format::F16 => Self::F16(source.interleave(arena, |b| f16::from_le_bytes(*b))?),
                    Format::BF16 => {
                        Self::BF16(source.interleave(arena, |b| bf16::from_le_bytes(*b))?)
                    }
                    $(Format::$Format => {
                        Self::$Format(source.pack(arena, <$Block>::from_bytes, $row)?)
                    })*
                    Format::Q8_1 | Format::Q8K => {
                        return Err(BackendError::UnsupportedFormat { format });
                    }
                })
            }

            fn format(&self) -> Format {
                match self {
                    Self::F32(_) => Format::F32,
                    Self::F16(_) => Format::F16,
                    Self::BF16(_) => Format::BF16,
                    $(Self::$Format(_) => Format::$Format,)*
                }
            }

            /// Bytes of one block of one row, once it is packed.
            const fn block_bytes(format: Format) -> usize {
                match format {
                    $(Format::$Format => Blocks::<$Codes, $Scales>::BYTES / LANES,)*
                    other => other.block_bytes(),
                }
            }
        }
    };
}

panels! {
    Q4_0: BlockQ4_0, Four<8>, Plain, |b| b.d;
    Q4_1: BlockQ4_1, Four<0>, Offset, |b| (b.d, b.m);
    Q5_0: BlockQ5_0, Five<16>, Plain, |b| b.d;
    Q5_1: BlockQ5_1, Five<0>, Offset, |b| (b.d, b.m);
    Q8_0: BlockQ8_0, Eight, Plain, |b| b.d;
    Q2K: BlockQ2K, Two<0>, Halved, |b| (b.d, b.min, b.factors);
    Q3K: BlockQ3K, Three<4>, Scaled<16>, |b| (b.d, b.factors());
    Q4K: BlockQ4K, Four<0>, Shifted, |b| (b.d, b.min, b.factors.unpack());
    Q5K: BlockQ5K, Five<0>, Shifted, |b| (b.d, b.min, b.factors.unpack());
    Q6K: BlockQ6K, Six<32>, Scaled<16>, |b| (b.d, b.factors);
    IQ4NL: BlockIq4Nl, Lookup<NonLinear>, Plain, |b| b.d;
    IQ4XS: BlockIq4Xs, Lookup<NonLinear>, Scaled<8>, |b| (b.d, b.factors());
    MXFP4: BlockMxfp4, Lookup<Fp4>, Power, |b| bf16::from_f32(BlockMxfp4::scale(b.e));
}

/// Does something with quantised panels, whatever their format, or something else with floats.
macro_rules! quantised {
    ($panels:expr, $blocks:ident => $then:expr, $floats:ident => $else:expr) => {
        match $panels {
            Panels::Q4_0($blocks) => $then,
            Panels::Q4_1($blocks) => $then,
            Panels::Q5_0($blocks) => $then,
            Panels::Q5_1($blocks) => $then,
            Panels::Q8_0($blocks) => $then,
            Panels::Q2K($blocks) => $then,
            Panels::Q3K($blocks) => $then,
            Panels::Q4K($blocks) => $then,
            Panels::Q5K($blocks) => $then,
            Panels::Q6K($blocks) => $then,
            Panels::IQ4NL($blocks) => $then,
            Panels::IQ4XS($blocks) => $then,
            Panels::MXFP4($blocks) => $then,
            $floats @ (Panels::F32(_) | Panels::F16(_) | Panels::BF16(_)) => $else,
        }
    };
}
pub(crate) use quantised;

/// Blocks of sixteen rows; scales apart so that each line of codes is aligned.
pub(crate) struct Blocks<C: Codes, T> {
    scales: Piece<T>,
    lines: Piece<C::Lines>,
}

/// The blocks of one panel.
pub(crate) struct Panel<'a, C: Codes, T> {
    /// One for each block of the format.
    pub(crate) scales: &'a [T],
    /// One for each 32 columns.
    pub(crate) lines: &'a [C::Lines],
}

impl CpuMatrix {
    /// Interleaves the rows of a tensor as a file holds it.
    pub(crate) fn new(
        format: Format,
        (rows, cols): (usize, usize),
        bytes: &[u8],
        arena: &mut Arena,
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
        let panels = Panels::pack(format, &source, arena)?;
        Ok(Self { rows, cols, panels })
    }

    /// Bytes that a matrix takes once loaded; `None` where no matrix has that size.
    pub(crate) fn bytes(format: Format, rows: usize, cols: usize) -> Option<usize> {
        let blocks = format.row_bytes(cols)? / format.block_bytes();
        let row = blocks.checked_mul(Panels::block_bytes(format))?;
        row.checked_mul(rows.checked_next_multiple_of(LANES)?)
    }

    pub(crate) fn format(&self) -> Format {
        self.panels.format()
    }

    /// How many panels of sixteen rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Row `row` as floats. The row must exist and `out` be as long as it.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        quantised!(
            &self.panels,
            blocks => blocks.row(panel, lane, out),
            floats => match floats {
                Panels::F16(v) => lane_of(v, panel, self.cols, out, |v| v[lane].to_f32()),
                Panels::BF16(v) => lane_of(v, panel, self.cols, out, |v| v[lane].to_f32()),
                Panels::F32(v) => lane_of(v, panel, self.cols, out, |v| v[lane]),
                _ => {}
            }
        );
    }
}

impl<C: Codes, T: Scales> Blocks<C, T> {
    /// Of one block of sixteen rows.
    const BYTES: usize = size_of::<T>() + T::BLOCKS * size_of::<C::Lines>();

    #[inline]
    pub(crate) fn panel(&self, panel: usize, cols: usize) -> Panel<'_, C, T> {
        let lines = cols / 32;
        let steps = lines / T::BLOCKS;
        Panel {
            scales: &self.scales[panel * steps..][..steps],
            lines: &self.lines[panel * lines..][..lines],
        }
    }

    /// Row `lane` of a panel as floats, unpacked as the scalar kernel does it.
    fn row(&self, panel: usize, lane: usize, out: &mut [f32]) {
        let panel = self.panel(panel, out.len());
        let steps = panel.scales.iter().zip(panel.lines.chunks_exact(T::BLOCKS));
        for ((scales, lines), out) in steps.zip(out.chunks_exact_mut(T::BLOCKS * 32)) {
            let loaded = scales.load(Scalar);
            for (half, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (d, m) = scales.of_run(Scalar, loaded, half * T::RUNS / 2);
                let weights = C::half(Scalar, &lines[half / 2], half % 2);
                let w = |byte: u8| {
                    let scaled = f32::from(byte.wrapping_sub(C::BIAS).cast_signed()) * d[lane];
                    m.map_or(scaled, |m| scaled + m[lane])
                };
                for (out, weights) in out.as_chunks_mut::<4>().0.iter_mut().zip(weights) {
                    *out = weights.as_chunks::<4>().0[lane].map(w);
                }
            }
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
        arena: &mut Arena,
        value: impl Fn(&[u8; BYTES]) -> T,
    ) -> Result<Piece<[T; LANES]>, BackendError> {
        let mut out = arena.piece(self.panel_steps())?;
        self.each_step(|rows| out.push(rows.map(|row| row.map_or_else(T::default, &value))));
        Ok(out)
    }

    fn pack<C: Codes, T: Scales, B: Block<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
        &self,
        arena: &mut Arena,
        decode: impl Fn(&[u8; BYTES]) -> B,
        row: impl Fn(&B) -> T::Row,
    ) -> Result<Blocks<C, T>, BackendError> {
        let mut scales = arena.piece(self.panel_steps())?;
        let mut lines = arena.piece(self.panel_steps().saturating_mul(T::BLOCKS))?;
        self.each_step(|rows| {
            let rows = rows.map(|row| decode(row.unwrap_or(&[0; BYTES])));
            scales.push(T::interleave(rows.each_ref().map(&row)));
            let codes = rows.each_ref().map(Block::codes);
            for block in 0..T::BLOCKS {
                let mut packed = C::EMPTY;
                for (lane, codes) in codes.iter().enumerate() {
                    let bytes = codes.as_chunks().0.get(block).map_or([0; 32], C::pack);
                    put_lane(packed.as_mut(), lane, &bytes);
                }
                lines.push(packed);
            }
        });
        Ok(Blocks { scales, lines })
    }
}

/// Puts the bytes of one row into its four bytes of each line.
fn put_lane(lines: &mut [Line], lane: usize, bytes: &[u8; 32]) {
    for (line, four) in lines.iter_mut().zip(bytes.as_chunks::<4>().0) {
        line.0.as_chunks_mut::<4>().0[lane] = *four;
    }
}
