//! Products of activations and weights.
//!
//! The activations are made ready once for all weights of a kind. Few rows are multiplied by a warp for
//! each pair of outputs, which reads each weight once and is as fast as memory; many rows by tiles on
//! tensor cores, as bytes where weights are integers.

use std::sync::Arc;

use realm_kernels::{
    backend::{BackendError, Product, StepLimits},
    checks::area,
    format::Format,
};

use super::{
    Cuda, CudaBuffer, CudaMatrix, THREADS, by_row, counted,
    kernels::{FEW_OUTPUTS, FEW_ROWS_MAX, FEW_WARPS, Tiles},
    matrix::FLOAT_LANES,
    size,
};
use crate::{
    device::{Device, Grid, Kernel, Memory, Param},
    layout::{PLANES, RUN},
};

/// Bytes of what stands beside 32 rounded activations: their scale and their sums.
const BLOCK_BYTES: usize = 8;
/// Outputs of a tile.
const TILE_OUTPUTS: usize = 128;
const TILE_OUTPUTS_F32: usize = 64;
/// Matrices in one launch.
const AT_ONCE_MAX: usize = 4;
/// Words of each: its planes, its output, how many outputs it has and where its blocks begin.
const PRODUCT_WORDS: usize = PLANES + 2;
/// Blocks in the second dimension of a grid.
const GRID_ROWS_MAX: usize = 65_535;

/// Memory for activations that were made ready.
pub(super) struct Scratch {
    /// Values: four bytes each at most.
    values: Memory,
    /// What scales them: of each 32, or of each row.
    scales: Memory,
}

impl Scratch {
    pub(super) fn new(device: &Arc<Device>, limits: StepLimits) -> Result<Self, BackendError> {
        let cols = limits.cols.next_multiple_of(RUN);
        let values = device.allocate(area(limits.rows, area(cols, size_of::<f32>())))?;
        let scales = device.allocate(area(limits.rows, area(cols / RUN, BLOCK_BYTES)))?;
        Ok(Self { values, scales })
    }
}

/// What activations are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Bytes under a scale for each 32.
    Bytes,
    Bf16,
    /// As they are, in padded rows.
    Floats,
    /// Two f16 that together are as good as an f32.
    Halves,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Bytes, Self::Bf16, Self::Floats, Self::Halves];

    const fn of(format: Format, rows: usize) -> Self {
        match format {
            Format::F16 if rows > FEW_ROWS_MAX => Self::Halves,
            Format::F32 | Format::F16 => Self::Floats,
            Format::BF16 => Self::Bf16,
            _ => Self::Bytes,
        }
    }
}

impl Cuda {
    pub(super) fn products(
        &mut self,
        x: &CudaBuffer,
        rows: usize,
        products: &mut [Product<'_, Self>],
    ) -> Result<(), BackendError> {
        let op = "matmul";
        let Some(first) = products.first() else { return Ok(()) };
        let cols = first.matrix.cols;
        let x = x.at(op, "x", area(rows, cols))?;
        for Product { matrix, out } in products.iter() {
            if matrix.cols != cols {
                let (what, have) = ("columns", matrix.cols);
                return Err(BackendError::Shape { op, what, need: cols, have });
            }
            out.at(op, "out", area(rows, matrix.rows))?;
        }
        if rows == 0 {
            return Ok(());
        }
        if rows > GRID_ROWS_MAX {
            let (what, need) = ("rows", GRID_ROWS_MAX);
            return Err(BackendError::Shape { op, what, need, have: rows });
        }
        self.check_scratch(rows, cols)?;
        for kind in Kind::ALL {
            if products.iter().any(|p| Kind::of(p.matrix.format, rows) == kind) {
                self.prepare(kind, x, rows, cols)?;
                self.multiply_each(kind, products, rows)?;
            }
        }
        Ok(())
    }

    /// Multiplies activations that are ready with all matrices of their kind, those of one format at
    /// once: the small ones would not fill the device alone.
    fn multiply_each(
        &self,
        kind: Kind,
        products: &[Product<'_, Self>],
        rows: usize,
    ) -> Result<(), BackendError> {
        for format in Format::WEIGHTS.into_iter().filter(|format| Kind::of(*format, rows) == kind) {
            let mut own = products.iter().filter(|product| product.matrix.format == format);
            loop {
                let mut some = [None; AT_ONCE_MAX];
                some.iter_mut().zip(&mut own).for_each(|(to, product)| *to = Some(product));
                let [Some(first), ..] = some else { break };
                self.multiply(first.matrix, &some, rows)?;
            }
        }
        Ok(())
    }

    /// That the activations of a batch find room, whatever they are made into.
    fn check_scratch(&self, rows: usize, cols: usize) -> Result<(), BackendError> {
        let padded = cols.next_multiple_of(FLOAT_LANES);
        let values = area(rows, area(padded, size_of::<f32>()));
        let scales = area(rows, (cols / RUN * BLOCK_BYTES).max(size_of::<f32>()));
        let (have_values, have_scales) =
            self.scratch.as_ref().map_or((0, 0), |s| (s.values.bytes(), s.scales.bytes()));
        let (op, what) = ("matmul", "bytes of reserved scratch");
        for (need, have) in [(values, have_values), (scales, have_scales)] {
            if need > have {
                return Err(BackendError::Shape { op, what, need, have });
            }
        }
        Ok(())
    }

    fn scratch(&self) -> (u64, u64) {
        let at = |s: &Scratch| (s.values.address(), s.scales.address());
        self.scratch.as_ref().map_or((0, 0), at)
    }

    /// Makes activations ready in the scratch memory, which was checked to have room for them.
    fn prepare(&self, kind: Kind, x: u64, rows: usize, cols: usize) -> Result<(), BackendError> {
        let (op, (values, scales)) = ("matmul", self.scratch());
        let (cols_32, stride) =
            (counted(op, "columns", cols)?, size(cols.next_multiple_of(FLOAT_LANES)));
        let grid = by_row(rows, cols);
        let kernels = &self.rows;
        // SAFETY: each reads rows of `cols` of x and writes as many, padded, into scratch memory, both
        // of which were checked to have them.
        unsafe {
            match kind {
                Kind::Bytes => {
                    let count = (rows * (cols / RUN)) as u64;
                    let blocks = (rows * (cols / RUN)).div_ceil(THREADS as usize / RUN);
                    let grid =
                        Grid { blocks: (counted(op, "blocks", blocks)?, 1, 1), threads: THREADS };
                    let params: [&dyn Param; 4] = [&x, &values, &scales, &count];
                    self.device.launch(op, &kernels.round_q8, grid, &params)
                }
                Kind::Bf16 => {
                    let params: [&dyn Param; 4] = [&x, &values, &cols_32, &stride];
                    self.device.launch(op, &kernels.round_bf16, grid, &params)
                }
                Kind::Floats => {
                    let params: [&dyn Param; 4] = [&x, &values, &cols_32, &stride];
                    self.device.launch(op, &kernels.copy_f32, grid, &params)
                }
                Kind::Halves => {
                    let params: [&dyn Param; 5] = [&x, &values, &scales, &cols_32, &stride];
                    self.device.launch(op, &kernels.split_f16, grid, &params)
                }
            }
        }
    }

    /// Multiplies activations that are ready with some matrices of the same format as `like`.
    fn multiply(
        &self,
        like: &CudaMatrix,
        products: &[Option<&Product<'_, Self>>; AT_ONCE_MAX],
        rows: usize,
    ) -> Result<(), BackendError> {
        let op = "matmul";
        let outputs = products.iter().flatten().map(|product| product.matrix.rows).sum();
        let launch = self.shape(like, outputs, rows)?;
        let (all, blocks) = packed(products, launch.outputs)?;
        let grid = Grid { blocks: (blocks, launch.row_tiles, 1), threads: THREADS };
        let (values, scales) = self.scratch();
        let (rows_32, stride, runs) = (size(rows), size(like.stride), size(like.cols / RUN));
        let few: [&dyn Param; 4] = [&all, &values, &rows_32, &stride];
        let many: [&dyn Param; 5] = [&all, &values, &scales, &rows_32, &stride];
        let of_blocks: [&dyn Param; 5] = [&all, &values, &scales, &rows_32, &runs];
        let params: &[&dyn Param] = match (like.format.is_float(), rows <= FEW_ROWS_MAX) {
            (false, _) => &of_blocks,
            (true, true) => &few,
            (true, false) => &many,
        };
        // SAFETY: the kernel reads the matrices, which have rows of as many runs or of `stride` values,
        // and `rows` rows of scratch that were made for them, and writes as many rows of their outputs,
        // which were checked to have them.
        unsafe { self.device.launch(op, launch.kernel, grid, params) }
    }

    /// Which kernel multiplies so many rows with matrices like this one, of so many outputs together.
    fn shape<'a>(
        &self,
        like: &'a CudaMatrix,
        outputs: usize,
        rows: usize,
    ) -> Result<Shape<'a>, BackendError> {
        if rows <= FEW_ROWS_MAX {
            let kernel = like.kernels.few(rows);
            return Ok(Shape { kernel, outputs: FEW_OUTPUTS * FEW_WARPS, row_tiles: 1 });
        }
        let is_f32 = like.format == Format::F32;
        let tile_outputs = if is_f32 { TILE_OUTPUTS_F32 } else { TILE_OUTPUTS };
        let processors = self.device.facts.processors;
        let tiles = Tiles { rows, outputs, tile_outputs, processors };
        let unsupported = BackendError::UnsupportedFormat { format: like.format };
        let (tile_rows, kernel) = like.kernels.many(tiles).ok_or(unsupported)?;
        Ok(Shape { kernel, outputs: tile_outputs, row_tiles: size(rows.div_ceil(tile_rows)) })
    }
}

/// How products are computed.
struct Shape<'a> {
    kernel: &'a Kernel,
    /// Outputs of a block.
    outputs: usize,
    /// Blocks in the second dimension of the grid.
    row_tiles: u32,
}

/// `Products` in products.cu, and the blocks that they take in all.
fn packed(
    products: &[Option<&Product<'_, Cuda>>; AT_ONCE_MAX],
    block_outputs: usize,
) -> Result<([u64; AT_ONCE_MAX * PRODUCT_WORDS], u32), BackendError> {
    let mut all = [0; AT_ONCE_MAX * PRODUCT_WORDS];
    let mut blocks = 0_usize;
    for (words, product) in all.as_chunks_mut::<PRODUCT_WORDS>().0.iter_mut().zip(products) {
        let [planes @ .., out, tail] = words;
        // No block comes after the last one.
        *tail = u64::from(u32::MAX) << 32;
        if let Some(Product { matrix, out: buffer }) = product {
            planes.copy_from_slice(&matrix.planes);
            *out = buffer.memory.address();
            *tail = u64::from(size(matrix.rows)) | (u64::from(size(blocks)) << 32);
            blocks += matrix.rows.div_ceil(block_outputs);
        }
    }
    Ok((all, counted("matmul", "blocks", blocks)?))
}
