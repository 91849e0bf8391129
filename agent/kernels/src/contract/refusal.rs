//! What a backend must refuse, with its outputs untouched.

use super::{Checker, Fault};
use crate::backend::{
    Attention, Backend, BackendError, Curve, KvShape, KvType, Product, Reach, RopeShape, RopeStyle,
    Span,
};
use crate::format::Format;

const SHAPE: KvShape = KvShape {
    layers: 1,
    kv_heads: 2,
    head_dim: 8,
    blocks: 2,
    block_tokens: 16,
    kv_type: KvType::F16,
};

const CALL: Attention<'_> = Attention {
    layer: 0,
    heads: 2,
    scale: 1.0,
    soft_cap: None,
    reach: Reach::Back,
    window: None,
    spans: &[],
};

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    weights(checker);
    checker.case("refusals", "buffers", buffers);
    checker.case("refusals", "cache", cache);
}

impl<B: Backend> Checker<'_, B> {
    pub(super) fn refused<T>(
        &mut self,
        op: &'static str,
        case: &str,
        result: &Result<T, BackendError>,
    ) {
        self.note(op, case, result.is_ok().then_some(Fault::Accepted));
    }

    /// That not one element of a poisoned buffer has been written.
    pub(super) fn untouched(&mut self, op: &'static str, out: &B::Buffer) {
        self.compare((op, "outputs after a refusal"), out, &[], 0.0);
    }
}

fn weights<B: Backend>(checker: &mut Checker<'_, B>) {
    let short = checker.backend.matrix(Format::F32, 2, 2, &[0; 15]);
    checker.refused("matrix", "a byte too few", &short);
    let partial = checker.backend.matrix(Format::Q8_0, 1, 33, &[0; 68]);
    checker.refused("matrix", "half a block", &partial);
    let huge = checker.backend.matrix(Format::F32, usize::MAX, 2, &[0; 8]);
    checker.refused("matrix", "sizes that overflow", &huge);
    for (format, cols, bytes) in [(Format::Q8_1, 32, 36), (Format::Q8K, 256, 292)] {
        let activations = checker.backend.matrix(format, 1, cols, &vec![0; bytes]);
        checker.refused("matrix", "a format that holds activations only", &activations);
    }
    let room = checker.backend.buffer(usize::MAX / 8);
    checker.refused("buffer", "more than there is", &room);
}

fn buffers<B: Backend>(checker: &mut Checker<'_, B>) -> Result<(), BackendError> {
    let x = checker.buffer(&[1.0; 8])?;
    let mut out = checker.poisoned(0)?;
    let matrix = checker.backend.matrix(Format::F32, 4, 2, &[0; 32])?;
    let wide = checker.backend.matrix(Format::F32, 4, 3, &[0; 48])?;
    let result = checker.backend.embed(&matrix, &[0, 4], &mut out);
    checker.refused("embed", "a token beyond the table", &result);
    let product = Product { matrix: &matrix, out: &mut out };
    let result = checker.backend.matmul(&x, 5, &mut [product]);
    checker.refused("matmul", "more rows than x has", &result);
    let product = Product { matrix: &matrix, out: &mut out };
    let result = checker.backend.matmul(&x, usize::MAX, &mut [product]);
    checker.refused("matmul", "rows that overflow", &result);
    let mut other = checker.poisoned(0)?;
    let products = &mut [
        Product { matrix: &matrix, out: &mut out },
        Product { matrix: &wide, out: &mut other },
    ];
    let result = checker.backend.matmul(&x, 1, products);
    checker.refused("matmul", "matrices of different widths", &result);
    let result = checker.backend.rms_norm(&x, &x, 1e-5, 2, &mut out);
    checker.refused("rms_norm", "more rows than x has", &result);
    let result = checker.backend.gather_rows(&x, 2, &[4], &mut out);
    checker.refused("gather_rows", "a row beyond x", &result);
    for curve in [Curve::Silu, Curve::Gelu] {
        let result = checker.backend.gated(curve, &x, &x, 9, &mut out);
        checker.refused("gated", "more elements than there are", &result);
    }
    let result = checker.backend.soft_cap(&mut out, 1.0, super::GUARD + 1);
    checker.refused("soft_cap", "more elements than there are", &result);
    let result = checker.backend.scale(&mut out, 2.0, super::GUARD + 1);
    checker.refused("scale", "more elements than there are", &result);
    let result = checker.backend.add_bias(&mut out, &x, 3);
    checker.refused("add_bias", "more rows than there are", &result);
    let result = checker.backend.add_rows(&mut out, 4, &[4], &[1.0], &x);
    checker.refused("add_rows", "a row beyond x", &result);
    let result = checker.backend.add_rows(&mut out, 4, &[0, 1], &[1.0], &x);
    checker.refused("add_rows", "a factor too few", &result);
    let result = checker.backend.add(&mut out, &x, 9);
    checker.refused("add", "more elements than there are", &result);
    let shape = RopeShape { heads: 1, head_dim: 8, style: RopeStyle::Norm, magnitude: 1.0 };
    let result = checker.backend.rope(&mut out, &[0], &x, shape);
    checker.refused("rope", "more frequencies than pairs", &result);
    let result = checker.backend.write(&mut out, 16, &[0.0; 2]);
    checker.refused("write", "beyond the end", &result);
    let result = checker.backend.read(&x, usize::MAX, &mut [0.0; 2]);
    checker.refused("read", "beyond the end", &result);
    checker.untouched("every op", &out);
    Ok(())
}

fn cache<B: Backend>(checker: &mut Checker<'_, B>) -> Result<(), BackendError> {
    let odd = KvShape { block_tokens: 12, ..SHAPE };
    let result = checker.backend.kv_cache(odd);
    checker.refused("kv_cache", "blocks of twelve tokens", &result);
    let huge = KvShape { blocks: usize::MAX / 2, ..SHAPE };
    let result = checker.backend.kv_cache(huge);
    checker.refused("kv_cache", "sizes that overflow", &result);
    let mut kv = checker.backend.kv_cache(SHAPE)?;
    let row = checker.buffer(&[0.5; 64])?;
    let result = checker.backend.kv_store(&mut kv, 0, &[32], &row, &row);
    checker.refused("kv_store", "a slot beyond the pool", &result);
    let result = checker.backend.kv_store(&mut kv, 1, &[0], &row, &row);
    checker.refused("kv_store", "a layer beyond the model", &result);
    let result = checker.backend.kv_store(&mut kv, 0, &[0; 5], &row, &row);
    checker.refused("kv_store", "more slots than rows", &result);
    let good = Span { first_row: 0, rows: 1, past: 0, blocks: &[0] };
    let cases = [
        ("a block beyond the pool", 2, Span { blocks: &[2], ..good }, 0),
        ("too few blocks", 2, Span { past: 16, ..good }, 0),
        ("more rows than q has", 2, Span { rows: 5, ..good }, 0),
        ("rows that overflow", 2, Span { first_row: usize::MAX, ..good }, 0),
        ("heads that do not divide", 3, good, 0),
        ("a layer beyond the model", 2, good, 1),
    ];
    let mut out = checker.poisoned(64)?;
    for (case, heads, span, layer) in cases {
        let call = Attention { layer, heads, spans: &[span], ..CALL };
        let result = checker.backend.attention(&kv, &call, &row, &mut out);
        checker.refused("attention", case, &result);
    }
    let spans = [Span { rows: 2, ..good }, Span { first_row: 1, ..good }];
    let call = Attention { spans: &spans, ..CALL };
    let result = checker.backend.attention(&kv, &call, &row, &mut out);
    checker.refused("attention", "spans that overlap", &result);
    let call = Attention { window: Some(0), spans: &[good], ..CALL };
    let result = checker.backend.attention(&kv, &call, &row, &mut out);
    checker.refused("attention", "a window of nothing", &result);
    checker.untouched("attention", &out);
    Ok(())
}
