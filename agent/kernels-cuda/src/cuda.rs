//! The operations of a backend, each checked before anything is started on the device.
//!
//! [`kernels`] (what was compiled, by its names), [`matrix`] and [`kv`] (weights and caches on the
//! device), [`matmul`], [`attention`]. Nothing here waits for the device but reading and writing: an
//! operation only puts kernels into the stream.

#![expect(unsafe_code, reason = "kernels are started")]

mod attention;
mod ceiling;
mod kernels;
mod kv;
mod matmul;
mod matrix;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use realm_kernels::{
    backend::{
        Attention, Backend, BackendError, Curve, KvShape, KvType, Product, RopeShape, RopeStyle,
        StepLimits,
    },
    checks::{area, check_ids},
    format::Format,
};

use crate::{
    OpenError,
    cache::Cache,
    device::{Device, Facts, Grid, Kernel, Memory, Module, Param},
    layout::RUN,
    list::List,
    nvrtc::Compiler,
    program::Program,
    spans::Plan,
};
use kernels::{AttentionKernels, RowKernels, WeightKernels};
use matmul::Scratch;

pub use ceiling::Ceilings;
pub use kv::CudaKvCache;
pub use matrix::CudaMatrix;

/// Ids, positions, slots or rows of one call: far more than a step has rows.
const LIST_WORDS_MAX: usize = 1 << 16;
/// Spans, items and block tables of one call: 64 sequences of 8192 blocks, and as much again.
const BATCH_WORDS_MAX: usize = 1 << 20;
/// Floats for parts of attention or of a product: 16 MiB, for four parts of 256 rows of 4096 outputs.
const PARTS_MAX: usize = 4 << 20;
/// Threads of a block where each element is for itself.
const THREADS: u32 = 256;
/// Threads of a block at most.
const THREADS_MAX: usize = 1024;

/// Which device to open, and where its kernels come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The number of the GPU among those that the process sees.
    pub ordinal: usize,
    /// NVRTC's library; `None` looks for the newest that is installed.
    pub nvrtc: Option<PathBuf>,
    /// Where compiled kernels are kept; `None` compiles them at each start.
    pub cache: Option<PathBuf>,
}

/// A GPU as a device.
pub struct Cuda {
    device: Arc<Device>,
    compiler: Compiler,
    cache: Cache,
    rows: RowKernels,
    weights: HashMap<Format, Arc<WeightKernels>>,
    attention: HashMap<(usize, KvType), Arc<AttentionKernels>>,
    lists: Lists,
    plan: Plan,
    /// What blocks that share an item of attention, or the columns of a product, have made of it.
    parts: Memory,
    scratch: Option<Scratch>,
}

/// What the host tells kernels, one list for each use, so that what stays the same stays there.
struct Lists {
    ids: List,
    positions: List,
    slots: List,
    rows: List,
    factors: List,
    batch: List,
}

/// f32 activations on the device.
pub struct CudaBuffer {
    memory: Memory,
    len: usize,
}

impl Cuda {
    /// Opens a GPU and compiles what every model needs; the rest is compiled while a model is loaded.
    pub fn open(options: &OpenOptions) -> Result<Self, OpenError> {
        let device = Arc::new(Device::open(options.ordinal)?);
        let compiler = Compiler::load(options.nvrtc.as_deref())?;
        let cache = Cache::new(options.cache.clone());
        let capability = device.facts.capability;
        let code =
            Program::Rows.code((&compiler, &cache), capability).map_err(OpenError::Compile)?;
        let module = device.load(&code).map_err(OpenError::Allocate)?;
        let list = |words| List::new(&device, words).map_err(OpenError::Allocate);
        let lists = Lists {
            ids: list(LIST_WORDS_MAX)?,
            positions: list(LIST_WORDS_MAX)?,
            slots: list(LIST_WORDS_MAX)?,
            rows: list(LIST_WORDS_MAX)?,
            factors: list(LIST_WORDS_MAX)?,
            batch: list(BATCH_WORDS_MAX)?,
        };
        let parts = device.allocate(PARTS_MAX * size_of::<f32>()).map_err(OpenError::Allocate)?;
        Ok(Self {
            rows: RowKernels::of(&module).map_err(OpenError::Allocate)?,
            device,
            compiler,
            cache,
            weights: HashMap::new(),
            attention: HashMap::new(),
            lists,
            plan: Plan::with_capacity(BATCH_WORDS_MAX),
            parts,
            scratch: None,
        })
    }

    /// What the device says of itself.
    pub fn facts(&self) -> &Facts {
        &self.device.facts
    }

    /// The nanoseconds that the device spends on what `work` asks of it, after all before.
    pub fn timed(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), BackendError>,
    ) -> Result<f64, BackendError> {
        let device = Arc::clone(&self.device);
        device.timed(|| work(self))
    }

    /// Copies the first `len` floats of one buffer to another: what memory can do at best.
    pub fn copy(
        &mut self,
        from: &CudaBuffer,
        to: &mut CudaBuffer,
        len: usize,
    ) -> Result<(), BackendError> {
        self.device.copy(&from.memory, &to.memory, len.saturating_mul(size_of::<f32>()))
    }

    /// The machine code of a program, on the device.
    fn module(&self, program: Program) -> Result<Arc<Module>, BackendError> {
        let capability = self.device.facts.capability;
        let code = program.code((&self.compiler, &self.cache), capability);
        let code = code.map_err(|error| BackendError::Device {
            op: "compile kernels",
            error: error.to_string(),
        })?;
        self.device.load(&code)
    }

    /// Does one of the operations that look at each element for itself.
    ///
    /// # Safety
    /// As for [`Device::launch`]; the kernel looks at no more than `len` elements.
    unsafe fn each(
        device: &Device,
        (op, kernel): (&'static str, &Kernel),
        len: usize,
        params: &[&dyn Param],
    ) -> Result<(), BackendError> {
        if len == 0 {
            return Ok(());
        }
        // Enough to fill the device; each thread goes on until nothing is left.
        let most = device.facts.processors * 16;
        let blocks = size(len.div_ceil(THREADS as usize).min(most));
        let grid = Grid { blocks: (blocks, 1, 1), threads: THREADS };
        // SAFETY: the caller's.
        unsafe { device.launch(op, kernel, grid, params) }
    }
}

/// Numbers that were checked to fit, as kernels have them.
fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A number of rows, columns or heads that a kernel counts in 32 bits.
fn counted(op: &'static str, what: &'static str, n: usize) -> Result<u32, BackendError> {
    let need = u32::MAX as usize;
    u32::try_from(n).map_err(|_| BackendError::Shape { op, what, need, have: n })
}

/// A block for each of `rows`, with threads for a row of `cols`.
fn by_row(rows: usize, cols: usize) -> Grid {
    let threads = (cols / 4).next_multiple_of(32).clamp(32, THREADS_MAX);
    Grid { blocks: (size(rows), 1, 1), threads: size(threads) }
}

impl CudaBuffer {
    /// Where it begins, where it has at least `need` elements.
    fn at(&self, op: &'static str, what: &'static str, need: usize) -> Result<u64, BackendError> {
        let have = self.len;
        if need > have {
            return Err(BackendError::Shape { op, what, need, have });
        }
        Ok(self.memory.address())
    }
}

impl Backend for Cuda {
    type Buffer = CudaBuffer;
    type Matrix = CudaMatrix;
    type KvCache = CudaKvCache;

    fn describe(&self) -> String {
        let Facts { name, capability: (major, minor), .. } = &self.device.facts;
        format!("cuda {name} sm_{major}{minor}")
    }

    fn activations(&self, weights: Format) -> Format {
        match weights {
            Format::F32 | Format::F16 => Format::F32,
            Format::BF16 => Format::BF16,
            // As the CPU rounds them, so that answers do not depend on the device.
            Format::Q4_1 | Format::Q5_1 => Format::Q8_1,
            _ => Format::Q8_0,
        }
    }

    fn buffer(&mut self, len: usize) -> Result<CudaBuffer, BackendError> {
        let memory = self.device.allocate(len.saturating_mul(size_of::<f32>()))?;
        Ok(CudaBuffer { memory, len })
    }

    fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<CudaMatrix, BackendError> {
        matrix::check(format, rows, cols, bytes)?;
        let kernels = if let Some(kernels) = self.weights.get(&format) {
            Arc::clone(kernels)
        } else {
            let module = self.module(Program::Weights(format))?;
            let kernels = Arc::new(WeightKernels::of(&module, format)?);
            self.weights.insert(format, Arc::clone(&kernels));
            kernels
        };
        CudaMatrix::new(&self.device, kernels, (format, rows, cols), bytes)
    }

    fn kv_cache(&mut self, shape: KvShape) -> Result<CudaKvCache, BackendError> {
        kv::check(&shape)?;
        let (head_dim, kv_type) = (shape.head_dim, shape.kv_type);
        let kernels = if let Some(kernels) = self.attention.get(&(head_dim, kv_type)) {
            Arc::clone(kernels)
        } else {
            let module = self.module(Program::Attention { head_dim, kv_type })?;
            let kernels = Arc::new(AttentionKernels::of(&module)?);
            self.attention.insert((head_dim, kv_type), Arc::clone(&kernels));
            kernels
        };
        CudaKvCache::new(&self.device, kernels, shape)
    }

    fn reserve(&mut self, limits: StepLimits) -> Result<(), BackendError> {
        self.scratch = None;
        self.scratch = Some(Scratch::new(&self.device, limits)?);
        Ok(())
    }

    fn write(
        &mut self,
        buffer: &mut CudaBuffer,
        at: usize,
        values: &[f32],
    ) -> Result<(), BackendError> {
        buffer.at("write", "buffer", at.saturating_add(values.len()))?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.device.write(&buffer.memory, at * size_of::<f32>(), &bytes)
    }

    fn read(
        &mut self,
        buffer: &CudaBuffer,
        at: usize,
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        buffer.at("read", "buffer", at.saturating_add(out.len()))?;
        self.device.read(&buffer.memory, at * size_of::<f32>(), out)
    }

    fn host<'a>(&mut self, _: &'a mut CudaBuffer) -> Option<&'a mut [f32]> {
        None
    }

    fn embed(
        &mut self,
        table: &CudaMatrix,
        ids: &[u32],
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let op = "embed";
        check_ids(op, "token id", ids, table.rows)?;
        let out = out.at(op, "out", area(ids.len(), table.cols))?;
        if ids.is_empty() {
            return Ok(());
        }
        self.lists.ids.put((&self.device, &self.rows.put_words), op, ids)?;
        let (ids_at, grid) =
            (self.lists.ids.address(), Grid { blocks: (size(ids.len()), 1, 1), threads: THREADS });
        let (cols, stride, runs) = (size(table.cols), size(table.stride), size(table.cols / RUN));
        let kernel = &table.kernels.embed;
        // SAFETY: the kernel reads rows `ids` of the table, which were checked to be there, and writes
        // as many rows of `out`.
        unsafe {
            if table.format.is_float() {
                let params: [&dyn Param; 5] = [&table.planes[0], &ids_at, &out, &cols, &stride];
                self.device.launch(op, kernel, grid, &params)
            } else {
                self.device.launch(op, kernel, grid, &[&table.planes, &ids_at, &out, &runs])
            }
        }
    }

    fn rms_norm(
        &mut self,
        x: &CudaBuffer,
        weight: &CudaBuffer,
        eps: f32,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let (op, len) = ("rms_norm", area(rows, weight.len));
        let (x, out) = (x.at(op, "x", len)?, out.at(op, "out", len)?);
        let cols = counted(op, "columns", weight.len)?;
        if len == 0 {
            return Ok(());
        }
        let weight_at = weight.memory.address();
        let grid = by_row(counted(op, "rows", rows)? as usize, weight.len);
        // SAFETY: rows of `cols` of x and out, and one of weight, which were checked to be there.
        unsafe {
            self.device.launch(op, &self.rows.rms_norm, grid, &[&x, &weight_at, &out, &cols, &eps])
        }
    }

    fn matmul(
        &mut self,
        x: &CudaBuffer,
        rows: usize,
        products: &mut [Product<'_, Self>],
    ) -> Result<(), BackendError> {
        self.products(x, rows, products)
    }

    fn rope(
        &mut self,
        x: &mut CudaBuffer,
        positions: &[u32],
        frequencies: &CudaBuffer,
        shape: RopeShape,
    ) -> Result<(), BackendError> {
        let (op, pairs, need) = ("rope", frequencies.len, shape.head_dim / 2);
        if pairs > need {
            return Err(BackendError::Shape { op, what: "frequencies", need, have: pairs });
        }
        let len = area(positions.len(), area(shape.heads, shape.head_dim));
        let x = x.at(op, "x", len)?;
        if len == 0 || pairs == 0 {
            return Ok(());
        }
        self.lists.positions.put((&self.device, &self.rows.put_words), op, positions)?;
        let (positions_at, frequencies) =
            (self.lists.positions.address(), frequencies.memory.address());
        let [heads, head_dim, pairs] = [
            counted(op, "heads", shape.heads)?,
            counted(op, "head_dim", shape.head_dim)?,
            size(pairs),
        ];
        let (apart, step) = match shape.style {
            RopeStyle::Norm => (1_u32, 2_u32),
            RopeStyle::Neox => (pairs, 1),
        };
        let threads = pairs.next_multiple_of(32).min(THREADS);
        let grid = Grid { blocks: (size(positions.len()), 1, 1), threads };
        let params: [&dyn Param; 9] = [
            &x,
            &positions_at,
            &frequencies,
            &pairs,
            &heads,
            &head_dim,
            &apart,
            &step,
            &shape.magnitude,
        ];
        // SAFETY: pairs of heads of rows of x, which was checked to have them; there are as many
        // positions as rows.
        unsafe { self.device.launch(op, &self.rows.rope, grid, &params) }
    }

    fn kv_store(
        &mut self,
        kv: &mut CudaKvCache,
        layer: usize,
        slots: &[u32],
        k: &CudaBuffer,
        v: &CudaBuffer,
    ) -> Result<(), BackendError> {
        self.store(kv, (layer, slots), k, v)
    }

    fn attention(
        &mut self,
        kv: &CudaKvCache,
        call: &Attention<'_>,
        q: &CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        self.attend(kv, call, q, out)
    }

    fn gated(
        &mut self,
        curve: Curve,
        gate: &CudaBuffer,
        up: &CudaBuffer,
        len: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let op = "gated";
        let (gate, up) = (gate.at(op, "gate", len)?, up.at(op, "up", len)?);
        let (out, len_64) = (out.at(op, "out", len)?, len as u64);
        let kernel = match curve {
            Curve::Silu => &self.rows.gated_silu,
            Curve::Gelu => &self.rows.gated_gelu,
        };
        // SAFETY: all three were checked to have `len` elements.
        unsafe { Self::each(&self.device, (op, kernel), len, &[&gate, &up, &out, &len_64]) }
    }

    fn soft_cap(&mut self, x: &mut CudaBuffer, cap: f32, len: usize) -> Result<(), BackendError> {
        let (op, len_64) = ("soft_cap", len as u64);
        let x = x.at(op, "x", len)?;
        // SAFETY: x was checked to have `len` elements.
        unsafe { Self::each(&self.device, (op, &self.rows.soft_cap), len, &[&x, &cap, &len_64]) }
    }

    fn scale(&mut self, x: &mut CudaBuffer, by: f32, len: usize) -> Result<(), BackendError> {
        let (op, len_64) = ("scale", len as u64);
        let x = x.at(op, "x", len)?;
        // SAFETY: x was checked to have `len` elements.
        unsafe { Self::each(&self.device, (op, &self.rows.scale), len, &[&x, &by, &len_64]) }
    }

    fn add_bias(
        &mut self,
        x: &mut CudaBuffer,
        bias: &CudaBuffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        let (op, len) = ("add_bias", area(rows, bias.len));
        let (x, bias_at) = (x.at(op, "x", len)?, bias.memory.address());
        let (cols, len_64) = (counted(op, "columns", bias.len)?, len as u64);
        let params: [&dyn Param; 4] = [&x, &bias_at, &cols, &len_64];
        // SAFETY: x was checked to have `len` elements, whole rows as long as the bias.
        unsafe { Self::each(&self.device, (op, &self.rows.add_bias), len, &params) }
    }

    fn add(&mut self, x: &mut CudaBuffer, y: &CudaBuffer, len: usize) -> Result<(), BackendError> {
        let (op, len_64) = ("add", len as u64);
        let (x, y) = (x.at(op, "x", len)?, y.at(op, "y", len)?);
        // SAFETY: both were checked to have `len` elements.
        unsafe { Self::each(&self.device, (op, &self.rows.add), len, &[&x, &y, &len_64]) }
    }

    fn add_rows(
        &mut self,
        x: &mut CudaBuffer,
        cols: usize,
        rows: &[u32],
        factors: &[f32],
        y: &CudaBuffer,
    ) -> Result<(), BackendError> {
        let op = "add_rows";
        if factors.len() != rows.len() {
            let (what, need, have) = ("factors", rows.len(), factors.len());
            return Err(BackendError::Shape { op, what, need, have });
        }
        let y = y.at(op, "y", area(rows.len(), cols))?;
        if cols == 0 || rows.is_empty() {
            return Ok(());
        }
        check_ids(op, "row", rows, x.len / cols)?;
        let (x, cols_32) = (x.memory.address(), counted(op, "columns", cols)?);
        let put = (&*self.device, &self.rows.put_words);
        self.lists.rows.put(put, op, rows)?;
        self.lists.factors.put_floats(put, op, factors)?;
        let (rows_at, factors_at) = (self.lists.rows.address(), self.lists.factors.address());
        let params: [&dyn Param; 5] = [&x, &y, &rows_at, &factors_at, &cols_32];
        // SAFETY: rows of x and of y, which were checked to be there.
        unsafe { self.device.launch(op, &self.rows.add_rows, by_row(rows.len(), cols), &params) }
    }

    fn gather_rows(
        &mut self,
        x: &CudaBuffer,
        cols: usize,
        rows: &[u32],
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let op = "gather_rows";
        let out = out.at(op, "out", area(rows.len(), cols))?;
        if cols == 0 || rows.is_empty() {
            return Ok(());
        }
        check_ids(op, "row", rows, x.len / cols)?;
        let (x, cols_32) = (x.memory.address(), counted(op, "columns", cols)?);
        self.lists.rows.put((&self.device, &self.rows.put_words), op, rows)?;
        let rows_at = self.lists.rows.address();
        let grid = by_row(rows.len(), cols);
        // SAFETY: rows of x and of out, which were checked to be there.
        unsafe {
            self.device.launch(op, &self.rows.gather_rows, grid, &[&x, &out, &rows_at, &cols_32])
        }
    }

    fn layer_norm(
        &mut self,
        x: &CudaBuffer,
        [weight, bias]: [&CudaBuffer; 2],
        eps: f32,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let (op, need) = ("layer_norm", weight.len);
        if bias.len != need {
            return Err(BackendError::Shape { op, what: "bias", need, have: bias.len });
        }
        let (x, out) = (x.at(op, "x", area(rows, need))?, out.at(op, "out", area(rows, need))?);
        if rows == 0 || need == 0 {
            return Ok(());
        }
        let (weight, bias) = (weight.memory.address(), bias.memory.address());
        let cols = counted(op, "columns", need)?;
        let grid = by_row(counted(op, "rows", rows)? as usize, need);
        let params: [&dyn Param; 6] = [&x, &weight, &bias, &out, &cols, &eps];
        // SAFETY: rows of `cols` of x and out, and one of weight and bias, which were checked to be
        // there.
        unsafe { self.device.launch(op, &self.rows.layer_norm, grid, &params) }
    }

    fn gelu(&mut self, x: &mut CudaBuffer, len: usize) -> Result<(), BackendError> {
        let (op, len_64) = ("gelu", len as u64);
        let x = x.at(op, "x", len)?;
        // SAFETY: x was checked to have `len` elements.
        unsafe { Self::each(&self.device, (op, &self.rows.gelu), len, &[&x, &len_64]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine without a driver this is what `open` says first, on others what it says next.
    #[test]
    fn what_is_missing_is_said_by_its_name() {
        let nvrtc = PathBuf::from("/there/is/no/libnvrtc.so");
        let options = OpenOptions { nvrtc: Some(nvrtc.clone()), ..OpenOptions::default() };
        match Cuda::open(&options).err() {
            Some(OpenError::NoDriver | OpenError::NoDevice { count: 0, .. }) => {}
            Some(OpenError::NoCompiler { tried }) => assert_eq!(tried, [nvrtc]),
            other => panic!("{other:?}"),
        }
        let ordinal = 1000;
        let options = OpenOptions { ordinal, ..options };
        match Cuda::open(&options).err() {
            Some(OpenError::NoDriver) => {}
            Some(OpenError::NoDevice { ordinal, count }) => assert!(ordinal >= count),
            other => panic!("{other:?}"),
        }
    }
}
