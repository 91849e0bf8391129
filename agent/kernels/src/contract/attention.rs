//! Attention over a cache that is full of NaN wherever nothing was stored.

use half::f16;

use super::{Checker, SIZES};
use crate::{
    backend::{Attention, Backend, BackendError, KV_GROUP, KvShape, KvType, Reach, Span},
    format::Format,
    formats,
};

/// Keys and values are rounded alike in the truth; what is left is the softmax in f32.
const BOUND: f64 = 1e-7;

/// Query heads per KV head.
const GROUPS: [usize; 4] = [1, 3, 4, 9];

/// How a layer attends otherwise than usual.
#[derive(Clone, Copy, Debug)]
struct Variant {
    reach: Reach,
    window: Option<usize>,
    soft_cap: Option<f32>,
}

const USUAL: Variant = Variant { reach: Reach::Back, window: None, soft_cap: None };

/// Windows of less than, about and more than the tokens that a kernel takes at once.
const VARIANTS: [Variant; 8] = [
    USUAL,
    Variant { window: Some(1), ..USUAL },
    Variant { window: Some(37), soft_cap: Some(0.7), ..USUAL },
    Variant { window: Some(128), ..USUAL },
    Variant { reach: Reach::Both, ..USUAL },
    Variant { reach: Reach::Both, window: Some(1), ..USUAL },
    Variant { reach: Reach::Both, window: Some(37), soft_cap: Some(0.7) },
    Variant { reach: Reach::Both, window: Some(200), ..USUAL },
];

impl Variant {
    /// The tokens of a sequence of `len` that the one at `position` attends.
    fn seen(&self, position: usize, len: usize) -> std::ops::Range<usize> {
        match (self.reach, self.window) {
            (Reach::Back, window) => {
                let seen = position + 1;
                window.map_or(0, |window| seen.saturating_sub(window))..seen
            }
            (Reach::Both, None) => 0..len,
            (Reach::Both, Some(window)) => {
                position.saturating_sub(window / 2)..len.min(position + window / 2 + 1)
            }
        }
    }
}

pub(super) fn check<B: Backend>(checker: &mut Checker<'_, B>) {
    for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
        for group in GROUPS {
            for head_dim in [8, 64, 80] {
                let blocks_of = |block_tokens| {
                    let blocks = SIZES.iter().map(|len| len.div_ceil(block_tokens)).sum();
                    let (layers, kv_heads) = (2, 3);
                    KvShape { layers, kv_heads, head_dim, blocks, block_tokens, kv_type }
                };
                check_shapes(checker, group, [16, 32].map(blocks_of));
            }
        }
    }
}

fn check_shapes<B: Backend>(checker: &mut Checker<'_, B>, group: usize, shapes: [KvShape; 2]) {
    for shape in shapes {
        // Heads that end within a line are the hardest; they stand for the others.
        let variants = if shape.head_dim == 80 { VARIANTS.len() } else { 1 };
        for variant in VARIANTS.into_iter().take(variants) {
            let case = format!("{group} heads per {shape:?}, {variant:?}");
            checker
                .case("attention", &case, |checker| batch(checker, &case, (group, variant), shape));
        }
    }
}

/// One sequence: its keys and values, `(token, kv head, head_dim)`, and its blocks.
struct Sequence {
    len: usize,
    past: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// As the cache rounds them.
    exact_keys: Vec<f64>,
    exact_values: Vec<f64>,
    blocks: Vec<u32>,
}

/// A batch with one sequence of each size, each with some tokens before this batch.
fn batch<B: Backend>(
    checker: &mut Checker<'_, B>,
    case: &str,
    (group, variant): (usize, Variant),
    shape: KvShape,
) -> Result<(), BackendError> {
    let mut kv = checker.backend.kv_cache(shape)?;
    poison(checker, &mut kv, shape)?;
    let layer = 1;
    let sequences = sequences(checker, shape);
    for sequence in &sequences {
        store(checker, &mut kv, (layer, shape), sequence)?;
        forget(checker, &mut kv, (layer, shape), (sequence, variant))?;
    }
    let (heads, scale) = (group * shape.kv_heads, 0.3);
    // One row before each span belongs to nobody and must be left alone.
    let mut rows = 0;
    let mut spans = Vec::new();
    for sequence in &sequences {
        let (first_row, own) = (rows + 1, sequence.len - sequence.past);
        spans.push(Span { first_row, rows: own, past: sequence.past, blocks: &sequence.blocks });
        rows = first_row + own;
    }
    let queries = checker.numbers(rows * heads * shape.head_dim);
    let q = checker.buffer(&queries)?;
    let mut out = checker.poisoned(queries.len())?;
    let Variant { reach, window, soft_cap } = variant;
    let call = Attention { layer, heads, scale, soft_cap, reach, window, spans: &spans };
    checker.backend.attention(&kv, &call, &q, &mut out)?;
    let mut truth = vec![f64::NAN; queries.len()];
    let width = heads * shape.head_dim;
    for (span, sequence) in spans.iter().zip(&sequences) {
        for row in 0..span.rows {
            let at = (span.first_row + row) * width..(span.first_row + row + 1) * width;
            let (q, out) = (&queries[at.clone()], &mut truth[at]);
            let seen = variant.seen(span.past + row, sequence.len);
            attend((q, out), sequence, seen, (group, f64::from(scale), soft_cap), shape);
        }
    }
    checker.compare(("attention", case), &out, &truth, BOUND);
    Ok(())
}

fn sequences<B: Backend>(checker: &mut Checker<'_, B>, shape: KvShape) -> Vec<Sequence> {
    let mut free = checker.random.permutation(u32::try_from(shape.blocks).unwrap_or(0));
    let width = shape.kv_heads * shape.head_dim;
    let mut sequences = Vec::new();
    for len in SIZES {
        let blocks = free.split_off(free.len() - len.div_ceil(shape.block_tokens));
        let past = checker.random.below(len);
        let (keys, values) = (checker.numbers(len * width), checker.numbers(len * width));
        let [exact_keys, exact_values] = [&keys, &values].map(|all| rounded(all, &shape));
        sequences.push(Sequence { len, past, keys, values, exact_keys, exact_values, blocks });
    }
    sequences
}

fn rounded(values: &[f32], shape: &KvShape) -> Vec<f64> {
    match shape.kv_type {
        KvType::F16 => values.iter().map(|value| f16::from_f32(*value).to_f64()).collect(),
        KvType::F32 => values.iter().copied().map(f64::from).collect(),
        KvType::Q8_0 => {
            let heads = values.chunks(shape.head_dim);
            heads.flat_map(|head| head.chunks(KV_GROUP)).flat_map(rounded_to_bytes).collect()
        }
    }
}

/// As a block of Q8_0 has them, with zeros where it is not full.
fn rounded_to_bytes(values: &[f32]) -> Vec<f64> {
    let mut group = [0.0; KV_GROUP];
    group.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
    let block = formats::quantise(Format::Q8_0, &group).unwrap_or_default();
    let mut rounded = [f32::NAN; KV_GROUP];
    let _ = formats::dequantise(Format::Q8_0, &block, &mut rounded);
    rounded.iter().take(values.len()).copied().map(f64::from).collect()
}

/// Fills every slot of every layer with NaN.
fn poison<B: Backend>(
    checker: &mut Checker<'_, B>,
    kv: &mut B::KvCache,
    shape: KvShape,
) -> Result<(), BackendError> {
    let slots: Vec<u32> =
        (0..u32::try_from(shape.blocks * shape.block_tokens).unwrap_or(0)).collect();
    let nan = checker.buffer(&vec![f32::NAN; slots.len() * shape.kv_heads * shape.head_dim])?;
    (0..shape.layers).try_for_each(|layer| checker.backend.kv_store(kv, layer, &slots, &nan, &nan))
}

fn store<B: Backend>(
    checker: &mut Checker<'_, B>,
    kv: &mut B::KvCache,
    (layer, shape): (usize, KvShape),
    sequence: &Sequence,
) -> Result<(), BackendError> {
    let tokens = u32::try_from(shape.block_tokens).unwrap_or(1);
    let slots: Vec<u32> = sequence
        .blocks
        .iter()
        .flat_map(|block| (0..tokens).map(move |token| block * tokens + token))
        .take(sequence.len)
        .collect();
    let (k, v) = (checker.buffer(&sequence.keys)?, checker.buffer(&sequence.values)?);
    checker.backend.kv_store(kv, layer, &slots, &k, &v)
}

/// Fills the blocks that no row of the batch sees any more with NaN: they may be anybody's by now.
fn forget<B: Backend>(
    checker: &mut Checker<'_, B>,
    kv: &mut B::KvCache,
    (layer, shape): (usize, KvShape),
    (sequence, variant): (&Sequence, Variant),
) -> Result<(), BackendError> {
    let unseen = variant.seen(sequence.past, sequence.len).start / shape.block_tokens;
    let tokens = u32::try_from(shape.block_tokens).unwrap_or(1);
    let blocks = sequence.blocks.iter().take(unseen);
    let slots: Vec<u32> =
        blocks.flat_map(|block| (0..tokens).map(move |token| block * tokens + token)).collect();
    let nan = checker.buffer(&vec![f32::NAN; slots.len() * shape.kv_heads * shape.head_dim])?;
    checker.backend.kv_store(kv, layer, &slots, &nan, &nan)
}

/// The softmax over the tokens that one row's heads have `seen`.
fn attend(
    (q, out): (&[f32], &mut [f64]),
    sequence: &Sequence,
    seen: std::ops::Range<usize>,
    (group, scale, soft_cap): (usize, f64, Option<f32>),
    shape: KvShape,
) {
    let dim = shape.head_dim;
    let heads = q.chunks_exact(dim).zip(out.chunks_exact_mut(dim));
    for (head, (q, out)) in heads.enumerate() {
        let at = |token| (token * shape.kv_heads + head / group) * dim;
        out.fill(0.0);
        let mut total = 0.0;
        for token in seen.clone() {
            let (key, value) =
                (&sequence.exact_keys[at(token)..], &sequence.exact_values[at(token)..]);
            let products = q.iter().zip(key).map(|(q, key)| f64::from(*q) * key);
            let product = products.sum::<f64>() * scale;
            let score = soft_cap.map(f64::from).map_or(product, |cap| (product / cap).tanh() * cap);
            let weight = score.exp();
            total += weight;
            out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
        }
        for out in out {
            *out /= total;
        }
    }
}
