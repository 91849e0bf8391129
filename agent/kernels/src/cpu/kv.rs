//! The paged KV cache as the CPU backend holds it.
//!
//! Keys lie so that a register holds sixteen tokens at one dimension, values so that it holds
//! sixteen dimensions of one token: neither the scores nor the weighted sum of values then needs a
//! sum across lanes.

mod stored;

use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use half::f16;

pub(crate) use self::stored::Stored;
use super::simd::LANES;
use crate::backend::{BackendError, KV_GROUP, KvShape, KvType};

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
    Q8(Pages<i8>),
}

pub(crate) struct Pages<T: Stored> {
    /// `(layer, block, kv head, sixteen tokens, head_dim)` of sixteen tokens each.
    pub(crate) keys: Vec<[T; LANES]>,
    /// `(layer, block, kv head, sixteen tokens, head_dim / 32)` of sixteen tokens each.
    pub(crate) key_scales: Vec<T::KeyScales>,
    /// `(layer, block, kv head, token, head_dim / 16)` of sixteen dimensions each.
    pub(crate) values: Vec<[T; LANES]>,
    /// `(layer, block, kv head, token, head_dim / 32)`
    pub(crate) value_scales: Vec<T::ValueScale>,
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
            KvType::Q8_0 => Store::Q8(Pages::new(&shape)?),
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

/// Scales of one token's key or value in one head.
pub(crate) const fn groups(shape: &KvShape) -> usize {
    shape.head_dim.div_ceil(KV_GROUP)
}

impl<T: Stored> Pages<T> {
    /// Zeroes that take no memory before they are written: a cache is large, and most of it lies
    /// idle where few sequences run.
    fn new(shape: &KvShape) -> Result<Self, BackendError> {
        let pages = shape.layers * shape.blocks * shape.kv_heads;
        let groups = groups(shape);
        Ok(Self {
            keys: zeroed(pages, key_lines(shape))?,
            key_scales: zeroed(pages, shape.block_tokens / LANES * groups)?,
            values: zeroed(pages, value_lines(shape))?,
            value_scales: zeroed(pages, shape.block_tokens * groups)?,
        })
    }

    /// Stores one token of one head.
    pub(crate) fn put(
        &mut self,
        shape: &KvShape,
        (page, token): (HeadPage, usize),
        (key, value): (&[f32], &[f32]),
    ) {
        let (page, lane) = (page.index(shape), token % LANES);
        let tile = page * (shape.block_tokens / LANES) + token / LANES;
        let lines = self.keys[tile * shape.head_dim..].chunks_mut(KV_GROUP);
        let scales = &mut self.key_scales[tile * groups(shape)..];
        for ((key, lines), scales) in key.chunks(KV_GROUP).zip(lines).zip(scales) {
            let (stored, scale) = T::of(key);
            T::put_key_scale(scales, lane, scale);
            for (line, stored) in lines.iter_mut().zip(stored).take(key.len()) {
                line[lane] = stored;
            }
        }
        let row = page * shape.block_tokens + token;
        let width = shape.head_dim.div_ceil(LANES);
        let lines = self.values[row * width..][..width].chunks_mut(KV_GROUP / LANES);
        let scales = &mut self.value_scales[row * groups(shape)..];
        for ((value, lines), to) in value.chunks(KV_GROUP).zip(lines).zip(scales) {
            let (stored, scale) = T::of(value);
            T::put_value_scale(to, scale);
            for (to, stored) in lines.as_flattened_mut().iter_mut().zip(stored).take(value.len()) {
                *to = stored;
            }
        }
    }
}

fn zeroed<T: Zeroable>(pages: usize, lines: usize) -> Result<Vec<T>, BackendError> {
    let len = pages.saturating_mul(lines);
    let bytes = len.saturating_mul(size_of::<T>());
    try_zeroed_vec(len).map_err(|()| BackendError::OutOfMemory { bytes })
}
