//! A tiny llama with a tiny tokenizer: deterministic weights, every shape small, made in a
//! millisecond. It says nothing sensible, and says it the same way every time.

use realm_engine::gguf::{
    Array, Value,
    writer::{self, Tensor},
};
use realm_kernels::{format::Format, formats};

/// Tokens of context.
pub const CONTEXT: u32 = 512;
const LAYERS: u32 = 2;
const WIDTH: u32 = 128;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = WIDTH / HEADS;
const FEED_FORWARD: u32 = 192;

/// The control tokens, from id 0 on.
pub const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The bytes of a model whose matrices are in `format`.
pub fn tiny_llama(format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    writer::write(&mut out, &metadata(format), &tensors(format)).expect("a vector takes all");
    out
}

/// The key-value pairs of the model.
pub fn metadata(format: Format) -> Vec<(String, Value)> {
    let (tokens, types) = vocabulary();
    let text = |text: &str| Value::String(text.to_owned());
    let mut pairs = vec![
        ("general.architecture", text("llama")),
        ("general.name", text("tiny")),
        ("general.license", text("mit")),
        ("llama.block_count", Value::U32(LAYERS)),
        ("llama.context_length", Value::U32(CONTEXT)),
        ("llama.embedding_length", Value::U32(WIDTH)),
        ("llama.feed_forward_length", Value::U32(FEED_FORWARD)),
        ("llama.attention.head_count", Value::U32(HEADS)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(HEAD_DIM)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(merges()))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.chat_template", text(TEMPLATE)),
    ];
    pairs.extend(writer::file_type(format).map(|value| ("general.file_type", value)));
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn merges() -> Vec<String> {
    ["Ġ t", "h e", "Ġt he", "i n", "a n", "Ġ a"].map(str::to_owned).to_vec()
}

/// Control tokens, one token for each byte, and what the merges make.
fn vocabulary() -> (Vec<String>, Vec<i32>) {
    let mut tokens = CONTROL.map(str::to_owned).to_vec();
    let mut beyond = 0x100_u32..;
    for byte in 0..=u8::MAX {
        let spelled = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => Some(char::from(byte)),
            _ => beyond.next().and_then(char::from_u32),
        };
        tokens.extend(spelled.map(String::from));
    }
    tokens.extend(merges().iter().map(|merge| merge.replace(' ', "")));
    let types = (0..tokens.len()).map(|id| if id < CONTROL.len() { 3 } else { 1 }).collect();
    (tokens, types)
}

/// The tensors of the model.
pub fn tensors(format: Format) -> Vec<Tensor> {
    let vocabulary = vocabulary().0.len() as u64;
    let (width, forward) = (u64::from(WIDTH), u64::from(FEED_FORWARD));
    let kv = u64::from(KV_HEADS * HEAD_DIM);
    let mut seed = 0;
    let mut tensor = |name: String, shape: &[u64]| {
        seed += 1;
        weights(name, shape, format, seed)
    };
    let mut all = vec![
        tensor("token_embd.weight".to_owned(), &[width, vocabulary]),
        tensor("output_norm.weight".to_owned(), &[width]),
    ];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("attn_norm", &[width][..]),
            ("attn_q", &[width, width]),
            ("attn_k", &[width, kv]),
            ("attn_v", &[width, kv]),
            ("attn_output", &[width, width]),
            ("ffn_norm", &[width]),
            ("ffn_gate", &[width, forward]),
            ("ffn_up", &[width, forward]),
            ("ffn_down", &[forward, width]),
        ] {
            all.push(tensor(format!("blk.{layer}.{part}.weight"), shape));
        }
    }
    all
}

/// Matrices of numbers around 0, norms of numbers around 1.
fn weights(name: String, shape: &[u64], format: Format, seed: u64) -> Tensor {
    let is_norm = shape.len() == 1;
    let format = if is_norm { Format::F32 } else { format };
    let len = usize::try_from(shape.iter().product::<u64>()).expect("tiny");
    let values: Vec<f32> = (0..len as u64)
        .map(|at| {
            let noise = noise(seed << 32 | at);
            if is_norm { 1.0 + noise / 8.0 } else { noise / 4.0 }
        })
        .collect();
    let bytes = formats::quantise(format, &values).expect("whole blocks of a format for weights");
    Tensor { name, shape: shape.to_vec(), format, bytes }
}

/// A number from -1 to 1: the finaliser of SplitMix64 over a counter.
fn noise(counter: u64) -> f32 {
    let x = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bits = u16::try_from(x >> 48).expect("sixteen bits");
    f32::from(bits) / 32_768.0 - 1.0
}
