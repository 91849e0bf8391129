//! What only some architectures need: caps, scales and biases.

use super::{Checker, SIZES};
use crate::backend::{Backend, BackendError};

/// Sums of a few f32 products.
const FLOAT: f64 = 1e-10;

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    for len in SIZES.into_iter().chain([4096, 20_000]) {
        let case = format!("{len} elements");
        checker.case("soft_cap", &case, |checker| soft_cap(checker, &case, len));
        checker.case("scale", &case, |checker| scale(checker, &case, len));
        checker.case("host", &case, |checker| host(checker, &case, len));
    }
    for rows in SIZES {
        for cols in [1, 31, 64, 576] {
            let case = format!("{rows} rows of {cols}");
            checker.case("add_bias", &case, |checker| add_bias(checker, &case, rows, cols));
            checker.case("add_rows", &case, |checker| add_rows(checker, &case, rows, cols));
        }
    }
}

/// `len` numbers in a buffer with a guard behind, and themselves.
fn guarded<B: Backend>(
    checker: &mut Checker<'_, B>,
    (len, factor): (usize, f32),
) -> Result<(B::Buffer, Vec<f64>), BackendError> {
    let mut values: Vec<f32> = checker.numbers(len).iter().map(|x| x * factor).collect();
    let exact = values.iter().map(|x| f64::from(*x)).collect();
    values.resize(len + super::GUARD, f32::NAN);
    Ok((checker.buffer(&values)?, exact))
}

fn soft_cap<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    len: usize,
) -> Result<(), BackendError> {
    let (mut x, values) = guarded(checker, (len, 90.0))?;
    let cap = 30.0;
    checker.backend.soft_cap(&mut x, cap, len)?;
    let cap = f64::from(cap);
    let truth: Vec<f64> = values.iter().map(|x| (x / cap).tanh() * cap).collect();
    checker.compare(("soft_cap", case), &x, &truth, FLOAT);
    Ok(())
}

fn scale<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    len: usize,
) -> Result<(), BackendError> {
    let (mut x, values) = guarded(checker, (len, 1.0))?;
    checker.backend.scale(&mut x, 25.5, len)?;
    let truth: Vec<f64> = values.iter().map(|x| x * 25.5).collect();
    checker.compare(("scale", case), &x, &truth, FLOAT);
    Ok(())
}

/// What the host is given is what operations write and what is read.
fn host<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    len: usize,
) -> Result<(), BackendError> {
    let (mut x, values) = guarded(checker, (len, 1.0))?;
    checker.backend.scale(&mut x, 25.5, len)?;
    let mut by = 25.5;
    if let Some(floats) = checker.backend.host(&mut x) {
        for float in floats {
            *float *= 2.0;
        }
        by *= 2.0;
    }
    let truth: Vec<f64> = values.iter().map(|x| x * by).collect();
    checker.compare(("host", case), &x, &truth, FLOAT);
    Ok(())
}

fn add_bias<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
    cols: usize,
) -> Result<(), BackendError> {
    let (mut x, values) = guarded(checker, (rows * cols, 1.0))?;
    let bias = checker.numbers(cols);
    let b = checker.buffer(&bias)?;
    checker.backend.add_bias(&mut x, &b, rows)?;
    let truth: Vec<f64> =
        values.iter().zip(bias.iter().cycle()).map(|(x, b)| x + f64::from(*b)).collect();
    checker.compare(("add_bias", case), &x, &truth, FLOAT);
    Ok(())
}

fn add_rows<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
    cols: usize,
) -> Result<(), BackendError> {
    let (mut x, mut truth) = guarded(checker, (rows * cols, 1.0))?;
    let mut order = checker.random.permutation(u32::try_from(rows).unwrap_or(0));
    order.truncate(rows.div_ceil(2));
    let (factors, added) = (checker.numbers(order.len()), checker.numbers(order.len() * cols));
    let y = checker.buffer(&added)?;
    checker.backend.add_rows(&mut x, cols, &order, &factors, &y)?;
    for ((row, factor), added) in order.iter().zip(&factors).zip(added.chunks_exact(cols)) {
        let truth = &mut truth[*row as usize * cols..][..cols];
        for (truth, added) in truth.iter_mut().zip(added) {
            *truth += f64::from(*factor) * f64::from(*added);
        }
    }
    checker.compare(("add_rows", case), &x, &truth, FLOAT);
    Ok(())
}
