//! Operations on activations, row by row or element by element.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use super::activations::SHARED_FROM;
use super::grid::{Division, Grid, Place, over};
use super::pool::Pool;
use super::simd::{Kernel, LANES, Simd, exp, load_part, store_part};
use crate::backend::{Curve, RopeShape, RopeStyle};

/// Elements that one thread works on at a time in element-wise operations: 16 KiB of each operand,
/// which fits the L1 cache.
const CHUNK: usize = 4096;

/// Does `work` on chunks of `out`, with the chunk's first element.
pub(super) fn by_chunk(pool: &mut Pool, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    let len = out.len();
    let chunks = len.div_ceil(CHUNK);
    let mut grids = [Grid::new(out, len)];
    let place = |chunk: usize| Place {
        grid: 0,
        rows: 0..1,
        cols: chunk * CHUNK..len.min((chunk + 1) * CHUNK),
    };
    let division = Division::parts_if(len >= SHARED_FROM);
    over(pool, &mut grids, (chunks, division), place, |chunk, mut out| {
        work(chunk * CHUNK, out.row(0));
    });
}

/// Does `work` on each row of `out`.
pub(super) fn by_row(
    pool: &mut Pool,
    out: &mut [f32],
    cols: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = out.len() / cols;
    let shared = out.len() >= SHARED_FROM;
    let mut grids = [Grid::new(out, cols)];
    let place = |row| Place { grid: 0, rows: row..row + 1, cols: 0..cols };
    let division = Division::parts_if(shared);
    over(pool, &mut grids, (rows, division), place, |row, mut out| work(row, out.row(0)));
}

/// `x = x + y`
pub(crate) fn add(pool: &mut Pool, x: &mut [f32], y: &[f32]) {
    by_chunk(pool, x, |first, x| {
        for (x, y) in x.iter_mut().zip(&y[first..]) {
            *x += y;
        }
    });
}

/// `out = curve(gate) * up`
pub(crate) fn gated<S: Simd>(
    simd: S,
    pool: &mut Pool,
    curve: Curve,
    (gate, up): (&[f32], &[f32]),
    out: &mut [f32],
) {
    by_chunk(pool, out, |first, out| {
        let (gate, up) = (&gate[first..][..out.len()], &up[first..][..out.len()]);
        simd.run(Gated { curve, gate, up, out });
    });
}

struct Gated<'a> {
    curve: Curve,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.curve {
            Curve::Silu => self.each::<S, Silu>(simd),
            Curve::Gelu => self.each::<S, Gelu>(simd),
        }
    }
}

impl Gated<'_> {
    #[inline(always)]
    fn each<S: Simd, B: Bend>(self, simd: S) {
        let (gate, gate_rest) = self.gate.as_chunks::<LANES>();
        let (up, up_rest) = self.up.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            simd.store(simd.mul(B::of(simd, simd.load(gate)), simd.load(up)), out);
        }
        let (gate, up) = (load_part(simd, gate_rest), load_part(simd, up_rest));
        store_part(simd, simd.mul(B::of(simd, gate), up), out_rest);
    }
}

/// A [`Curve`] as a type: as a closure it would be compiled without the instruction set.
trait Bend {
    fn of<S: Simd>(simd: S, x: S::F) -> S::F;
}

struct Silu;
struct Gelu;

impl Bend for Silu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::F) -> S::F {
        let falling = exp(simd, simd.mul(x, simd.splat(-1.0)));
        simd.div(x, simd.add(falling, simd.splat(1.0)))
    }
}

/// `x (1 + tanh(u)) / 2` is `x / (1 + exp(-2 u))`.
impl Bend for Gelu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::F) -> S::F {
        /// `-2 sqrt(2 / pi)`.
        const FALL: f32 = -1.595_769;
        const CUBE: f32 = 0.044_715;
        let square = simd.mul(x, x);
        let factor = simd.mul_add(square, simd.splat(CUBE), simd.splat(1.0));
        let falling = exp(simd, simd.mul(simd.mul(x, factor), simd.splat(FALL)));
        simd.div(x, simd.add(falling, simd.splat(1.0)))
    }
}

/// `out = x / sqrt(mean(x * x) + eps) * weight`
pub(crate) fn rms_norm<S: Simd>(
    simd: S,
    pool: &mut Pool,
    x: &[f32],
    (weight, eps): (&[f32], f32),
    out: &mut [f32],
) {
    let cols = weight.len();
    by_row(pool, out, cols, |row, out| {
        simd.run(RmsNorm { x: &x[row * cols..][..cols], weight, eps, out });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let last = load_part(simd, x_rest);
        let mut squares = simd.mul(last, last);
        for x in x {
            let x = simd.load(x);
            squares = simd.mul_add(x, x, squares);
        }
        let mean = simd.sum(squares) / self.x.len() as f32;
        let scale = simd.splat(1.0 / (mean + self.eps).sqrt());
        let (weight, weight_rest) = self.weight.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((x, weight), out) in x.iter().zip(weight).zip(out) {
            let scaled = simd.mul(simd.load(x), scale);
            simd.store(simd.mul(scaled, simd.load(weight)), out);
        }
        let scaled = simd.mul(last, scale);
        store_part(simd, simd.mul(scaled, load_part(simd, weight_rest)), out_rest);
    }
}

/// The cosines and sines of every angle of a batch, kept from layer to layer.
///
/// All layers of a step turn by the same angles, or by one of two sets where some layers see a
/// window only, and sines are dear.
#[derive(Default)]
pub(crate) struct Rotations {
    /// The one used last comes first.
    sets: [Turns; 2],
}

#[derive(Default)]
struct Turns {
    positions: Vec<u32>,
    frequencies: Vec<f32>,
    magnitude: f32,
    /// `(positions, frequencies)`
    all: Vec<Turn>,
}

#[derive(Clone, Copy, Default)]
struct Turn {
    cos: f32,
    sin: f32,
}

impl Rotations {
    /// Sized for `rows` positions and so many frequencies, so that a step need not allocate.
    pub(crate) fn reserve(&mut self, rows: usize, frequencies: usize) {
        for set in &mut self.sets {
            set.positions.reserve(rows);
            set.frequencies.reserve(frequencies);
            set.all.reserve(rows.saturating_mul(frequencies));
        }
    }

    fn turns(&mut self, positions: &[u32], frequencies: &[f32], magnitude: f32) -> &[Turn] {
        let is_known = |set: &Turns| {
            set.magnitude.to_bits() == magnitude.to_bits()
                && set.positions == positions
                && set.frequencies == frequencies
        };
        if !is_known(&self.sets[0]) {
            self.sets.swap(0, 1);
        }
        if !is_known(&self.sets[0]) {
            self.sets[0].compute(positions, frequencies, magnitude);
        }
        &self.sets[0].all
    }
}

impl Turns {
    fn compute(&mut self, positions: &[u32], frequencies: &[f32], magnitude: f32) {
        self.positions.clear();
        self.positions.extend_from_slice(positions);
        self.frequencies.clear();
        self.frequencies.extend_from_slice(frequencies);
        self.magnitude = magnitude;
        self.all.clear();
        self.all.extend(positions.iter().flat_map(|position| {
            frequencies.iter().map(|frequency| turn(*position, *frequency, magnitude))
        }));
    }
}

/// In f64, because an f32 angle of thousands of radians is off by more than the sine should be.
#[expect(clippy::cast_possible_truncation, reason = "the result is wanted in f32")]
fn turn(position: u32, frequency: f32, magnitude: f32) -> Turn {
    let (sin, cos) = (f64::from(position) * f64::from(frequency)).sin_cos();
    let magnitude = f64::from(magnitude);
    Turn { cos: (cos * magnitude) as f32, sin: (sin * magnitude) as f32 }
}

/// Turns the pairs of every head of `x`, `(positions, heads, head_dim)`.
pub(crate) fn rope(
    pool: &mut Pool,
    rotations: &mut Rotations,
    x: &mut [f32],
    (positions, frequencies): (&[u32], &[f32]),
    shape: RopeShape,
) {
    let turns = rotations.turns(positions, frequencies, shape.magnitude);
    let pairs = frequencies.len();
    by_row(pool, x, shape.heads * shape.head_dim, |row, x| {
        let turns = &turns[row * pairs..][..pairs];
        for head in x.chunks_exact_mut(shape.head_dim) {
            match shape.style {
                RopeStyle::Norm => {
                    for ([a, b], turn) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                        turn_pair(a, b, *turn);
                    }
                }
                RopeStyle::Neox => {
                    let (low, high) = head.split_at_mut(pairs);
                    for ((a, b), turn) in low.iter_mut().zip(high).zip(turns) {
                        turn_pair(a, b, *turn);
                    }
                }
            }
        }
    });
}

fn turn_pair(a: &mut f32, b: &mut f32, Turn { cos, sin }: Turn) {
    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
}
