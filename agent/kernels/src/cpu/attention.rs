//! `out = softmax(q * k * scale, reach) * v` over paged keys and values.
//!
//! The work is cut into units of a few rows of one sequence times the query heads that share one KV
//! head, so each key and value is converted to f32 once for as many queries as registers have sums
//! for, up to twelve. A unit walks the sequence in steps of [`STEP`] tokens with a running maximum
//! and a running sum (the online softmax). What a long sequence comes to is gathered part by part
//! ([`PART`] tokens), so that where few queries wait, threads walk its parts side by side
//! ([`parts`]) and it comes to the same. A window hides the tokens before it; nothing is read that
//! it hides from all queries of a unit but what shares a line of keys with what is seen, since the
//! blocks there may have been given to others. Steps start at multiples of [`STEP`] from the
//! sequence's first token, so a query's result depends neither on the chunk it was prefilled in nor
//! on the queries beside it.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

mod gathered;
mod parts;

use std::cell::RefCell;
use std::ops::Range;

use self::gathered::{Gathered, weigh};
use self::parts::Parts;
use super::grid::{Division, Grid, Place, Tile, over};
use super::kv::{CpuKvCache, HEAD_DIM_MAX, HeadPage, Pages, Store, Stored, groups};
use super::pool::Pool;
use super::simd::{Kernel, LANES, Lanes, Simd};
use super::variants::soft_cap_lanes;
use crate::backend::{Attention, KV_GROUP, KvShape, Reach, Span};

/// Tokens between two corrections of the running maximum.
const STEP: usize = 128;
const STEP_LINES: usize = STEP / LANES;
/// Tokens that are gathered by themselves.
const PART: usize = 8 * STEP;
/// How many tokens ahead keys are asked for. Each block lies somewhere else, and is long over by the
/// time that a processor has seen where it goes on.
const AHEAD: usize = 2 * LANES;
/// Bytes that memory hands out together.
const CACHE_LINE: usize = 64;
/// Queries of a unit: whole groups of one, two, three, four and six heads. They share one walk over
/// keys and values where registers have room for so many sums.
const QUERIES: usize = 12;
/// Queries whose walk takes as long as that of one: an addition waits so many cycles for the one
/// before it, in which others can go.
const LATENCY: usize = 4;
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
    /// Whole groups of heads, or single heads where groups would leave threads idle for longer than
    /// sharing keys and values saves.
    fn new<S: Simd>(call: &Attention<'_>, kv_heads: usize, threads: usize) -> Self {
        let group = call.heads / kv_heads;
        let grouped = Self { heads: group, across: kv_heads, rows: (QUERIES / group).max(1) };
        let single = Self { heads: 1, across: call.heads, rows: QUERIES };
        let is_as_quick = grouped.time::<S>(call, threads) <= single.time::<S>(call, threads);
        if is_as_quick { grouped } else { single }
    }

    /// How long all units take, in additions one after the other for each element of a key.
    fn time<S: Simd>(&self, call: &Attention<'_>, threads: usize) -> usize {
        let rows = call.spans.iter().map(|span| span.rows.min(self.rows)).max().unwrap_or(0);
        let (walks, each) = walks::<S>(rows * self.heads);
        self.units(call).div_ceil(threads) * walks * each.max(LATENCY)
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

/// How often a unit of so many queries walks over its keys and values, and for how many each time: as
/// many as registers have sums for, or all alike where that is not often enough.
fn walks<S: Simd>(queries: usize) -> (usize, usize) {
    let walks = queries.div_ceil(S::SUMS.min(QUERIES)).max(1);
    (walks, queries.div_ceil(walks).max(1))
}

/// One layer's attention; everything has been checked.
pub(crate) fn attention<S: Simd>(
    simd: S,
    pool: &mut Pool,
    kv: &CpuKvCache,
    call: &Attention<'_>,
    (q, out, scratch): (&[f32], &mut [f32], &mut Vec<f32>),
) {
    if let Some(parts) = Parts::of(call, &kv.shape, pool.threads()) {
        return parts.attend(simd, pool, kv, call, (q, out, scratch));
    }
    let head_dim = kv.shape.head_dim;
    let cut = Cut::new::<S>(call, kv.shape.kv_heads, pool.threads());
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
    over(pool, &mut grids, (units, Division::One), place, |unit, out| {
        let Some((span, first, head)) = cut.locate(call, unit) else { return };
        let rows = cut.rows.min(span.rows - first);
        let heads = cut.heads;
        Unit { shape: &kv.shape, call, q, span, first, rows, head, heads, part: None }
            .walk(simd, &kv.store, out);
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
    /// The part of the sequence, where it is not all of it: what is gathered of it is written as it is.
    part: Option<usize>,
}

impl Unit<'_> {
    fn walk<S: Simd>(self, simd: S, store: &Store, out: Tile<'_, f32>) {
        let unit = self;
        // A closure would not have the instruction set, so that nothing of the walk is within it.
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let memory = (&mut *scratch, out);
        match store {
            Store::F16(pages) => simd.run(Walk { unit, pages }.with(memory)),
            Store::F32(pages) => simd.run(Walk { unit, pages }.with(memory)),
            Store::Q8(pages) => simd.run(Walk { unit, pages }.with(memory)),
        }
        SCRATCH.set(Some(scratch));
    }

    fn kv_head(&self) -> usize {
        self.head / (self.call.heads / self.shape.kv_heads)
    }

    /// Row and head of query `query`, both within the unit.
    fn query(&self, query: usize) -> (usize, usize) {
        (query / self.heads, query % self.heads)
    }

    /// Tokens that query `query` attends.
    fn seen(&self, query: usize) -> Range<usize> {
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

/// A unit, its keys and values.
struct Walk<'a, T: Stored> {
    unit: Unit<'a>,
    pages: &'a Pages<T>,
}

/// A walk, the memory for it, and its part of the output.
struct Task<'a, T: Stored> {
    walk: Walk<'a, T>,
    scratch: &'a mut Scratch,
    out: Tile<'a, f32>,
}

impl<T: Stored> Kernel for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { walk, scratch, mut out } = self;
        let queries = walk.unit.rows * walk.unit.heads;
        let (_, each) = walks::<S>(queries);
        for first in (0..queries).step_by(each) {
            match each.min(queries - first) {
                1 => walk.queries::<S, 1>(simd, first, scratch, &mut out),
                2..=4 => walk.queries::<S, 4>(simd, first, scratch, &mut out),
                5..=6 => walk.queries::<S, 6>(simd, first, scratch, &mut out),
                7..=8 => walk.queries::<S, 8>(simd, first, scratch, &mut out),
                _ => walk.queries::<S, QUERIES>(simd, first, scratch, &mut out),
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// Memory of one walk, of which only what the heads are wide is touched: clearing all of it for
/// each would cost as much as some dozen tokens, and their place in the nearest cache.
struct Scratch {
    /// `(head_dim, query)`
    q: [f32; HEAD_DIM_MAX * QUERIES],
    scores: [Scores; QUERIES],
    /// `(head_dim / 16, query)`
    sums: [Lanes; WIDTH_MAX * QUERIES],
    /// The same of one part.
    sums_of_part: [Lanes; WIDTH_MAX * QUERIES],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            q: [0.0; HEAD_DIM_MAX * QUERIES],
            scores: [[[0.0; LANES]; STEP_LINES]; QUERIES],
            sums: [[0.0; LANES]; WIDTH_MAX * QUERIES],
            sums_of_part: [[0.0; LANES]; WIDTH_MAX * QUERIES],
        }
    }
}

/// The scores, and then the weights, of one query in one step.
type Scores = [Lanes; STEP_LINES];

/// What each query sees, and the tokens that any of them does.
struct Seen<const N: usize> {
    starts: [usize; N],
    lens: [usize; N],
    tokens: Range<usize>,
}

impl<'a, T: Stored> Walk<'a, T> {
    const fn with(self, (scratch, out): (&'a mut Scratch, Tile<'a, f32>)) -> Task<'a, T> {
        Task { walk: self, scratch, out }
    }

    /// Up to `N` queries from number `first` on.
    #[inline(always)]
    fn queries<S: Simd, const N: usize>(
        &self,
        simd: S,
        first: usize,
        scratch: &mut Scratch,
        out: &mut Tile<'_, f32>,
    ) {
        let unit = self.unit;
        let queries = N.min(unit.rows * unit.heads - first);
        let dim = unit.shape.head_dim;
        let q = &mut scratch.q.as_chunks_mut::<N>().0[..dim];
        let lines = dim.div_ceil(LANES);
        let sums = &mut scratch.sums.as_chunks_mut::<N>().0[..lines];
        let of_part = &mut scratch.sums_of_part.as_chunks_mut::<N>().0[..lines];
        // Queries that do not exist are zero and attend nothing.
        q.as_flattened_mut().fill(0.0);
        let (mut starts, mut lens) = ([0; N], [0; N]);
        for query in 0..queries {
            let (row, head) = unit.query(first + query);
            let row = unit.span.first_row + unit.first + row;
            let from = &unit.q[(row * unit.call.heads + unit.head + head) * dim..][..dim];
            for (q, from) in q.iter_mut().zip(from) {
                q[query] = *from;
            }
            Range { start: starts[query], end: lens[query] } = unit.seen(first + query);
        }
        let longest = lens.iter().copied().max().unwrap_or(0);
        let seen_first = starts[..queries].iter().copied().min().unwrap_or(0);
        let seen = Seen { starts, lens, tokens: seen_first..longest };
        let Some(scores) = scratch.scores.first_chunk_mut::<N>() else { return };
        let mut gathered = Gathered::new(sums);
        let all = seen_first / PART..longest.div_ceil(PART);
        for part in unit.part.map_or(all, |part| part..part + 1) {
            let mut more = Gathered::new(of_part);
            self.gather_part(simd, (q, &seen), part, scores, &mut more);
            gathered.add(simd, &more);
        }
        match unit.part {
            None => self.write((first, queries), &gathered, out),
            Some(_) => parts::write((first, queries), &gathered, out),
        }
    }

    /// Gathers what is seen of one part of the sequence.
    #[inline(always)]
    fn gather_part<S: Simd, const N: usize>(
        &self,
        simd: S,
        (q, seen): (&[[f32; N]], &Seen<N>),
        part: usize,
        scores: &mut [Scores; N],
        gathered: &mut Gathered<'_, N>,
    ) {
        let Seen { starts, lens, tokens } = seen;
        let begin = (tokens.start / STEP * STEP).max(part * PART);
        let end = tokens.end.min((part + 1) * PART);
        for start in (begin..end).step_by(STEP) {
            let tokens = tokens.start.max(start)..end.min(start + STEP);
            let lines = (tokens.start - start) / LANES..(tokens.end - start).div_ceil(LANES);
            self.score(simd, q, (start, tokens.clone()), scores);
            for query in 0..N {
                let within = |token: usize| token.saturating_sub(start).min(STEP);
                let seen = within(starts[query])..within(lens[query]);
                weigh(
                    simd,
                    &mut scores[query][lines.clone()],
                    (lines.start, seen),
                    query,
                    gathered,
                );
            }
            self.gather(simd, (start, tokens), scores, gathered);
        }
    }

    /// `scores[query][token - start] = soft_cap(scale * (q . k))`; lanes of other tokens are arbitrary.
    #[inline(always)]
    fn score<S: Simd, const N: usize>(
        &self,
        simd: S,
        q: &[[f32; N]],
        (start, tokens): (usize, Range<usize>),
        scores: &mut [Scores; N],
    ) {
        let Unit { shape, call, .. } = self.unit;
        let scale = simd.splat(call.scale);
        let first = tokens.start / LANES * LANES;
        let last = self.unit.span.past + self.unit.span.rows - 1;
        for token in (first..tokens.end).step_by(LANES) {
            let line = (token - start) / LANES;
            let row = self.row_of(token);
            let (keys, values) = self.lines(row);
            fetch(simd, values);
            fetch(simd, self.lines(self.row_of((token + AHEAD).min(last))).0);
            let tile = row / LANES;
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

    /// `sums[query] += weights[query][token - start] * v[token]`, sixteen dimensions at a time, whose
    /// sums stay in registers meanwhile.
    #[inline(always)]
    fn gather<S: Simd, const N: usize>(
        &self,
        simd: S,
        (start, tokens): (usize, Range<usize>),
        weights: &[Scores; N],
        gathered: &mut Gathered<'_, N>,
    ) {
        let end = tokens.end - start;
        let lines = (tokens.start - start) / LANES..end.div_ceil(LANES);
        let mut rows = [0; STEP_LINES];
        for line in lines.clone() {
            rows[line] = self.row_of(start + line * LANES);
        }
        for (dims, sums) in gathered.sums.iter_mut().enumerate() {
            let mut lanes = [simd.splat(0.0); N];
            for (lanes, sum) in lanes.iter_mut().zip(sums.iter()) {
                *lanes = simd.load(sum);
            }
            for line in lines.clone() {
                let first = line * LANES;
                let seen = (tokens.start - start).saturating_sub(first)..(end - first).min(LANES);
                let line = weights.each_ref().map(|weights| &weights[line]);
                self.add_values(simd, (rows[first / LANES], dims), (seen, line), &mut lanes);
            }
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                simd.store(lanes, sum);
            }
        }
    }

    /// Where what is stored of the sixteen tokens lies of which this is one: one block has them.
    #[inline(always)]
    fn row_of(&self, token: usize) -> usize {
        let Unit { shape, call, .. } = self.unit;
        let (block, head) = (self.unit.block_of(token), self.unit.kv_head());
        let page = HeadPage { layer: call.layer, block, head }.index(shape);
        page * shape.block_tokens + token % shape.block_tokens / LANES * LANES
    }

    /// The keys and the values of sixteen tokens.
    #[inline(always)]
    fn lines(&self, row: usize) -> (&[[T; LANES]], &[[T; LANES]]) {
        let dim = self.unit.shape.head_dim;
        let width = dim.div_ceil(LANES);
        let keys = &self.pages.keys[row / LANES * dim..][..dim];
        (keys, &self.pages.values[row * width..][..LANES * width])
    }

    /// `sums[query] += weights[query][i] * values[row + i]` for sixteen dimensions, and each `i` of
    /// sixteen tokens that is `seen`: what lies there of others may be no numbers at all.
    #[inline(always)]
    fn add_values<S: Simd, const N: usize>(
        &self,
        simd: S,
        (row, dims): (usize, usize),
        (seen, weights): (Range<usize>, [&Lanes; N]),
        sums: &mut [S::F; N],
    ) {
        let shape = self.unit.shape;
        let (width, groups) = (shape.head_dim.div_ceil(LANES), groups(shape));
        let (_, values) = self.lines(row);
        let scales = &self.pages.value_scales[row * groups..(row + LANES) * groups];
        let group = dims * LANES / KV_GROUP;
        let mut values = values.chunks_exact(width).zip(scales.chunks_exact(groups));
        if seen == (0..LANES) {
            // All of them, by a number that is known: no look at the bounds of the weights.
            for lane in 0..LANES {
                let Some((values, scales)) = values.next() else { return };
                let weights = weights.map(|weights| weights[lane]);
                add_value::<S, T, N>(simd, (&values[dims], &scales[group]), weights, sums);
            }
            return;
        }
        for (lane, (values, scales)) in values.enumerate().take(seen.end).skip(seen.start) {
            let weights = weights.map(|weights| weights[lane]);
            add_value::<S, T, N>(simd, (&values[dims], &scales[group]), weights, sums);
        }
    }

    #[inline(always)]
    fn write<const N: usize>(
        &self,
        (first, queries): (usize, usize),
        gathered: &Gathered<'_, N>,
        out: &mut Tile<'_, f32>,
    ) {
        let dim = self.unit.shape.head_dim;
        for query in 0..queries {
            let (row, head) = self.unit.query(first + query);
            let out = &mut out.row(row)[head * dim..][..dim];
            let inverse = 1.0 / gathered.total[query];
            for (out, sums) in out.chunks_mut(LANES).zip(&*gathered.sums) {
                for (out, sum) in out.iter_mut().zip(sums[query]) {
                    *out = sum * inverse;
                }
            }
        }
    }
}

/// Asks for what is loaded soon, but for a line that these may end in.
#[inline(always)]
fn fetch<S: Simd, T>(simd: S, lines: &[[T; LANES]]) {
    let step = (CACHE_LINE / size_of::<[T; LANES]>().max(1)).max(1);
    for line in lines.iter().step_by(step) {
        simd.fetch(line);
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

/// `sums[query] += weights[query] * value` for sixteen dimensions of one token.
#[inline(always)]
fn add_value<S: Simd, T: Stored, const N: usize>(
    simd: S,
    (value, scale): (&[T; LANES], &T::ValueScale),
    weights: [f32; N],
    sums: &mut [S::F; N],
) {
    let value = T::load(simd, value, T::value_scale(simd, scale));
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum = simd.mul_add(value, simd.splat(weight), *sum);
    }
}
