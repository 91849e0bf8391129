//! What the device could do at best, measured: figures are shares of these.

#![expect(unsafe_code, reason = "kernels are started")]

use realm_kernels::backend::{Backend, BackendError};

use super::{Cuda, CudaBuffer, kernels::CeilingKernels, size};
use crate::{
    device::{Grid, Kernel},
    program::Program,
};

/// Bytes of a copy: twenty times what the largest cache holds.
const COPY_BYTES: usize = 1 << 30;
/// Runs of which the middle one counts.
const RUNS: usize = 21;
/// ROUNDS and APART in ceiling.cu, and the warps of its blocks.
const PRODUCTS: usize = 256 * 8 * 8;
/// Blocks for each multiprocessor.
const BLOCKS: usize = 8;

/// Rates of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Of a copy in the device's memory: bytes read and bytes written a second.
    pub copy_bytes: f64,
    /// Multiplies and adds of bytes a second.
    pub s8_ops: f64,
    pub f16_ops: f64,
    pub bf16_ops: f64,
}

impl Cuda {
    /// Measures the device.
    pub fn ceilings(&mut self) -> Result<Ceilings, BackendError> {
        let len = COPY_BYTES / size_of::<f32>();
        let (from, mut to) = (self.buffer(len)?, self.buffer(len)?);
        let copy = self.median(|cuda| cuda.copy(&from, &mut to, len))?;
        drop((from, to));
        let kernels = CeilingKernels::of(&self.module(Program::Ceiling)?)?;
        let blocks = self.facts().processors * BLOCKS;
        let mut out = self.buffer(blocks * 256)?;
        // m16n8k32 of bytes, m16n8k16 of halves.
        let mut rate = |kernel, ops| self.products_rate(kernel, &mut out, (blocks * PRODUCTS, ops));
        Ok(Ceilings {
            copy_bytes: 2.0 * COPY_BYTES as f64 / copy * 1e9,
            s8_ops: rate(&kernels.s8, 2 * 16 * 8 * 32)?,
            f16_ops: rate(&kernels.f16, 2 * 16 * 8 * 16)?,
            bf16_ops: rate(&kernels.bf16, 2 * 16 * 8 * 16)?,
        })
    }

    fn products_rate(
        &mut self,
        kernel: &Kernel,
        out: &mut CudaBuffer,
        (products, ops): (usize, usize),
    ) -> Result<f64, BackendError> {
        let at = out.memory.address();
        let blocks = size(self.facts().processors * BLOCKS);
        let grid = Grid { blocks: (blocks, 1, 1), threads: 256 };
        let elapsed = self.median(|cuda| {
            // SAFETY: each thread writes one word of `out`, which has one for each.
            unsafe { cuda.device.launch("ceiling", kernel, grid, &[&at]) }
        })?;
        Ok(products as f64 * ops as f64 / elapsed * 1e9)
    }

    /// The middle of several runs, in nanoseconds, after one that is not counted.
    pub fn median(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<f64, BackendError> {
        self.timed(&mut work)?;
        let mut all = [0.0; RUNS];
        for one in &mut all {
            *one = self.timed(&mut work)?;
        }
        all.sort_by(f64::total_cmp);
        Ok(all[RUNS / 2])
    }
}
