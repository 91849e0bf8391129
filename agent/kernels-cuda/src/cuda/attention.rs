//! Attention over a batch.

use realm_kernels::{
    backend::{Attention, BackendError, Reach},
    checks::{area, check_spans},
};

use super::{BATCH_WORDS_MAX, Cuda, CudaBuffer, CudaKvCache, PARTS_MAX, size};
use crate::{
    device::{Grid, Param},
    spans::{Plan, Room},
};

/// Threads of a block of attention.
const THREADS: u32 = 128;

impl Cuda {
    pub(super) fn attend(
        &mut self,
        kv: &CudaKvCache,
        call: &Attention<'_>,
        q: &CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let (op, rows) = ("attention", check_spans(call, &kv.shape)?);
        let len = area(rows, area(call.heads, kv.shape.head_dim));
        let (q, out) = (q.at(op, "q", len)?, out.at(op, "out", len)?);
        let processors = self.device.facts.processors;
        let room = Room { processors, parts: PARTS_MAX, words: BATCH_WORDS_MAX };
        self.plan.make(call, &kv.shape, room)?;
        let Plan { words, items, splits, .. } = &self.plan;
        if *items == 0 {
            return Ok(());
        }
        self.lists.batch.put((&self.device, &self.rows.put_words), op, words)?;
        let param = call_param(call, &self.plan, self.lists.batch.address(), kv.shape.kv_heads);
        let (cache, parts) = (kv.param(call.layer), self.parts.address());
        let kv_heads = size(kv.shape.kv_heads);
        let grid = Grid { blocks: (*items, kv_heads, *splits), threads: THREADS };
        let params: [&dyn Param; 5] = [&cache, &param, &q, &out, &parts];
        // SAFETY: the plan has the lines of the call's spans and no others; rows of q and out, blocks
        // of each span and the layer were checked, and so was the room for parts when it was made.
        unsafe { self.device.launch(op, &kv.kernels.attention, grid, &params) }?;
        if *splits == 1 {
            return Ok(());
        }
        let grid = Grid { blocks: (*items, kv_heads, 1), threads: THREADS };
        // SAFETY: as above; the parts were written by the kernel before.
        unsafe { self.device.launch(op, &kv.kernels.merge, grid, &[&cache, &param, &parts, &out]) }
    }
}

/// `Call` in attention.cu.
fn call_param(call: &Attention<'_>, plan: &Plan, words_at: u64, kv_heads: usize) -> [u64; 6] {
    let at = |word: usize| words_at + (word * size_of::<u32>()) as u64;
    let both = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    let window = call.window.map_or(0, size);
    let reach = u32::from(call.reach == Reach::Both);
    let cap = call.soft_cap.unwrap_or(0.0);
    [
        at(0),
        at(plan.items_at),
        at(plan.tables_at),
        both(size(call.heads / kv_heads), reach),
        both(window, plan.splits),
        both(call.scale.to_bits(), cap.to_bits()),
    ]
}
