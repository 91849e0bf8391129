//! Norms, rotations, activations, sums and copies.

use super::{Checker, SIZES};
use crate::backend::{Backend, BackendError, Curve, RopeShape, RopeStyle};

/// Sums of a few thousand f32 products.
const FLOAT: f64 = 1e-10;
/// A sine of an angle of thousands of radians computed in f32 is off by 1e-4.
const ROPE: f64 = 1e-7;

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    for rows in SIZES {
        for cols in [1, 31, 64, 576] {
            let case = format!("{rows} rows of {cols}");
            checker.case("rms_norm", &case, |checker| rms_norm(checker, &case, rows, cols));
            checker.case("gather_rows", &case, |checker| gather(checker, &case, rows, cols));
        }
        for (heads, head_dim, pairs) in [(1, 2, 1), (3, 64, 32), (9, 80, 16)] {
            for style in [RopeStyle::Norm, RopeStyle::Neox] {
                let magnitude = if style == RopeStyle::Norm { 1.0 } else { 1.19 };
                let shape = RopeShape { heads, head_dim, style, magnitude };
                let case = format!("{rows} rows, {shape:?}, {pairs} pairs");
                checker.case("rope", &case, |checker| rope(checker, &case, (rows, pairs), shape));
            }
        }
    }
    for len in SIZES.into_iter().chain([4096, 20_000]) {
        let case = format!("{len} elements");
        checker.case("add", &case, |checker| add(checker, &case, len));
        for curve in [Curve::Silu, Curve::Gelu] {
            let case = format!("{curve:?}, {case}");
            checker.case("gated", &case, |checker| gated(checker, &case, curve, len));
        }
    }
}

fn rms_norm<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
    cols: usize,
) -> Result<(), BackendError> {
    let (values, weight, eps) = (checker.numbers(rows * cols), checker.numbers(cols), 1e-5);
    let (x, w) = (checker.buffer(&values)?, checker.buffer(&weight)?);
    let mut out = checker.poisoned(rows * cols)?;
    checker.backend.rms_norm(&x, &w, eps, rows, &mut out)?;
    let mut truth = Vec::with_capacity(values.len());
    for row in values.chunks_exact(cols) {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        truth.extend(row.iter().zip(&weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)));
    }
    checker.compare(("rms_norm", case), &out, &truth, FLOAT);
    Ok(())
}

fn gather<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
    cols: usize,
) -> Result<(), BackendError> {
    let values = checker.numbers(rows * cols);
    let x = checker.buffer(&values)?;
    let mut order = checker.random.permutation(u32::try_from(rows).unwrap_or(0));
    order.truncate(rows.div_ceil(2));
    let mut out = checker.poisoned(order.len() * cols)?;
    checker.backend.gather_rows(&x, cols, &order, &mut out)?;
    let rows = order.iter().filter_map(|row| values.chunks_exact(cols).nth(*row as usize));
    let truth: Vec<f64> = rows.flatten().map(|value| f64::from(*value)).collect();
    checker.compare(("gather_rows", case), &out, &truth, 0.0);
    Ok(())
}

fn add<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    len: usize,
) -> Result<(), BackendError> {
    let (mut a, b) = (checker.numbers(len), checker.numbers(len));
    let truth: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
    a.resize(len + super::GUARD, f32::NAN);
    let (mut x, y) = (checker.buffer(&a)?, checker.buffer(&b)?);
    checker.backend.add(&mut x, &y, len)?;
    checker.compare(("add", case), &x, &truth, FLOAT);
    Ok(())
}

fn gated<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    curve: Curve,
    len: usize,
) -> Result<(), BackendError> {
    // A SiLU's exponential runs through its range in both directions up to 60; a GELU's gate has
    // long been open or shut at 12.
    let most = if curve == Curve::Silu { 60.0 } else { 12.0 };
    let gate: Vec<f32> = checker.numbers(len).iter().map(|x| x * most).collect();
    let up = checker.numbers(len);
    let (g, u) = (checker.buffer(&gate)?, checker.buffer(&up)?);
    let mut out = checker.poisoned(len)?;
    checker.backend.gated(curve, &g, &u, len, &mut out)?;
    let opened = |x: f64| match curve {
        Curve::Silu => x / (1.0 + (-x).exp()),
        Curve::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            // The same as `x (1 + tanh(inner)) / 2`, which far below zero would lose all its digits.
            x / (1.0 + (-2.0 * inner).exp())
        }
    };
    let pairs = gate.iter().zip(&up);
    let truth: Vec<f64> = pairs.map(|(g, u)| opened(f64::from(*g)) * f64::from(*u)).collect();
    checker.compare(("gated", case), &out, &truth, FLOAT);
    Ok(())
}

fn rope<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    (rows, pairs): (usize, usize),
    shape: RopeShape,
) -> Result<(), BackendError> {
    let RopeShape { heads, head_dim, style, magnitude } = shape;
    let mut values = checker.numbers(rows * heads * head_dim);
    let frequencies: Vec<f32> =
        (0..pairs).map(|i| 10_000_f32.powf(-(i as f32) / pairs as f32)).collect();
    let positions: Vec<u32> =
        (0..rows).map(|_| u32::try_from(checker.random.below(4096)).unwrap_or(0)).collect();
    let mut truth: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    for (row, position) in truth.chunks_exact_mut(heads * head_dim).zip(&positions) {
        for head in row.chunks_exact_mut(head_dim) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match style {
                    RopeStyle::Norm => (2 * i, 2 * i + 1),
                    RopeStyle::Neox => (i, i + pairs),
                };
                let (sin, cos) = (f64::from(*position) * f64::from(*frequency)).sin_cos();
                let (sin, cos) = (sin * f64::from(magnitude), cos * f64::from(magnitude));
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
    }
    values.resize(truth.len() + super::GUARD, f32::NAN);
    let (mut x, table) = (checker.buffer(&values)?, checker.buffer(&frequencies)?);
    checker.backend.rope(&mut x, &positions, &table, shape)?;
    checker.compare(("rope", case), &x, &truth, ROPE);
    Ok(())
}
