//! The CPU backend: every operation on the threads of one pool, with the best instructions there
//! are.
//!
//! The files follow the data: [`simd`] (lanes), [`pool`] and [`grid`] (who computes what),
//! [`panels`] with its [`codes`] and [`scales`] and [`kv`] (how weights, keys and values lie),
//! [`memory`] and [`arena`] (where), [`activations`] and [`matmul`], [`attention`], [`rows`] (the
//! rest), [`variants`] (what only some architectures need), [`encoding`] (what only models need that
//! write no text). Results do not depend on the number of threads, on the other rows of a batch, or
//! on the instruction set.

pub(crate) mod activations;
pub(crate) mod arena;
pub(crate) mod attention;
pub(crate) mod codes;
pub(crate) mod encoding;
pub(crate) mod grid;
pub(crate) mod isa;
pub(crate) mod kv;
pub(crate) mod matmul;
pub(crate) mod memory;
pub(crate) mod panels;
pub(crate) mod pool;
pub(crate) mod rows;
pub(crate) mod scales;
pub(crate) mod simd;
pub(crate) mod variants;

use crate::backend::{
    Attention, Backend, BackendError, Curve, KvShape, Product, RopeShape, StepLimits,
};
use crate::checks::{area, check_ids, check_layer, check_spans};
use crate::format::Format;
use activations::{ActivationBlock, Kind, pack, partner, quantise, round_bf16, tile_rows};
use arena::Arena;
use grid::Grid;
use isa::with_simd;
use kv::{Store, Tokens};
use matmul::{Activations, Batch, multiply};
use memory::reserved;
use rows::Rotations;
use simd::{LANES, Line};

pub use isa::Isa;
pub use kv::CpuKvCache;
pub use panels::CpuMatrix;
pub use pool::default_threads;

/// The processor has not got the instructions that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this processor has no {isa}")]
pub struct MissingIsa {
    pub isa: Isa,
}

/// The processor as a device.
pub struct Cpu {
    pub(crate) proof: isa::Proof,
    pub(crate) pool: pool::Pool,
    /// Packed activations of a product with float weights, or what was gathered of parts of sequences.
    floats: Vec<f32>,
    /// Packed activations of a product with quantised weights.
    blocks: Vec<ActivationBlock>,
    rotations: Rotations,
    /// Where its matrices lie.
    weights: Arena,
}

/// Matrices that share one job at most: queries, keys and values are three. Few enough for the
/// stack, since a step multiplies hundreds of times and allocates nothing.
const AT_ONCE_MAX: usize = 4;

/// f32 activations in main memory.
pub struct CpuBuffer {
    values: Vec<f32>,
    /// The first element that starts a cache line: a tile of a product then writes whole lines.
    start: usize,
    len: usize,
}

impl CpuBuffer {
    fn new(len: usize) -> Result<Self, BackendError> {
        let padded = len.saturating_add(LANES);
        let mut values = reserved(padded)?;
        values.resize(padded, 0.0);
        let start = values.as_ptr().align_offset(align_of::<Line>()).min(LANES);
        Ok(Self { values, start, len })
    }

    fn as_slice(&self) -> &[f32] {
        &self.values[self.start..][..self.len]
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.len]
    }
}

impl Cpu {
    /// Bytes that a matrix takes once loaded; `None` where no matrix has that size.
    pub fn matrix_bytes(format: Format, rows: usize, cols: usize) -> Option<usize> {
        CpuMatrix::bytes(format, rows, cols)
    }

    /// A backend with exactly these instructions and so many threads, the caller's among them.
    pub fn new(isa: Isa, threads: usize) -> Result<Self, MissingIsa> {
        isa::Proof::of(isa).map(|proof| Self::with(proof, threads)).ok_or(MissingIsa { isa })
    }

    /// A backend with the best instructions that this processor has.
    pub fn detect(threads: usize) -> Self {
        Self::with(isa::Proof::best(), threads)
    }

    /// Whether the matrices it makes from here on stay in memory for as long as they live. One for
    /// which the system's limit leaves no room is refused with [`BackendError::NotLocked`].
    #[must_use]
    pub fn locking_weights(mut self, locks_weights: bool) -> Self {
        self.weights.locks = locks_weights;
        self
    }

    pub fn isa(&self) -> Isa {
        self.proof.isa()
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn with(proof: isa::Proof, threads: usize) -> Self {
        let pool = pool::Pool::new(threads);
        let (floats, blocks) = (Vec::new(), Vec::new());
        let (rotations, weights) = (Rotations::default(), Arena::default());
        Self { proof, pool, floats, blocks, rotations, weights }
    }

    /// Packs `x` as weights of a kind need it.
    fn prepare(&mut self, kind: Kind, x: &[f32], batch: Batch) -> Result<(), BackendError> {
        let Batch { rows, cols, tile_rows } = batch;
        let need = rows.div_ceil(tile_rows) * tile_rows * cols;
        let room = |have| {
            if need > have {
                Err(BackendError::Shape { op: "matmul", what: "reserved scratch", need, have })
            } else {
                Ok(())
            }
        };
        let Self { proof, pool, floats, blocks, .. } = self;
        if kind == Kind::Blocks {
            room(blocks.len() * 32)?;
            let blocks = &mut blocks[..need / 32];
            with_simd!(*proof, simd => quantise(simd, pool, x, (cols, tile_rows), blocks));
        } else {
            room(floats.len())?;
            let floats = &mut floats[..need];
            match kind {
                Kind::Rounded => pack(pool, x, (cols, tile_rows), round_bf16, floats),
                Kind::Floats | Kind::Blocks => pack(pool, x, (cols, tile_rows), |x| x, floats),
            }
        }
        Ok(())
    }

    /// Multiplies the packed activations with all matrices of one kind at once.
    fn multiply_each(&mut self, kind: Kind, products: &mut [Product<'_, Self>], batch: Batch) {
        for products in products.chunks_mut(AT_ONCE_MAX) {
            let Some(Product { matrix, .. }) = products.first() else { return };
            let (mut matrices, mut count) = ([*matrix; AT_ONCE_MAX], 0);
            let mut grids = [(); AT_ONCE_MAX].map(|()| Grid::new(&mut [], 0));
            for Product { matrix, out } in products.iter_mut() {
                if Kind::of(matrix.format()) == kind {
                    let out = &mut out.as_mut_slice()[..batch.rows * matrix.rows];
                    matrices[count] = *matrix;
                    grids[count] = Grid::new(out, matrix.rows);
                    count += 1;
                }
            }
            let x = match kind {
                Kind::Floats | Kind::Rounded => Activations::Floats(&self.floats),
                Kind::Blocks => Activations::Blocks(&self.blocks),
            };
            let outputs = (&matrices[..count], &mut grids[..count]);
            with_simd!(self.proof, simd => multiply(simd, &mut self.pool, x, batch, outputs));
        }
    }
}

/// The first `len` elements, or what is wrong.
fn part<'a>(
    op: &'static str,
    what: &'static str,
    buffer: &'a CpuBuffer,
    len: usize,
) -> Result<&'a [f32], BackendError> {
    let have = buffer.len;
    buffer.as_slice().get(..len).ok_or(BackendError::Shape { op, what, need: len, have })
}

/// As [`part`], to write.
fn part_mut<'a>(
    op: &'static str,
    what: &'static str,
    buffer: &'a mut CpuBuffer,
    len: usize,
) -> Result<&'a mut [f32], BackendError> {
    let have = buffer.len;
    buffer.as_mut_slice().get_mut(..len).ok_or(BackendError::Shape { op, what, need: len, have })
}

impl Backend for Cpu {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;
    type KvCache = CpuKvCache;

    fn describe(&self) -> String {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu {} {threads} thread{plural}", self.isa())
    }

    fn activations(&self, weights: Format) -> Format {
        partner(weights)
    }

    fn buffer(&mut self, len: usize) -> Result<CpuBuffer, BackendError> {
        CpuBuffer::new(len)
    }

    fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<CpuMatrix, BackendError> {
        CpuMatrix::new(format, (rows, cols), bytes, &mut self.weights)
    }

    fn kv_cache(&mut self, shape: KvShape) -> Result<CpuKvCache, BackendError> {
        CpuKvCache::new(shape)
    }

    fn reserve(&mut self, limits: StepLimits) -> Result<(), BackendError> {
        let rows = limits.rows.div_ceil(LANES).saturating_mul(LANES);
        let len = area(rows, limits.cols);
        self.floats = reserved(len)?;
        self.floats.resize(len, 0.0);
        let len = area(rows, limits.cols / 32);
        self.blocks = reserved(len)?;
        self.blocks.resize(len, ActivationBlock::default());
        self.rotations.reserve(limits.rows, kv::HEAD_DIM_MAX / 2);
        Ok(())
    }

    fn write(
        &mut self,
        buffer: &mut CpuBuffer,
        at: usize,
        values: &[f32],
    ) -> Result<(), BackendError> {
        let end = at.saturating_add(values.len());
        part_mut("write", "buffer", buffer, end)?[at..].copy_from_slice(values);
        Ok(())
    }

    fn read(&mut self, buffer: &CpuBuffer, at: usize, out: &mut [f32]) -> Result<(), BackendError> {
        let end = at.saturating_add(out.len());
        out.copy_from_slice(&part("read", "buffer", buffer, end)?[at..]);
        Ok(())
    }

    fn host<'a>(&mut self, buffer: &'a mut CpuBuffer) -> Option<&'a mut [f32]> {
        Some(buffer.as_mut_slice())
    }

    fn embed(
        &mut self,
        table: &CpuMatrix,
        ids: &[u32],
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_ids("embed", "token id", ids, table.rows)?;
        let out = part_mut("embed", "out", out, area(ids.len(), table.cols))?;
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(table.cols)) {
            table.row(*id as usize, out);
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &CpuBuffer,
        weight: &CpuBuffer,
        eps: f32,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let len = area(rows, weight.len);
        let x = part("rms_norm", "x", x, len)?;
        let out = part_mut("rms_norm", "out", out, len)?;
        if len > 0 {
            let weight = (weight.as_slice(), eps);
            with_simd!(self.proof, simd => rows::rms_norm(simd, &mut self.pool, x, weight, out));
        }
        Ok(())
    }

    fn matmul(
        &mut self,
        x: &CpuBuffer,
        rows: usize,
        products: &mut [Product<'_, Self>],
    ) -> Result<(), BackendError> {
        let Some(first) = products.first() else { return Ok(()) };
        let cols = first.matrix.cols;
        let x = part("matmul", "x", x, area(rows, cols))?;
        for Product { matrix, out } in products.iter() {
            if matrix.cols != cols {
                let (op, what, have) = ("matmul", "columns", matrix.cols);
                return Err(BackendError::Shape { op, what, need: cols, have });
            }
            part("matmul", "out", out, area(rows, matrix.rows))?;
        }
        if rows == 0 {
            return Ok(());
        }
        let batch = Batch { rows, cols, tile_rows: tile_rows(rows, self.proof.tile_rows()) };
        for kind in Kind::ALL {
            if products.iter().any(|product| Kind::of(product.matrix.format()) == kind) {
                self.prepare(kind, x, batch)?;
                self.multiply_each(kind, products, batch);
            }
        }
        Ok(())
    }

    fn rope(
        &mut self,
        x: &mut CpuBuffer,
        positions: &[u32],
        frequencies: &CpuBuffer,
        shape: RopeShape,
    ) -> Result<(), BackendError> {
        let (pairs, most) = (frequencies.len, shape.head_dim / 2);
        if pairs > most {
            let what = "frequencies";
            return Err(BackendError::Shape { op: "rope", what, need: most, have: pairs });
        }
        let len = area(positions.len(), area(shape.heads, shape.head_dim));
        let x = part_mut("rope", "x", x, len)?;
        if len > 0 {
            let turns = (positions, frequencies.as_slice());
            rows::rope(&mut self.pool, &mut self.rotations, x, turns, shape);
        }
        Ok(())
    }

    fn kv_store(
        &mut self,
        kv: &mut CpuKvCache,
        layer: usize,
        slots: &[u32],
        k: &CpuBuffer,
        v: &CpuBuffer,
    ) -> Result<(), BackendError> {
        let shape = kv.shape;
        check_layer("kv_store", layer, &shape)?;
        check_ids("kv_store", "slot", slots, area(shape.blocks, shape.block_tokens))?;
        let width = shape.kv_heads * shape.head_dim;
        let k = part("kv_store", "k", k, area(slots.len(), width))?;
        let v = part("kv_store", "v", v, area(slots.len(), width))?;
        let pool = &mut self.pool;
        let tokens = Tokens { layer, slots, keys: k, values: v };
        match &mut kv.store {
            Store::F16(pages) => pages.put(pool, &shape, &tokens),
            Store::F32(pages) => pages.put(pool, &shape, &tokens),
            Store::Q8(pages) => pages.put(pool, &shape, &tokens),
        }
        Ok(())
    }

    fn attention(
        &mut self,
        kv: &CpuKvCache,
        call: &Attention<'_>,
        q: &CpuBuffer,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let rows = check_spans(call, &kv.shape)?;
        let len = area(rows, call.heads * kv.shape.head_dim);
        let q = part("attention", "q", q, len)?;
        let out = part_mut("attention", "out", out, len)?;
        with_simd!(self.proof, simd => {
            let memory = (q, out, &mut self.floats);
            attention::attention(simd, &mut self.pool, kv, call, memory);
        });
        Ok(())
    }

    fn gated(
        &mut self,
        curve: Curve,
        gate: &CpuBuffer,
        up: &CpuBuffer,
        len: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let gate = part("gated", "gate", gate, len)?;
        let up = part("gated", "up", up, len)?;
        let out = part_mut("gated", "out", out, len)?;
        if len > 0 {
            let x = (gate, up);
            with_simd!(self.proof, simd => rows::gated(simd, &mut self.pool, curve, x, out));
        }
        Ok(())
    }

    fn soft_cap(&mut self, x: &mut CpuBuffer, cap: f32, len: usize) -> Result<(), BackendError> {
        let x = part_mut("soft_cap", "x", x, len)?;
        if len > 0 {
            with_simd!(self.proof, simd => variants::soft_cap(simd, &mut self.pool, x, cap));
        }
        Ok(())
    }

    fn scale(&mut self, x: &mut CpuBuffer, by: f32, len: usize) -> Result<(), BackendError> {
        let x = part_mut("scale", "x", x, len)?;
        if len > 0 {
            variants::scale(&mut self.pool, x, by);
        }
        Ok(())
    }

    fn add_bias(
        &mut self,
        x: &mut CpuBuffer,
        bias: &CpuBuffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        let len = area(rows, bias.len);
        let x = part_mut("add_bias", "x", x, len)?;
        if len > 0 {
            variants::add_bias(&mut self.pool, x, bias.as_slice());
        }
        Ok(())
    }

    fn add(&mut self, x: &mut CpuBuffer, y: &CpuBuffer, len: usize) -> Result<(), BackendError> {
        let x = part_mut("add", "x", x, len)?;
        let y = part("add", "y", y, len)?;
        if len > 0 {
            rows::add(&mut self.pool, x, y);
        }
        Ok(())
    }

    fn add_rows(
        &mut self,
        x: &mut CpuBuffer,
        cols: usize,
        rows: &[u32],
        factors: &[f32],
        y: &CpuBuffer,
    ) -> Result<(), BackendError> {
        let op = "add_rows";
        if factors.len() != rows.len() {
            let (what, need, have) = ("factors", rows.len(), factors.len());
            return Err(BackendError::Shape { op, what, need, have });
        }
        let y = part(op, "y", y, area(rows.len(), cols))?;
        if cols == 0 {
            return Ok(());
        }
        check_ids(op, "row", rows, x.len / cols)?;
        variants::add_rows(x.as_mut_slice(), cols, (rows, factors), y);
        Ok(())
    }

    fn gather_rows(
        &mut self,
        x: &CpuBuffer,
        cols: usize,
        rows: &[u32],
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let out = part_mut("gather_rows", "out", out, area(rows.len(), cols))?;
        if cols == 0 {
            return Ok(());
        }
        check_ids("gather_rows", "row", rows, x.len / cols)?;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
            out.copy_from_slice(&x.as_slice()[*row as usize * cols..][..cols]);
        }
        Ok(())
    }

    fn layer_norm(
        &mut self,
        x: &CpuBuffer,
        [weight, bias]: [&CpuBuffer; 2],
        eps: f32,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (op, need) = ("layer_norm", weight.len);
        if bias.len != need {
            return Err(BackendError::Shape { op, what: "bias", need, have: bias.len });
        }
        let x = part(op, "x", x, area(rows, need))?;
        let out = part_mut(op, "out", out, area(rows, need))?;
        if !out.is_empty() {
            let norm = encoding::Norm { weight: weight.as_slice(), bias: bias.as_slice(), eps };
            with_simd!(self.proof, simd => encoding::layer_norm(simd, &mut self.pool, x, norm, out));
        }
        Ok(())
    }

    fn gelu(&mut self, x: &mut CpuBuffer, len: usize) -> Result<(), BackendError> {
        let x = part_mut("gelu", "x", x, len)?;
        if len > 0 {
            with_simd!(self.proof, simd => encoding::gelu(simd, &mut self.pool, x));
        }
        Ok(())
    }
}
