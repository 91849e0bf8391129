//! The search for scales: those under which the integers of a grid come closest to given values, in
//! the sum of squares.
//!
//! For given integers the best scale is a quotient of sums; for a given scale the best integers are
//! the nearest. So each search tries a row of scales that map the outermost value to or around the
//! outermost integer, rounds, takes the best scale of what was rounded, and keeps the best of all.

use half::f16;

use super::grid::Grid;
use super::q8_0::inverse;

/// Scales tried on either side of the plain one, up to one step of the grid away.
const TRIES: i8 = 10;

/// How far inside of the outermost factor that of the outermost run is tried: rounding the scale of
/// a super-block to f16 may cost more than a few factors that are never used.
const INWARDS: [f32; 4] = [0.0, 1.0, 2.0, 3.0];

/// Values in a super-block.
const SUPER: usize = 256;

/// Shares of a step, from minus one to one.
fn shares() -> impl Iterator<Item = f32> {
    (-TRIES..=TRIES).map(|n| f32::from(n) / f32::from(TRIES))
}

/// Sums over all values, in eight strands that the processor can follow side by side.
fn sums<const N: usize>(values: &[f32], of: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    let mut strands = [[0.0; 8]; N];
    for values in values.as_chunks::<8>().0 {
        for (i, value) in values.iter().enumerate() {
            for (strand, term) in strands.iter_mut().zip(of(*value)) {
                if let Some(sum) = strand.get_mut(i) {
                    *sum += term;
                }
            }
        }
    }
    strands.map(|strand| strand.iter().sum())
}

/// The value furthest from zero.
fn outermost(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, value| if value.abs() > most.abs() { *value } else { most })
}

/// The best scale for values without a minimum.
pub(super) fn scale<G: Grid>(values: &[f32]) -> f32 {
    let outermost = outermost(values);
    let (mut best, mut most) = (0.0, 0.0);
    for end in [G::LOWEST, G::HIGHEST] {
        for share in shares() {
            let inverse = (end + share * G::STEP) * inverse(outermost);
            let [product, square] = sums(values, |value| {
                let integer = G::nearest(value * inverse);
                [integer * value, integer * integer]
            });
            // What the square error of all zeros is reduced by.
            let gain = f64::from(product) * f64::from(product) / f64::from(square);
            if gain > most {
                (best, most) = (product / square, gain);
            }
        }
    }
    best
}

/// The square error of the nearest integers under this scale and minimum.
fn error<G: Grid>(values: &[f32], scale: f32, min: f32) -> f64 {
    let inverse = inverse(scale);
    let [error] = sums(values, |value| {
        let error = value - (G::nearest((value + min) * inverse) * scale - min);
        [error * error]
    });
    f64::from(error)
}

/// The codes of the nearest integers.
pub(super) fn codes<G: Grid, const LEN: usize>(values: &[f32; LEN], scale: f32) -> [u8; LEN] {
    let inverse = inverse(scale);
    values.map(|value| G::code(value * inverse))
}

/// The scale and the minimum, zero or more, of one run.
fn scale_and_min<G: Grid>(values: &[f32]) -> (f32, f32) {
    let lowest = values.iter().copied().fold(0.0, f32::min);
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut best, mut least) = ((0.0, -lowest), f64::INFINITY);
    for share in shares() {
        let step = (highest - lowest) / (G::HIGHEST + share * G::STEP);
        let mut found = (step, -lowest);
        for _ in 0..2 {
            found = fit::<G>(values, found);
            let error = error::<G>(values, found.0, found.1);
            if error < least {
                (best, least) = (found, error);
            }
        }
    }
    best
}

/// The straight line that passes closest to the integers that a scale and a minimum give.
fn fit<G: Grid>(values: &[f32], (scale, min): (f32, f32)) -> (f32, f32) {
    let inverse = inverse(scale);
    let [n, q, qq, x, xq] = sums(values, |x| {
        let q = G::nearest((x + min) * inverse);
        [1.0, q, q * q, x, x * q]
    });
    let spread = n * qq - q * q;
    if spread <= 0.0 {
        return (scale, min);
    }
    let min = (q * xq - qq * x) / spread;
    if min > 0.0 { ((n * xq - q * x) / spread, min) } else { (xq / qq, 0.0) }
}

/// A super-block without minima: a scale for all, a factor for each run.
pub(super) struct Scaled<const RUNS: usize> {
    pub(super) d: f16,
    pub(super) factors: [i8; RUNS],
    pub(super) codes: [u8; SUPER],
}

/// As [`scale`], run by run, with factors from the integers of `F`.
pub(super) fn scaled<G: Grid, F: Grid, const RUNS: usize>(values: &[f32; SUPER]) -> Scaled<RUNS> {
    let runs = || values.chunks_exact(SUPER.checked_div(RUNS).unwrap_or(SUPER));
    let mut wanted = [0.0; RUNS];
    for (wanted, run) in wanted.iter_mut().zip(runs()) {
        *wanted = scale::<G>(run);
    }
    let [first, others @ ..] = INWARDS.map(|less| {
        let d = f16::from_f32(outermost(&wanted) / (F::LOWEST + less));
        let (step, inverse) = (d.to_f32(), inverse(d.to_f32()));
        let (mut factors, mut total) = ([0; RUNS], 0.0);
        for ((factor, wanted), run) in factors.iter_mut().zip(wanted).zip(runs()) {
            let near = around::<F>(wanted * inverse);
            let found = least(near, |factor| error::<G>(run, step * f32::from(*factor), 0.0));
            *factor = found.1;
            total += found.0;
        }
        (total, (d, factors))
    });
    let (_, (d, factors)) = others.into_iter().fold(first, closer);
    let mut codes = [0; SUPER];
    let out = codes.chunks_exact_mut(SUPER.checked_div(RUNS).unwrap_or(SUPER));
    for ((factor, run), codes) in factors.iter().zip(runs()).zip(out) {
        put_codes::<G>(run, (d.to_f32() * f32::from(*factor), 0.0), codes);
    }
    Scaled { d, factors, codes }
}

/// A super-block with minima: a scale and a minimum for all, a factor of each for each run.
pub(super) struct Shifted<const RUNS: usize> {
    pub(super) d: f16,
    pub(super) min: f16,
    pub(super) factors: [u8; RUNS],
    pub(super) min_factors: [u8; RUNS],
    pub(super) codes: [u8; SUPER],
}

/// As [`scale_and_min`], run by run, with factors from the integers of `F`.
pub(super) fn shifted<G: Grid, F: Grid, const RUNS: usize>(values: &[f32; SUPER]) -> Shifted<RUNS> {
    let runs = || values.chunks_exact(SUPER.checked_div(RUNS).unwrap_or(SUPER));
    let mut wanted = [(0.0, 0.0); RUNS];
    for (wanted, run) in wanted.iter_mut().zip(runs()) {
        *wanted = scale_and_min::<G>(run);
    }
    let most = |of: fn(&(f32, f32)) -> f32| wanted.iter().map(of).fold(0.0, f32::max);
    let [first, others @ ..] = INWARDS.map(|less| {
        let top = F::HIGHEST - less;
        let (d, min) = (f16::from_f32(most(|w| w.0) / top), f16::from_f32(most(|w| w.1) / top));
        let steps = (d.to_f32(), min.to_f32());
        let (mut factors, mut total) = ([(0, 0); RUNS], 0.0);
        for ((factor, wanted), run) in factors.iter_mut().zip(wanted).zip(runs()) {
            let mins = around::<F>(wanted.1 * inverse(steps.1));
            let near = around::<F>(wanted.0 * inverse(steps.0))
                .flat_map(|factor| mins.clone().map(move |min| (factor, min)));
            let found = least(near, |factors| {
                let (scale, min) = times(steps, *factors);
                error::<G>(run, scale, min)
            });
            *factor = found.1;
            total += found.0;
        }
        (total, (d, min, factors))
    });
    let (_, (d, min, factors)) = others.into_iter().fold(first, closer);
    let mut codes = [0; SUPER];
    let out = codes.chunks_exact_mut(SUPER.checked_div(RUNS).unwrap_or(SUPER));
    for ((factor, run), codes) in factors.iter().zip(runs()).zip(out) {
        put_codes::<G>(run, times((d.to_f32(), min.to_f32()), *factor), codes);
    }
    let (factors, min_factors) =
        (factors.map(|f| f.0.cast_unsigned()), factors.map(|f| f.1.cast_unsigned()));
    Shifted { d, min, factors, min_factors, codes }
}

fn times(steps: (f32, f32), factors: (i8, i8)) -> (f32, f32) {
    (steps.0 * f32::from(factors.0), steps.1 * f32::from(factors.1))
}

/// The nearest integer of a grid and its neighbours.
fn around<F: Grid>(x: f32) -> impl Iterator<Item = i8> + Clone {
    [0.0, -1.0, 1.0].into_iter().map(move |beside| F::integer(F::code(x + beside)))
}

/// The one with less error.
fn closer<T>(a: (f64, T), b: (f64, T)) -> (f64, T) {
    if b.0 < a.0 { b } else { a }
}

/// The first candidate with the least error, behind its error.
fn least<T: Default>(candidates: impl Iterator<Item = T>, error: impl Fn(&T) -> f64) -> (f64, T) {
    let scored = candidates.map(|candidate| (error(&candidate), candidate));
    scored.reduce(closer).unwrap_or_default()
}

fn put_codes<G: Grid>(values: &[f32], (scale, min): (f32, f32), codes: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = G::code((value + min) * inverse);
    }
}
