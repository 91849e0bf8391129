//! The paged KV cache as the CPU backend holds it.
//!
//! Keys lie so that a register holds sixteen tokens at one dimension, values so that it holds
//! sixteen dimensions of one token: neither the scores nor the weighted sum of values then needs a
//! sum across lanes.

use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use half::f16;

use super::simd::LANES;
use crate::backend::{BackendError, KvShape, KvType};

/// The widest head; kernels keep one tile of queries and sums of this width on the stack.
pub(crate) const HEAD_DIM_MAX: usize = 256;

/// Keys and values of all layers.
pub struct CpuKvCache {
    pub(crate) shape: KvShape,
    pub(crate) store: Store,
}

pub(crate) enum Store {
    F16(Pages<f16>),
    F32(Pages<f32>),
}

/// `keys`: `(layer, block, kv head, sixteen tokens, head_dim)` of sixteen tokens each.
/// `values`: `(layer, block, kv head, token, head_dim / 16)` of sixteen dimensions each.
pub(crate) struct Pages<T> {
    pub(crate) keys: Vec<[T; LANES]>,
    pub(crate) values: Vec<[T; LANES]>,
}

impl CpuKvCache {
    pub(crate) fn new(shape: KvShape) -> Result<Self, BackendError> {
        let refused = |what, need, have| BackendError::Shape { op: "kv_cache", what, need, have };
        if !shape.block_tokens.is_multiple_of(LANES) || shape.block_tokens == 0 {
            return Err(refused("tokens in a block", LANES, shape.block_tokens));
        }
        if shape.head_dim > HEAD_DIM_MAX || shape.head_dim == 0 {
            return Err(refused("head_dim", HEAD_DIM_MAX, shape.head_dim));
        }
        if shape.kv_heads == 0 {
            return Err(refused("kv heads", 1, 0));
        }
        if shape.bytes().is_none() {
            return Err(BackendError::OutOfMemory { bytes: usize::MAX });
        }
        let store = match shape.kv_type {
            KvType::F16 => Store::F16(Pages::new(&shape)?),
            KvType::F32 => Store::F32(Pages::new(&shape)?),
        };
        Ok(Self { shape, store })
    }
}

/// Where one KV head of one block lies: so many rows of sixteen elements from a start.
#[derive(Clone, Copy)]
pub(crate) struct HeadPage {
    pub(crate) layer: usize,
    pub(crate) block: usize,
    pub(crate) head: usize,
}

impl HeadPage {
    /// Head pages before this one.
    pub(crate) fn index(self, shape: &KvShape) -> usize {
        (self.layer * shape.blocks + self.block) * shape.kv_heads + self.head
    }
}

/// Rows of sixteen elements that one head of one block takes.
pub(crate) fn key_lines(shape: &KvShape) -> usize {
    shape.block_tokens / LANES * shape.head_dim
}

/// As [`key_lines`]; the last line of a token may be partly unused.
pub(crate) fn value_lines(shape: &KvShape) -> usize {
    shape.block_tokens * shape.head_dim.div_ceil(LANES)
}

impl<T: Copy + Zeroable> Pages<T> {
    /// Zeroes that take no memory before they are written: a cache is large, and most of it lies
    /// idle where few sequences run.
    fn new(shape: &KvShape) -> Result<Self, BackendError> {
        let pages = shape.layers * shape.blocks * shape.kv_heads;
        let zeroed = |lines: usize| {
            let len = pages.saturating_mul(lines);
            let bytes = len.saturating_mul(size_of::<[T; LANES]>());
            try_zeroed_vec(len).map_err(|()| BackendError::OutOfMemory { bytes })
        };
        Ok(Self { keys: zeroed(key_lines(shape))?, values: zeroed(value_lines(shape))? })
    }

    /// Stores one token of one head.
    pub(crate) fn put(
        &mut self,
        shape: &KvShape,
        (page, token): (HeadPage, usize),
        (key, value): (&[f32], &[f32]),
        convert: impl Fn(f32) -> T,
    ) {
        let (lines, lane) = (key_lines(shape), token % LANES);
        let start = page.index(shape) * lines + token / LANES * shape.head_dim;
        for (line, key) in self.keys[start..].iter_mut().zip(key) {
            line[lane] = convert(*key);
        }
        let width = shape.head_dim.div_ceil(LANES);
        let start = page.index(shape) * value_lines(shape) + token * width;
        for (line, value) in self.values[start..].iter_mut().zip(value.chunks(LANES)) {
            for (to, from) in line.iter_mut().zip(value) {
                *to = convert(*from);
            }
        }
    }
}
