//! The paged KV cache as the CPU backend holds it.
//!
//! Keys lie so that a register holds sixteen tokens at one dimension, values so that it holds
//! sixteen dimensions of one token: neither the scores nor the weighted sum of values then needs a
//! sum across lanes.

mod stored;

use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use half::f16;

pub(crate) use self::stored::Stored;
use super::grid::{Division, Grid, Place, over};
use super::pool::Pool;
use super::simd::LANES;
use crate::backend::{BackendError, KV_GROUP, KvShape, KvType};

/// Numbers of keys from which on threads share their storing: each goes into a line of its own, and
/// most of these have to be fetched.
const SHARED_FROM: usize = 1024;

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

    /// Stores tokens. The keys and the values of each head are a piece of work of their own, which
    /// never writes into another one's part of a block.
    pub(crate) fn put(&mut self, pool: &mut Pool, shape: &KvShape, tokens: &Tokens<'_>) {
        let heads = shape.kv_heads;
        let (first, widths) = (tokens.layer * shape.blocks, [key_lines(shape), value_lines(shape)]);
        let place = |unit| {
            let (grid, head) = (unit / heads, unit % heads);
            let cols = head * widths[grid]..(head + 1) * widths[grid];
            Place { grid, rows: first..first + shape.blocks, cols }
        };
        let mut grids = [
            Grid::new(&mut self.keys, heads * widths[0]),
            Grid::new(&mut self.values, heads * widths[1]),
        ];
        let is_alone = tokens.keys.len() < SHARED_FROM;
        let division = if is_alone { Division::Alone } else { Division::One };
        over(pool, &mut grids, (2 * heads, division), place, |unit, mut tile| {
            let from = if unit < heads { tokens.keys } else { tokens.values };
            for (slot, row) in tokens.of_head(shape, unit % heads, from) {
                let lines = tile.row(slot / shape.block_tokens);
                let token = slot % shape.block_tokens;
                if unit < heads {
                    put_key(&mut lines[token / LANES * shape.head_dim..], token % LANES, row);
                } else {
                    let width = shape.head_dim.div_ceil(LANES);
                    put_value(&mut lines[token * width..][..width], row);
                }
            }
        });
        if T::SCALED {
            self.put_scales(shape, tokens);
        }
    }

    fn put_scales(&mut self, shape: &KvShape, tokens: &Tokens<'_>) {
        let groups = groups(shape);
        for head in 0..shape.kv_heads {
            let keys = tokens.of_head(shape, head, tokens.keys);
            let values = tokens.of_head(shape, head, tokens.values);
            for ((slot, key), (_, value)) in keys.zip(values) {
                let (block, token) = (slot / shape.block_tokens, slot % shape.block_tokens);
                let page = HeadPage { layer: tokens.layer, block, head }.index(shape);
                let row = page * shape.block_tokens + token;
                let of_keys = &mut self.key_scales[row / LANES * groups..];
                for (scales, key) in of_keys.iter_mut().zip(key.chunks(KV_GROUP)) {
                    T::put_key_scale(scales, row % LANES, T::scale_of(key));
                }
                let of_values = &mut self.value_scales[row * groups..];
                for (scale, value) in of_values.iter_mut().zip(value.chunks(KV_GROUP)) {
                    T::put_value_scale(scale, T::scale_of(value));
                }
            }
        }
    }
}

/// Tokens of one layer that are stored.
pub(crate) struct Tokens<'a> {
    pub(crate) layer: usize,
    /// Where each goes: blocks of the layer, one behind the other.
    pub(crate) slots: &'a [u32],
    /// `(slots, kv_heads, head_dim)`
    pub(crate) keys: &'a [f32],
    /// `(slots, kv_heads, head_dim)`
    pub(crate) values: &'a [f32],
}

impl<'a> Tokens<'a> {
    /// Slots, and what `from` has of one head for each.
    fn of_head(
        &self,
        shape: &KvShape,
        head: usize,
        from: &'a [f32],
    ) -> impl Iterator<Item = (usize, &'a [f32])> {
        let rows = from.chunks_exact(shape.head_dim).skip(head).step_by(shape.kv_heads);
        self.slots.iter().map(|slot| *slot as usize).zip(rows)
    }
}

/// Stores the key of the token in lane `lane` of a tile of sixteen.
fn put_key<T: Stored>(tile: &mut [[T; LANES]], lane: usize, key: &[f32]) {
    for (key, lines) in key.chunks(KV_GROUP).zip(tile.chunks_mut(KV_GROUP)) {
        let stored = T::of(key);
        for (line, stored) in lines.iter_mut().zip(stored).take(key.len()) {
            line[lane] = stored;
        }
    }
}

/// Stores the value of one token in its lines.
fn put_value<T: Stored>(lines: &mut [[T; LANES]], value: &[f32]) {
    for (value, lines) in value.chunks(KV_GROUP).zip(lines.chunks_mut(KV_GROUP / LANES)) {
        let stored = T::of(value);
        for (to, stored) in lines.as_flattened_mut().iter_mut().zip(stored).take(value.len()) {
            *to = stored;
        }
    }
}

fn zeroed<T: Zeroable>(pages: usize, lines: usize) -> Result<Vec<T>, BackendError> {
    let len = pages.saturating_mul(lines);
    let bytes = len.saturating_mul(size_of::<T>());
    try_zeroed_vec(len).map_err(|()| BackendError::OutOfMemory { bytes })
}
