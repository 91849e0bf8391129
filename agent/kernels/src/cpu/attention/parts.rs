//! Long sequences with few queries: threads walk parts of them side by side, and what they have gathered
//! is added in the order of the parts, as one who walks all of them does (flash decoding).

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::gathered::{Gathered, add_line, join};
use super::{PART, Unit, WIDTH_MAX};
use crate::backend::{Attention, KvShape, Reach};
use crate::cpu::grid::{Division, Grid, Place, Tile, over};
use crate::cpu::kv::CpuKvCache;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, LANES, Lanes, Simd};

/// Units of work for each thread from which on nobody waits long for the last: parts are of no use.
const UNITS_EACH: usize = 4;

/// Beside the sums of a head in a part: its largest score and its total.
const BESIDE: usize = 2;

/// How a step is divided in which each sequence has one row.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Of the longest sequence.
    most: usize,
    kv_heads: usize,
    /// Query heads that share one KV head.
    heads: usize,
    /// Floats of the sums of one head, whole lines.
    line_floats: usize,
}

impl Parts {
    /// `None` where whole sequences keep all threads at work, or where none has more than one part.
    pub(super) fn of(call: &Attention<'_>, shape: &KvShape, threads: usize) -> Option<Self> {
        let Attention { reach: Reach::Back, window: None, spans, .. } = call else { return None };
        let longest = spans.iter().map(|span| span.past + span.rows).max()?;
        let are_few = spans.len() * shape.kv_heads < UNITS_EACH * threads;
        let is_worth_it = threads > 1 && are_few && longest > PART;
        if !is_worth_it || spans.iter().any(|span| span.rows != 1) {
            return None;
        }
        Some(Self {
            most: longest.div_ceil(PART),
            kv_heads: shape.kv_heads,
            heads: call.heads / shape.kv_heads,
            line_floats: shape.head_dim.next_multiple_of(LANES),
        })
    }

    /// Floats of one KV head's heads in one part.
    const fn width(&self) -> usize {
        self.heads * (self.line_floats + BESIDE)
    }

    /// The sequence, its part and the KV head of unit `unit`.
    const fn locate(&self, unit: usize) -> (usize, usize, usize) {
        let (row, head) = (unit / self.kv_heads, unit % self.kv_heads);
        (row / self.most, row % self.most, head)
    }

    pub(super) fn attend<S: Simd>(
        self,
        simd: S,
        pool: &mut Pool,
        kv: &CpuKvCache,
        call: &Attention<'_>,
        (q, out, scratch): (&[f32], &mut [f32], &mut Vec<f32>),
    ) {
        let width = self.kv_heads * self.width();
        let rows = call.spans.len() * self.most;
        scratch.resize(rows * width, 0.0);
        let place = |unit| {
            let (row, head) = (unit / self.kv_heads, unit % self.kv_heads);
            let cols = head * self.width()..(head + 1) * self.width();
            Place { grid: 0, rows: row..row + 1, cols }
        };
        let mut grids = [Grid::new(scratch.as_mut_slice(), width)];
        let units = (rows * self.kv_heads, Division::One);
        over(pool, &mut grids, units, place, |unit, out| {
            let (span, part, head) = self.locate(unit);
            let span = call.spans[span];
            if part * PART > span.past {
                return;
            }
            let (heads, head) = (self.heads, head * self.heads);
            let (first, rows, part) = (0, 1, Some(part));
            Unit { shape: &kv.shape, call, q, span, first, rows, head, heads, part }
                .walk(simd, &kv.store, out);
        });
        simd.run(Join { parts: self, call, shape: &kv.shape, from: scratch, out });
    }
}

/// Writes what queries have gathered of a part, one head behind the other.
#[inline(always)]
pub(super) fn write<const N: usize>(
    (first, queries): (usize, usize),
    gathered: &Gathered<'_, N>,
    out: &mut Tile<'_, f32>,
) {
    let of_sums = gathered.sums.len() * LANES;
    let heads = out.row(0).chunks_exact_mut(of_sums + BESIDE).skip(first);
    for (query, out) in heads.take(queries).enumerate() {
        let (sums, beside) = out.split_at_mut(of_sums);
        for (out, sums) in sums.chunks_exact_mut(LANES).zip(&*gathered.sums) {
            out.copy_from_slice(&sums[query]);
        }
        beside.copy_from_slice(&[gathered.largest[query], gathered.total[query]]);
    }
}

/// Adds up the parts.
struct Join<'a> {
    parts: Parts,
    call: &'a Attention<'a>,
    shape: &'a KvShape,
    from: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { parts, call, shape, from, out } = self;
        let of_head = parts.line_floats + BESIDE;
        for (at, span) in call.spans.iter().enumerate() {
            let own = &from[at * parts.most * call.heads * of_head..];
            for head in 0..call.heads {
                let of_parts = own.chunks_exact(of_head).skip(head).step_by(call.heads);
                let of_parts = of_parts.take(span.past / PART + 1);
                let out = &mut out[(span.first_row * call.heads + head) * shape.head_dim..];
                join_head(simd, of_parts, parts.line_floats, &mut out[..shape.head_dim]);
            }
        }
    }
}

/// Adds up what one head has gathered of each part.
#[inline(always)]
fn join_head<'a, S: Simd>(
    simd: S,
    parts: impl Iterator<Item = &'a [f32]>,
    line_floats: usize,
    out: &mut [f32],
) {
    let mut sums: [Lanes; WIDTH_MAX] = [[0.0; LANES]; WIDTH_MAX];
    let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0);
    for part in parts {
        let (of_part, beside) = part.split_at(line_floats);
        let &[largest_of_part, total_of_part] = beside else { continue };
        let whole = (&mut largest, &mut total);
        let Some(factors) = join(simd, whole, (largest_of_part, total_of_part)) else { continue };
        for (sums, of_part) in sums.iter_mut().zip(of_part.as_chunks::<LANES>().0) {
            add_line(simd, sums, of_part, factors);
        }
    }
    let inverse = 1.0 / total;
    for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
        *out = sum * inverse;
    }
}
