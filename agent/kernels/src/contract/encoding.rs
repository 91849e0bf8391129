//! What only models need that read texts and write none.

use super::{Checker, SIZES};
use crate::backend::{Backend, BackendError};

/// Sums of a few thousand f32 products.
const FLOAT: f64 = 1e-10;

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    for rows in SIZES {
        for cols in [1, 31, 64, 576] {
            let case = format!("{rows} rows of {cols}");
            checker.case("layer_norm", &case, |checker| layer_norm(checker, &case, rows, cols));
        }
    }
    for len in SIZES.into_iter().chain([4096, 20_000]) {
        let case = format!("{len} elements");
        checker.case("gelu", &case, |checker| gelu(checker, &case, len));
    }
    checker.case("refusals", "encoding", refusals);
}

fn layer_norm<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
    cols: usize,
) -> Result<(), BackendError> {
    // Far from zero, where a variance from squares alone would be lost.
    let values: Vec<f32> = checker.numbers(rows * cols).iter().map(|x| x + 3.0).collect();
    let (weight, bias, eps) = (checker.numbers(cols), checker.numbers(cols), 1e-12);
    let (x, w, b) = (checker.buffer(&values)?, checker.buffer(&weight)?, checker.buffer(&bias)?);
    let mut out = checker.poisoned(rows * cols)?;
    checker.backend.layer_norm(&x, [&w, &b], eps, rows, &mut out)?;
    let mut truth = Vec::with_capacity(values.len());
    for row in values.chunks_exact(cols) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
        let apart = |x: &f32| f64::from(*x) - mean;
        let variance = row.iter().map(|x| apart(x).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let affine = weight.iter().zip(&bias);
        truth.extend(
            row.iter()
                .zip(affine)
                .map(|(x, (w, b))| apart(x) * scale * f64::from(*w) + f64::from(*b)),
        );
    }
    checker.compare(("layer_norm", case), &out, &truth, FLOAT);
    Ok(())
}

fn gelu<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    len: usize,
) -> Result<(), BackendError> {
    // Up to 12, where the gate has long been open or shut.
    let mut values: Vec<f32> = checker.numbers(len).iter().map(|x| x * 12.0).collect();
    let truth: Vec<f64> = values
        .iter()
        .map(|x| {
            let x = f64::from(*x);
            x / 2.0 * erfc(-x / std::f64::consts::SQRT_2)
        })
        .collect();
    values.resize(len + super::GUARD, f32::NAN);
    let mut x = checker.buffer(&values)?;
    checker.backend.gelu(&mut x, len)?;
    checker.compare(("gelu", case), &x, &truth, FLOAT);
    Ok(())
}

/// What the error function lacks to 1: by a series of positive terms, and beyond 2, where that would
/// cancel, by a continued fraction.
fn erfc(x: f64) -> f64 {
    let bell = (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI;
    if x > 2.0 {
        let fraction = (1..=100).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
        return bell / 2.0 / fraction;
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-17 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    1.0 - bell * sum
}

fn refusals<B: Backend>(checker: &mut Checker<'_, B>) -> Result<(), BackendError> {
    let (x, short) = (checker.buffer(&[1.0; 8])?, checker.buffer(&[1.0; 7])?);
    let mut out = checker.poisoned(0)?;
    let result = checker.backend.layer_norm(&x, [&x, &x], 1e-5, 2, &mut out);
    checker.refused("layer_norm", "more rows than x has", &result);
    let result = checker.backend.layer_norm(&x, [&x, &short], 1e-5, 1, &mut out);
    checker.refused("layer_norm", "a bias shorter than a row", &result);
    let result = checker.backend.gelu(&mut out, super::GUARD + 1);
    checker.refused("gelu", "more elements than there are", &result);
    checker.untouched("every op", &out);
    Ok(())
}
