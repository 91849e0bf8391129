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
    Cuda, CudaBuffer, CudaMatrix, PARTS_MAX, THREADS, by_row, counted,
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
/// Columns that are worth a block of their own: as many steps as fill its pipeline a few times.
const SPLIT_COLS: usize = 512;
/// Matrices in one launch.
const AT_ONCE_MAX: usize = 4;
/// Words of each: its planes, its output, how many outputs it has and where its blocks begin, how many
/// are before it and in all.
const PRODUCT_WORDS: usize = PLANES + 3;
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
        let shape = self.shape(like, outputs, rows)?;
        let (all, blocks) = packed(products, shape.outputs)?;
        let (grid, (values, scales)) = ((blocks, shape.row_tiles, shape.splits), self.scratch());
        let grid = Grid { blocks: grid, threads: THREADS };
        let (parts, rows_32) = (self.parts.address(), size(rows));
        let (stride, runs) = (size(like.stride), size(like.cols / RUN));
        let few_blocks: [&dyn Param; 5] = [&all, &values, &scales, &rows_32, &runs];
        let few_floats: [&dyn Param; 4] = [&all, &values, &rows_32, &stride];
        let many_blocks: [&dyn Param; 6] = [&all, &values, &scales, &parts, &rows_32, &runs];
        let many_floats: [&dyn Param; 6] = [&all, &values, &scales, &parts, &rows_32, &stride];
        let params: &[&dyn Param] = match (like.format.is_float(), rows <= FEW_ROWS_MAX) {
            (false, true) => &few_blocks,
            (true, true) => &few_floats,
            (false, false) => &many_blocks,
            (true, false) => &many_floats,
        };
        // SAFETY: the kernel reads the matrices, which have rows of as many runs or of `stride` values,
        // and `rows` rows of scratch that were made for them, and writes as many rows of their outputs,
        // which were checked to have them, or as many parts of these as were reckoned to fit.
        unsafe { self.device.launch(op, shape.kernel, grid, params) }?;
        if shape.splits == 1 {
            return Ok(());
        }
        let widest = products.iter().flatten().map(|product| product.matrix.rows).max();
        let columns = size(widest.unwrap_or(0).div_ceil(THREADS as usize));
        let grid = Grid { blocks: (columns, size(AT_ONCE_MAX), rows_32), threads: THREADS };
        let params: [&dyn Param; 4] = [&all, &parts, &rows_32, &shape.splits];
        // SAFETY: reads the parts that the kernel before has written, and writes what it would have.
        unsafe { self.device.launch(op, &like.kernels.sum_parts, grid, &params) }
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
            let outputs = FEW_OUTPUTS * FEW_WARPS;
            return Ok(Shape { kernel, outputs, row_tiles: 1, splits: 1 });
        }
        let is_f32 = like.format == Format::F32;
        let tile_outputs = if is_f32 { TILE_OUTPUTS_F32 } else { TILE_OUTPUTS };
        let processors = self.device.facts.processors;
        let tiles = Tiles { rows, outputs, tile_outputs, processors };
        let unsupported = BackendError::UnsupportedFormat { format: like.format };
        let (tile_rows, kernel) = like.kernels.many(tiles).ok_or(unsupported)?;
        let row_tiles = rows.div_ceil(tile_rows);
        let splits = if is_f32 {
            1
        } else {
            let blocks = row_tiles * outputs.div_ceil(tile_outputs);
            let fit = PARTS_MAX / area(rows, outputs).max(1);
            splits(blocks, processors, like.cols).min(fit).max(1)
        };
        let (row_tiles, splits) = (size(row_tiles), size(splits));
        Ok(Shape { kernel, outputs: tile_outputs, row_tiles, splits })
    }
}

/// Blocks that share the columns of a tile, so that there are two for each multiprocessor.
fn splits(blocks: usize, processors: usize, cols: usize) -> usize {
    (2 * processors / blocks.max(1)).min(cols / SPLIT_COLS).max(1)
}

/// How products are computed.
struct Shape<'a> {
    kernel: &'a Kernel,
    /// Outputs of a block.
    outputs: usize,
    /// Blocks in the second dimension of the grid.
    row_tiles: u32,
    /// Blocks in the third, which share the columns.
    splits: u32,
}

/// `Products` in products.cu, and the blocks that they take in all.
fn packed(
    products: &[Option<&Product<'_, Cuda>>; AT_ONCE_MAX],
    block_outputs: usize,
) -> Result<([u64; AT_ONCE_MAX * PRODUCT_WORDS], u32), BackendError> {
    let mut all = [0; AT_ONCE_MAX * PRODUCT_WORDS];
    let outputs = products.iter().flatten().map(|product| product.matrix.rows).sum();
    let (mut blocks, mut before) = (0_usize, 0_usize);
    let both = |low: usize, high: usize| u64::from(size(low)) | (u64::from(size(high)) << 32);
    for (words, product) in all.as_chunks_mut::<PRODUCT_WORDS>().0.iter_mut().zip(products) {
        let [planes @ .., out, own, among] = words;
        // No block comes after the last one.
        *own = both(0, usize::MAX);
        if let Some(Product { matrix, out: buffer }) = product {
            planes.copy_from_slice(&matrix.planes);
            *out = buffer.memory.address();
            *own = both(matrix.rows, blocks);
            *among = both(before, outputs);
            blocks += matrix.rows.div_ceil(block_outputs);
            before += matrix.rows;
        }
    }
    Ok((all, counted("matmul", "blocks", blocks)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_shared_where_tiles_leave_processors_idle() {
        assert_eq!(splits(32, 132, 14_336), 8);
        assert_eq!(splits(32, 132, 4096), 8);
        assert_eq!(splits(32, 132, 1024), 2);
        assert_eq!(splits(1, 132, 768), 1);
        assert_eq!(splits(256, 132, 14_336), 1);
        assert_eq!(splits(1002, 132, 4096), 1);
    }

    #[test]
    fn activations_become_what_their_weights_are_multiplied_with() {
        assert_eq!(Kind::of(Format::Q4K, 1), Kind::Bytes);
        assert_eq!(Kind::of(Format::MXFP4, 200), Kind::Bytes);
        assert_eq!(Kind::of(Format::F16, FEW_ROWS_MAX), Kind::Floats);
        assert_eq!(Kind::of(Format::F16, FEW_ROWS_MAX + 1), Kind::Halves);
        assert_eq!(Kind::of(Format::BF16, 200), Kind::Bf16);
        assert_eq!(Kind::of(Format::F32, 200), Kind::Floats);
    }
}
