//! Every format of weights in every place that a file may have it: embedding, attention, experts and
//! head, on a tiny model whose rows are as long as the largest block.

use realm_engine::{
    eval::{EvalOptions, Evaluation},
    gguf::{
        Gguf, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::{backend::KvType, format::Format, formats};

use crate::{support::vector, tiny_gguf};

const WIDTH: u64 = 256;
const KV_WIDTH: u64 = 128;
const EXPERTS: u64 = 3;
/// Tokens that are evaluated as one sequence.
const CHUNK: usize = 128;

/// What the eight bits of activations may cost logits, the few tokens among it that go to another
/// expert for it. A matrix that is read wrongly costs all that there is.
const ACTIVATIONS: f64 = 1e-2;

/// What rounding the weights may change the logarithm of the perplexity by.
fn weights_cost(format: Format) -> f64 {
    match format {
        Format::F32 => 1e-9,
        Format::F16 | Format::BF16 | Format::Q8_0 => 0.01,
        Format::Q6K | Format::Q5_0 | Format::Q5_1 | Format::Q5K => 0.03,
        Format::Q2K => 0.3,
        _ => 0.1,
    }
}

fn metadata(format: Format) -> Vec<(String, Value)> {
    let (width, experts) = (u32::try_from(WIDTH).unwrap(), u32::try_from(EXPERTS).unwrap());
    let own = [
        ("llama.block_count", 1),
        ("llama.embedding_length", width),
        ("llama.feed_forward_length", width),
        ("llama.rope.dimension_count", width / 4),
        ("llama.expert_count", experts),
        ("llama.expert_used_count", 2),
    ];
    let mut pairs = tiny_gguf::metadata(format);
    pairs.retain(|(key, _)| own.iter().all(|(name, _)| key != name));
    pairs.extend(own.map(|(name, value)| (name.to_owned(), Value::U32(value))));
    pairs
}

/// Numbers that are the same every time: around 1 for norms, spread as the width needs it for
/// matrices.
fn numbers(name: &str, len: u64) -> Vec<f32> {
    let seed = name.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
    let number = |at: u64| {
        let x = (seed << 32 | at).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f32::from(u16::try_from(x >> 48).unwrap()) / 32_768.0 - 1.0
    };
    let is_norm = name.contains("norm");
    (0..len).map(|at| if is_norm { 1.0 + number(at) / 8.0 } else { number(at) / 8.0 }).collect()
}

/// The model with its matrices rounded to `format` and kept in `stored`.
pub(crate) fn model(format: Format, stored: Format) -> Gguf {
    let vocabulary = 265;
    let shapes: [(&str, &[u64]); 13] = [
        ("token_embd.weight", &[WIDTH, vocabulary]),
        ("output_norm.weight", &[WIDTH]),
        ("output.weight", &[WIDTH, vocabulary]),
        ("blk.0.attn_norm.weight", &[WIDTH]),
        ("blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", &[WIDTH, KV_WIDTH]),
        ("blk.0.attn_v.weight", &[WIDTH, KV_WIDTH]),
        ("blk.0.attn_output.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_norm.weight", &[WIDTH]),
        ("blk.0.ffn_gate_inp.weight", &[WIDTH, EXPERTS]),
        ("blk.0.ffn_gate_exps.weight", &[WIDTH, WIDTH, EXPERTS]),
        ("blk.0.ffn_up_exps.weight", &[WIDTH, WIDTH, EXPERTS]),
        ("blk.0.ffn_down_exps.weight", &[WIDTH, WIDTH, EXPERTS]),
    ];
    let tensor = |(name, shape): (&str, &[u64])| {
        let values = numbers(name, shape.iter().product());
        // A router that is rounded may choose another expert, which is no matter of precision.
        let is_kept = shape.len() == 1 || name.contains("gate_inp");
        let (format, stored) = if is_kept { (Format::F32, Format::F32) } else { (format, stored) };
        let mut bytes = formats::quantise(format, &values).unwrap();
        if stored != format {
            let mut rounded = vec![0.0; values.len()];
            formats::dequantise(format, &bytes, &mut rounded).unwrap();
            bytes = formats::quantise(stored, &rounded).unwrap();
        }
        Tensor { name: name.to_owned(), shape: shape.to_vec(), format: stored, bytes }
    };
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &metadata(stored), &shapes.map(tensor)).unwrap();
    Gguf::parse(bytes).unwrap()
}

/// What a model says to a short text.
struct Said {
    /// Of its first tokens.
    logits: Vec<f32>,
    /// The logarithm of the perplexity.
    loss: f64,
}

fn say(gguf: Gguf) -> Said {
    let context = u32::try_from(CHUNK).unwrap();
    let options = EvalOptions { context, kv_type: KvType::F32, threads: Some(2) };
    let mut evaluation = Evaluation::of(gguf, &options).unwrap();
    let text: String = vector("ppl_64k.txt").chars().take(1200).collect();
    let tokens = evaluation.tokenize(&text).unwrap();
    let mut logits = Vec::new();
    evaluation.logits(&tokens[..CHUNK], 0, &mut |_, all| logits.extend_from_slice(all)).unwrap();
    let loss = evaluation.perplexity(&tokens[..4 * CHUNK], CHUNK).unwrap().value.ln();
    Said { logits, loss }
}

/// The mean square of the differences, as a share of that of the truth.
fn error(found: &[f32], truth: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = found.iter().zip(truth).map(|(a, b)| square(a - b)).sum();
    apart / truth.iter().copied().map(square).sum::<f64>()
}

#[test]
fn a_model_in_any_format_is_as_good_as_its_weights_and_nearly_as_good_as_its_source() {
    let source = say(model(Format::F32, Format::F32));
    for format in Format::WEIGHTS {
        let in_format = say(model(format, format));
        let in_floats = say(model(format, Format::F32));
        let error = error(&in_format.logits, &in_floats.logits);
        let cost = (in_format.loss - source.loss).abs();
        println!("{format}: {error:.2e} from its weights, {cost:.4} from its source");
        assert!(error <= ACTIVATIONS, "{format}: {error} from its weights");
        assert!(cost <= weights_cost(format), "{format}: {cost} from its source");
    }
}
