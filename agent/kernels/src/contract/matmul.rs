//! Products and embeddings, in every format.

use super::{Checker, SIZES};
use crate::backend::{Backend, BackendError, Product, StepLimits};
use crate::format::Format;
use crate::formats;

/// Against the same rounded activations, only the order of f32 sums differs.
const SAME_ACTIVATIONS: f64 = 1e-10;
/// Against unrounded activations: what eight bits per activation cost, and no more.
const EXACT_ACTIVATIONS: f64 = 5e-4;

const OUTPUTS: [usize; 5] = [1, 7, 16, 33, 129];
const COLS: [usize; 3] = [32, 96, 576];
/// Float formats have no blocks, so any width will do.
const FLOAT_COLS: [usize; 4] = [1, 7, 33, 576];
/// Of super-blocks, as few, for they are large.
const SUPER_COLS: [usize; 2] = [256, 768];

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    let limits = StepLimits { rows: 129, cols: 768 };
    checker.case("reserve", "129 x 768", |checker| checker.backend.reserve(limits));
    for format in Format::WEIGHTS {
        for outputs in OUTPUTS {
            sizes(checker, format, outputs);
        }
        let case = format!("{format} 129 rows");
        checker.case("embed", &case, |checker| embed(checker, &case, format));
    }
    for format in Format::WEIGHTS {
        let case = format!("{format} 33 outputs, activations next to zero");
        checker.case("matmul", &case, |checker| next_to_zero(checker, &case, format));
    }
    for rows in [1, 9, 129] {
        let case = format!("six matrices of three formats at once, {rows} rows");
        checker.case("matmul", &case, |checker| several(checker, &case, rows));
    }
}

fn sizes<B: Backend>(checker: &mut Checker<'_, B>, format: Format, outputs: usize) {
    let cols: &[usize] = match format.block_len() {
        1 => &FLOAT_COLS,
        32 => &COLS,
        _ => &SUPER_COLS,
    };
    for &cols in cols {
        let case = format!("{format} {outputs} x {cols}");
        checker.case("matmul", &case, |checker| batches(checker, &case, (format, outputs, cols)));
    }
}

/// Weights of random values, and what they are as bytes.
fn weights<B: Backend>(checker: &mut Checker<'_, B>, format: Format, len: usize) -> Vec<u8> {
    let values = checker.numbers(len);
    formats::quantise(format, &values).unwrap_or_default()
}

/// `x * transpose(weights)` with activations rounded to `with`.
fn truth(
    (format, weights, outputs): (Format, &[u8], usize),
    (with, x, cols): (Format, &[f32], usize),
) -> Vec<f64> {
    let row_bytes = format.row_bytes(cols).unwrap_or(1);
    let mut out = Vec::with_capacity(x.len() / cols * outputs);
    if with.is_float() {
        let mut rows = vec![0.0; outputs * cols];
        // The bytes were made by `quantise`, so their length is right.
        let _ = formats::dequantise(format, weights, &mut rows);
        for x in x.chunks_exact(cols) {
            let mut rounded = vec![0.0; cols];
            let x = formats::quantise(with, x).unwrap_or_default();
            let _ = formats::dequantise(with, &x, &mut rounded);
            out.extend(rows.chunks_exact(cols).map(|row| product(row, &rounded)));
        }
        return out;
    }
    for x in x.chunks_exact(cols) {
        let x = formats::quantise(with, x).unwrap_or_default();
        for row in weights.chunks_exact(row_bytes) {
            out.push(formats::dot((format, row), (with, &x), cols).unwrap_or(f64::INFINITY));
        }
    }
    out
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// One matrix and batches of all sizes. A row's product does not depend on the others of its batch,
/// so the truth of the largest one begins with that of each.
fn batches<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    (format, outputs, cols): (Format, usize, usize),
) -> Result<(), BackendError> {
    let most = SIZES.into_iter().max().unwrap_or(0);
    let bytes = weights(checker, format, outputs * cols);
    let values = checker.numbers(most * cols);
    let matrix = checker.backend.matrix(format, outputs, cols, &bytes)?;
    let x = checker.buffer(&values)?;
    let with = checker.backend.activations(format);
    let rounded = truth((format, &bytes, outputs), (with, &values, cols));
    let exact = if with == Format::F32 {
        Vec::new()
    } else {
        truth((format, &bytes, outputs), (Format::F32, &values, cols))
    };
    for rows in SIZES {
        let (case, len) = (format!("{case}, {rows} rows"), rows * outputs);
        let mut out = checker.poisoned(len)?;
        let product = Product { matrix: &matrix, out: &mut out };
        checker.backend.matmul(&x, rows, &mut [product])?;
        checker.compare(("matmul", &case), &out, &rounded[..len], SAME_ACTIVATIONS);
        // Of a few products the error may happen to be large against their sum.
        if let Some(exact) = exact.get(..len).filter(|_| len > 64) {
            checker.compare(("matmul", &case), &out, exact, EXACT_ACTIVATIONS);
        }
    }
    Ok(())
}

/// Activations whose scale has no inverse, next to others, must come out as nothing.
fn next_to_zero<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    format: Format,
) -> Result<(), BackendError> {
    let (outputs, cols) = (33, 3 * format.block_len().max(32));
    let bytes = weights(checker, format, outputs * cols);
    let mut values = checker.numbers(3 * cols);
    // One block of the first row, and all of the last: 1e-40 / 127 is below the smallest float
    // that has an inverse.
    values[..32].fill(1e-40);
    values[2 * cols..].fill(-1e-40);
    let matrix = checker.backend.matrix(format, outputs, cols, &bytes)?;
    let x = checker.buffer(&values)?;
    let mut out = checker.poisoned(3 * outputs)?;
    checker.backend.matmul(&x, 3, &mut [Product { matrix: &matrix, out: &mut out }])?;
    let with = checker.backend.activations(format);
    let truth = truth((format, &bytes, outputs), (with, &values, cols));
    checker.compare(("matmul", case), &out, &truth, SAME_ACTIVATIONS);
    Ok(())
}

fn several<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    rows: usize,
) -> Result<(), BackendError> {
    let cols = 96;
    let kinds = [
        (Format::Q4_1, 48),
        (Format::F16, 7),
        (Format::Q8_0, 33),
        (Format::Q4_1, 129),
        (Format::Q4_1, 1),
        (Format::F16, 130),
    ];
    let values = checker.numbers(rows * cols);
    let x = checker.buffer(&values)?;
    let mut stored = Vec::new();
    for (format, outputs) in kinds {
        let bytes = weights(checker, format, outputs * cols);
        let matrix = checker.backend.matrix(format, outputs, cols, &bytes)?;
        stored.push((bytes, matrix, checker.poisoned(rows * outputs)?));
    }
    let mut products: Vec<_> =
        stored.iter_mut().map(|(_, matrix, out)| Product { matrix: &*matrix, out }).collect();
    checker.backend.matmul(&x, rows, &mut products)?;
    for ((format, outputs), (bytes, _, out)) in kinds.into_iter().zip(&stored) {
        let with = checker.backend.activations(format);
        let truth = truth((format, bytes, outputs), (with, &values, cols));
        checker.compare(("matmul", case), out, &truth, SAME_ACTIVATIONS);
    }
    Ok(())
}

fn embed<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    format: Format,
) -> Result<(), BackendError> {
    let (rows, cols) = (129, 3 * format.block_len().max(32));
    let bytes = weights(checker, format, rows * cols);
    let table = checker.backend.matrix(format, rows, cols, &bytes)?;
    let mut values = vec![0.0; rows * cols];
    // The bytes were made by `quantise`, so their length is right.
    let _ = formats::dequantise(format, &bytes, &mut values);
    let ids = checker.random.permutation(129);
    let mut out = checker.poisoned(ids.len() * cols)?;
    checker.backend.embed(&table, &ids, &mut out)?;
    let rows = ids.iter().filter_map(|id| values.chunks_exact(cols).nth(*id as usize));
    let truth: Vec<f64> = rows.flatten().map(|value| f64::from(*value)).collect();
    checker.compare(("embed", case), &out, &truth, 0.0);
    Ok(())
}
