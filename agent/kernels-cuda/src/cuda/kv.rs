//! Keys and values on the device.

use std::sync::Arc;

use realm_kernels::{
    backend::{BackendError, KV_GROUP, KvShape, KvType},
    checks::{area, check_ids, check_layer},
};

use super::{Cuda, CudaBuffer, counted, kernels::AttentionKernels, size};
use crate::device::{Device, Grid, Memory};

/// The widest head: of one twice as wide, a thread's registers would not hold its part.
const HEAD_DIM_MAX: usize = 256;
/// What heads are whole multiples of: the dimensions that a thread reads at once.
const HEAD_DIM_STEP: usize = 8;
/// Tokens that every block is a whole number of.
const BLOCK_TOKENS_STEP: usize = 16;
/// Blocks in the second dimension of a grid.
const KV_HEADS_MAX: usize = 65_535;

/// Keys and values of all layers.
pub struct CudaKvCache {
    pub(super) shape: KvShape,
    pub(super) kernels: Arc<AttentionKernels>,
    /// Keys, values, scales of keys, scales of values: `(layer, block, kv head, token)` of `head_dim`
    /// values, or of their scales, one for each 32.
    planes: [Memory; 4],
}

/// That there can be such a cache.
pub(super) fn check(shape: &KvShape) -> Result<(), BackendError> {
    let refused = |what, need, have| Err(BackendError::Shape { op: "kv_cache", what, need, have });
    let KvShape { kv_heads, head_dim, block_tokens, .. } = *shape;
    if block_tokens == 0 || !block_tokens.is_multiple_of(BLOCK_TOKENS_STEP) {
        return refused("tokens in a block", BLOCK_TOKENS_STEP, block_tokens);
    }
    if head_dim == 0 || head_dim > HEAD_DIM_MAX {
        return refused("head_dim", HEAD_DIM_MAX, head_dim);
    }
    if !head_dim.is_multiple_of(HEAD_DIM_STEP) {
        return refused("head_dim, a multiple of eight", HEAD_DIM_STEP, head_dim);
    }
    if kv_heads == 0 || kv_heads > KV_HEADS_MAX {
        return refused("kv heads", KV_HEADS_MAX, kv_heads);
    }
    if shape.bytes().is_none() {
        return Err(BackendError::OutOfMemory { bytes: usize::MAX });
    }
    for (what, n) in [("layers", shape.layers), ("blocks", shape.blocks)] {
        counted("kv_cache", what, n)?;
    }
    counted("kv_cache", "slots", area(shape.blocks, block_tokens))?;
    Ok(())
}

impl CudaKvCache {
    /// Allocates a cache whose shape was checked.
    pub(super) fn new(
        device: &Arc<Device>,
        kernels: Arc<AttentionKernels>,
        shape: KvShape,
    ) -> Result<Self, BackendError> {
        let rows = shape.layers * shape.blocks * shape.kv_heads * shape.block_tokens;
        let (value_bytes, scale_bytes) = match shape.kv_type {
            KvType::F16 => (2, 0),
            KvType::F32 => (4, 0),
            KvType::Q8_0 => (1, shape.head_dim.div_ceil(KV_GROUP) * 2),
        };
        let plane = |bytes: usize| device.allocate(rows.saturating_mul(bytes));
        let values = value_bytes * shape.head_dim;
        let planes = [plane(values)?, plane(values)?, plane(scale_bytes)?, plane(scale_bytes)?];
        Ok(Self { shape, kernels, planes })
    }

    /// `Cache` in attention.cu, for a layer.
    pub(super) fn param(&self, layer: usize) -> [u64; 6] {
        let [keys, values, key_scales, value_scales] = self.planes.each_ref().map(Memory::address);
        let both = |low: usize, high: usize| u64::from(size(low)) | (u64::from(size(high)) << 32);
        let KvShape { kv_heads, blocks, block_tokens, .. } = self.shape;
        let tail = [both(layer, blocks), both(kv_heads, block_tokens)];
        [keys, values, key_scales, value_scales, tail[0], tail[1]]
    }
}

impl Cuda {
    pub(super) fn store(
        &mut self,
        kv: &CudaKvCache,
        (layer, slots): (usize, &[u32]),
        k: &CudaBuffer,
        v: &CudaBuffer,
    ) -> Result<(), BackendError> {
        let (op, shape) = ("kv_store", &kv.shape);
        check_layer(op, layer, shape)?;
        check_ids(op, "slot", slots, area(shape.blocks, shape.block_tokens))?;
        let len = area(slots.len(), area(shape.kv_heads, shape.head_dim));
        let (k, v) = (k.at(op, "k", len)?, v.at(op, "v", len)?);
        if slots.is_empty() {
            return Ok(());
        }
        self.lists.slots.put((&self.device, &self.rows.put_words), op, slots)?;
        let (cache, slots_at) = (kv.param(layer), self.lists.slots.address());
        let threads = size(shape.head_dim.next_multiple_of(KV_GROUP));
        let grid = Grid { blocks: (size(slots.len()), size(shape.kv_heads), 2), threads };
        // SAFETY: heads of rows of k and v, which were checked to be there, go to slots of a layer of
        // the cache, which were checked too.
        unsafe { self.device.launch(op, &kv.kernels.kv_store, grid, &[&cache, &k, &v, &slots_at]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        layers: 2,
        kv_heads: 2,
        head_dim: 64,
        blocks: 8,
        block_tokens: 32,
        kv_type: KvType::F16,
    };

    #[test]
    fn caches_that_kernels_cannot_read_are_refused() {
        assert_eq!(check(&SHAPE), Ok(()));
        let wrong = [
            KvShape { block_tokens: 12, ..SHAPE },
            KvShape { block_tokens: 0, ..SHAPE },
            KvShape { head_dim: 0, ..SHAPE },
            KvShape { head_dim: 12, ..SHAPE },
            KvShape { head_dim: 264, ..SHAPE },
            KvShape { kv_heads: 0, ..SHAPE },
            KvShape { kv_heads: 70_000, ..SHAPE },
            KvShape { blocks: usize::MAX / 2, ..SHAPE },
            KvShape { blocks: 1 << 28, ..SHAPE },
        ];
        for shape in wrong {
            assert!(check(&shape).is_err(), "{shape:?}");
        }
    }
}
