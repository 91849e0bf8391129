//! `out = softmax(q * k * scale, reach) * v` over paged keys and values.
//!
//! The work is cut into units of a few rows of one sequence times the query heads that share one KV
//! head, so each key and value is converted to f32 once for up to twelve queries. A unit walks the
//! sequence in steps of [`STEP`] tokens with a running maximum and a running sum (the online
//! softmax). A window hides the tokens before it; nothing is read that it hides from all queries of a
//! unit but what shares a line of keys with what is seen, since the blocks there may have been given
//! to others. Steps start at multiples of [`STEP`] from the sequence's first token, so a query's
//! result depends neither on the chunk it was prefilled in nor on the queries beside it.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::grid::{Grid, Place, Tile, over};
use super::kv::{CpuKvCache, HEAD_DIM_MAX, HeadPage, Pages, Store, Stored, groups};
use super::pool::Pool;
use super::simd::{Kernel, LANES, Lanes, Simd, exp};
use super::variants::soft_cap_lanes;
use crate::backend::{Attention, KV_GROUP, KvShape, Reach, Span};

/// Tokens between two corrections of the running maximum.
const STEP: usize = 128;
const STEP_LINES: usize = STEP / LANES;
/// Queries that share one walk over keys and values: whole groups of one, two, three, four and six
/// heads, and no more sums than half of the registers.
const QUERIES: usize = 12;
/// Lines of sixteen dimensions in the widest head.
const WIDTH_MAX: usize = HEAD_DIM_MAX / LANES;

/// How a batch is cut into units.
#[derive(Clone, Copy)]
struct Cut {
    /// Query heads in a unit.
    heads: usize,
    /// Units side by side in one row.
    across: usize,
    /// Rows of a sequence in a unit.
    rows: usize,
}

impl Cut {
    /// Whole groups of heads, or single heads where groups would leave threads idle.
    fn new(call: &Attention<'_>, kv_heads: usize, threads: usize) -> Self {
        let group = call.heads / kv_heads;
        let rows = (QUERIES / group).max(1);
        let cut = Self { heads: group, across: kv_heads, rows };
        // With four units per thread the last one to finish costs at most a quarter.
        if cut.units(call) >= threads * 4 {
            return cut;
        }
        Self { heads: 1, across: call.heads, rows: QUERIES }
    }

    fn units(&self, call: &Attention<'_>) -> usize {
        call.spans.iter().map(|span| span.rows.div_ceil(self.rows)).sum::<usize>() * self.across
    }

    /// The span, its rows and the first head of unit `unit`.
    fn locate<'a>(&self, call: &Attention<'a>, unit: usize) -> Option<(Span<'a>, usize, usize)> {
        let (mut tile, across) = (unit / self.across, unit % self.across);
        for span in call.spans {
            let tiles = span.rows.div_ceil(self.rows);
            if tile < tiles {
                return Some((*span, tile * self.rows, across * self.heads));
            }
            tile -= tiles;
        }
        None
    }
}

/// One layer's attention; everything has been checked.
pub(crate) fn attention<S: Simd>(
    simd: S,
    pool: &mut Pool,
    kv: &CpuKvCache,
    call: &Attention<'_>,
    (q, out): (&[f32], &mut [f32]),
) {
    let head_dim = kv.shape.head_dim;
    let cut = Cut::new(call, kv.shape.kv_heads, pool.threads());
    let units = cut.units(call);
    let mut grids = [Grid::new(out, call.heads * head_dim)];
    let place = |unit| {
        cut.locate(call, unit).map_or(Place { grid: 0, rows: 0..0, cols: 0..0 }, |found| {
            let (span, first, head) = found;
            let rows = cut.rows.min(span.rows - first);
            let start = span.first_row + first;
            let cols = head * head_dim..(head + cut.heads) * head_dim;
            Place { grid: 0, rows: start..start + rows, cols }
        })
    };
    // One at a time: long sequences cost more than short ones.
    over(pool, &mut grids, (units, 1), place, |unit, out| {
        let Some((span, first, head)) = cut.locate(call, unit) else { return };
        let rows = cut.rows.min(span.rows - first);
        let unit = Unit { shape: &kv.shape, call, q, span, first, rows, head, heads: cut.heads };
        match &kv.store {
            Store::F16(pages) => simd.run(Walk { unit, pages, out }),
            Store::F32(pages) => simd.run(Walk { unit, pages, out }),
            Store::Q8(pages) => simd.run(Walk { unit, pages, out }),
        }
    });
}

/// Some rows of a span times some neighbouring heads of one KV head.
#[derive(Clone, Copy)]
struct Unit<'a> {
    shape: &'a KvShape,
    call: &'a Attention<'a>,
    q: &'a [f32],
    span: Span<'a>,
    first: usize,
    rows: usize,
    head: usize,
    heads: usize,
}

impl Unit<'_> {
    fn kv_head(&self) -> usize {
        self.head / (self.call.heads / self.shape.kv_heads)
    }

    /// Row and head of query `query`, both within the unit.
    fn query(&self, query: usize) -> (usize, usize) {
        (query / self.heads, query % self.heads)
    }

    /// Tokens that query `query` attends.
    fn seen(&self, query: usize) -> std::ops::Range<usize> {
        let own = self.span.past + self.first + self.query(query).0;
        let window = self.call.window;
        match self.call.reach {
            Reach::Back => {
                let len = own + 1;
                window.map_or(0, |window| len.saturating_sub(window))..len
            }
            Reach::Both => {
                let len = self.span.past + self.span.rows;
                let half = window.map_or(len, |window| window / 2);
                own.saturating_sub(half)..len.min(own.saturating_add(half).saturating_add(1))
            }
        }
    }

    fn block_of(&self, token: usize) -> usize {
        self.span.blocks[token / self.shape.block_tokens] as usize
    }
}

/// A unit, its keys and values, and its part of the output.
struct Walk<'a, T: Stored> {
    unit: Unit<'a>,
    pages: &'a Pages<T>,
    out: Tile<'a, f32>,
}

impl<T: Stored> Kernel for Walk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let queries = self.unit.rows * self.unit.heads;
        for first in (0..queries).step_by(QUERIES) {
            match queries - first {
                1 => self.walk::<S, 1>(simd, first),
                2..=4 => self.walk::<S, 4>(simd, first),
                5..=8 => self.walk::<S, 8>(simd, first),
                _ => self.walk::<S, QUERIES>(simd, first),
            }
        }
    }
}

/// What up to `N` queries have gathered so far.
struct Gathered<const N: usize> {
    largest: [f32; N],
    total: [f32; N],
    /// `(head_dim / 16, query)`
    sums: [[Lanes; N]; WIDTH_MAX],
}

impl<T: Stored> Walk<'_, T> {
    #[inline(always)]
    fn walk<S: Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let unit = self.unit;
        let queries = N.min(unit.rows * unit.heads - first);
        let dim = unit.shape.head_dim;
        // (head_dim, query); queries that do not exist are zero and attend nothing.
        let mut q = [[0.0; N]; HEAD_DIM_MAX];
        let (mut starts, mut lens) = ([0; N], [0; N]);
        for query in 0..queries {
            let (row, head) = unit.query(first + query);
            let row = unit.span.first_row + unit.first + row;
            let from = &unit.q[(row * unit.call.heads + unit.head + head) * dim..][..dim];
            for (q, from) in q.iter_mut().zip(from) {
                q[query] = *from;
            }
            std::ops::Range { start: starts[query], end: lens[query] } = unit.seen(first + query);
        }
        let longest = lens.iter().copied().max().unwrap_or(0);
        let seen_first = starts[..queries].iter().copied().min().unwrap_or(0);
        let begin = seen_first / STEP * STEP;
        let mut gathered = Gathered {
            largest: [f32::NEG_INFINITY; N],
            total: [0.0; N],
            sums: [[[0.0; LANES]; N]; WIDTH_MAX],
        };
        let mut scores = [[[0.0; LANES]; STEP_LINES]; N];
        for start in (begin..longest).step_by(STEP) {
            let tokens = seen_first.max(start)..longest.min(start + STEP);
            self.score(simd, &q[..dim], (start, tokens.clone()), &mut scores);
            for query in 0..N {
                let within = |token: usize| token.saturating_sub(start).min(STEP);
                let seen = within(starts[query])..within(lens[query]);
                weigh(simd, &mut scores[query], seen, query, &mut gathered);
            }
            self.gather(simd, (start, tokens), &scores, &mut gathered);
        }
        self.write(first, queries, &gathered);
    }

    /// `scores[query][token - start] = soft_cap(scale * (q . k))`; lanes of other tokens are arbitrary.
    #[inline(always)]
    fn score<S: Simd, const N: usize>(
        &self,
        simd: S,
        q: &[[f32; N]],
        (start, tokens): (usize, std::ops::Range<usize>),
        scores: &mut [[Lanes; STEP_LINES]; N],
    ) {
        let Unit { shape, call, .. } = self.unit;
        let scale = simd.splat(call.scale);
        let first = tokens.start / LANES * LANES;
        for token in (first..tokens.end).step_by(LANES) {
            let line = (token - start) / LANES;
            let (block, head) = (self.unit.block_of(token), self.unit.kv_head());
            let page = HeadPage { layer: call.layer, block, head }.index(shape);
            let tile = (page * shape.block_tokens + token % shape.block_tokens) / LANES;
            let keys = &self.pages.keys[tile * shape.head_dim..][..shape.head_dim];
            let scales = &self.pages.key_scales[tile * groups(shape)..][..groups(shape)];
            let mut sums = [simd.splat(0.0); N];
            let parts = keys.chunks(KV_GROUP).zip(q.chunks(KV_GROUP));
            for ((keys, q), scales) in parts.zip(scales) {
                add_keys(simd, (keys, scales), q, &mut sums);
            }
            for (sum, scores) in sums.into_iter().zip(scores.iter_mut()) {
                let score = simd.mul(sum, scale);
                let score = call.soft_cap.map_or(score, |cap| soft_cap_lanes(simd, score, cap));
                simd.store(score, &mut scores[line]);
            }
        }
    }

    /// `sums[query] += weights[query][token - start] * v[token]`
    #[inline(always)]
    fn gather<S: Simd, const N: usize>(
        &self,
        simd: S,
        (start, tokens): (usize, std::ops::Range<usize>),
        weights: &[[Lanes; STEP_LINES]; N],
        gathered: &mut Gathered<N>,
    ) {
        let Unit { shape, call, .. } = self.unit;
        let width = shape.head_dim.div_ceil(LANES);
        let mut token = tokens.start;
        while token < tokens.end {
            let in_block = token % shape.block_tokens;
            let count = (shape.block_tokens - in_block).min(tokens.end - token);
            let (block, head) = (self.unit.block_of(token), self.unit.kv_head());
            let page = HeadPage { layer: call.layer, block, head }.index(shape);
            let row = page * shape.block_tokens + in_block;
            let values = &self.pages.values[row * width..][..count * width];
            let groups = groups(shape);
            let scales = &self.pages.value_scales[row * groups..][..count * groups];
            let first = token - start;
            for (line, sums) in gathered.sums.iter_mut().enumerate().take(width) {
                let values = values.iter().skip(line).step_by(width);
                let scales = scales.iter().skip(line * LANES / KV_GROUP).step_by(groups);
                add_values(simd, values.zip(scales), (first, weights), sums);
            }
            token += count;
        }
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, first: usize, queries: usize, gathered: &Gathered<N>) {
        let dim = self.unit.shape.head_dim;
        for query in 0..queries {
            let (row, head) = self.unit.query(first + query);
            let out = &mut self.out.row(row)[head * dim..][..dim];
            let inverse = 1.0 / gathered.total[query];
            for (out, sums) in out.chunks_mut(LANES).zip(&gathered.sums) {
                for (out, sum) in out.iter_mut().zip(sums[query]) {
                    *out = sum * inverse;
                }
            }
        }
    }
}

/// `sums[query] += q[dim][query] * keys[dim]` for sixteen tokens and up to [`KV_GROUP`] dimensions.
#[inline(always)]
fn add_keys<S: Simd, T: Stored, const N: usize>(
    simd: S,
    (keys, scales): (&[[T; LANES]], &T::KeyScales),
    q: &[[f32; N]],
    sums: &mut [S::F; N],
) {
    let scales = T::key_scales(simd, scales);
    for (key, q) in keys.iter().zip(q) {
        let key = T::load(simd, key, scales);
        for (sum, q) in sums.iter_mut().zip(q) {
            *sum = simd.mul_add(key, simd.splat(*q), *sum);
        }
    }
}

/// `sums[query] += weights[query][first + i] * values[i]` for sixteen dimensions.
#[inline(always)]
fn add_values<'a, S: Simd, T: Stored + 'a, const N: usize>(
    simd: S,
    values: impl Iterator<Item = (&'a [T; LANES], &'a T::ValueScale)>,
    (first, weights): (usize, &[[Lanes; STEP_LINES]; N]),
    sums: &mut [Lanes; N],
) {
    let mut lanes = [simd.splat(0.0); N];
    for (lanes, sum) in lanes.iter_mut().zip(sums.iter()) {
        *lanes = simd.load(sum);
    }
    for (i, (value, scale)) in values.enumerate() {
        let value = T::load(simd, value, T::value_scale(simd, scale));
        let (at, lane) = ((first + i) / LANES, (first + i) % LANES);
        for (sum, weights) in lanes.iter_mut().zip(weights) {
            *sum = simd.mul_add(value, simd.splat(weights[at][lane]), *sum);
        }
    }
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        simd.store(lanes, sum);
    }
}

/// Turns the scores of the tokens that are `seen` into weights, and the rest to zero.
///
/// What has been gathered so far is scaled down where the largest score has grown.
#[inline(always)]
fn weigh<S: Simd, const N: usize>(
    simd: S,
    scores: &mut [Lanes; STEP_LINES],
    seen: std::ops::Range<usize>,
    query: usize,
    gathered: &mut Gathered<N>,
) {
    if seen.is_empty() {
        *scores = [[0.0; LANES]; STEP_LINES];
        return;
    }
    let (before, beyond) = (seen.start, seen.end);
    let flat = scores.as_flattened_mut();
    flat[..before].fill(f32::NEG_INFINITY);
    flat[beyond..].fill(f32::NEG_INFINITY);
    let mut largest = simd.splat(gathered.largest[query]);
    for score in scores.iter() {
        largest = simd.max(largest, simd.load(score));
    }
    let largest = simd.largest(largest);
    let grown = gathered.largest[query] - largest;
    let mut lanes = [0.0; LANES];
    simd.store(exp(simd, simd.splat(grown)), &mut lanes);
    let correction = lanes[0];
    let mut total = simd.splat(0.0);
    let offset = simd.splat(-largest);
    for score in scores.iter_mut() {
        let weight = exp(simd, simd.add(simd.load(score), offset));
        total = simd.add(total, weight);
        simd.store(weight, score);
    }
    gathered.total[query] = gathered.total[query] * correction + simd.sum(total);
    gathered.largest[query] = largest;
    if grown < 0.0 {
        for sums in &mut gathered.sums {
            for sum in &mut sums[query] {
                *sum *= correction;
            }
        }
    }
}
