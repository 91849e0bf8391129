//! A whole model on the GPU and on the CPU: `model tiny` compares logits and greedy answers in every
//! format, `model speed FOLDER` writes a model of eight thousand million random weights into a folder and
//! measures it. NVRTC's library is in `REALM_TEST_NVRTC` and a folder for compiled kernels in
//! `REALM_TEST_KERNELS`, if any.

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

#[expect(unreachable_pub, reason = "the tests of other crates use the rest")]
#[path = "../../../tests/src/tiny_gguf.rs"]
mod tiny_gguf;

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use realm_engine::{
    bench::Bench,
    eval::{EvalOptions, Evaluation},
    gguf::{
        Array, Gguf, Value,
        writer::{self, Entry},
    },
};
use realm_kernels::{
    backend::KvType,
    cpu::{Cpu, default_threads},
    format::Format,
    formats,
};
use realm_kernels_cuda::{Cuda, OpenOptions};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("tiny"), None) => tiny(),
        (Some("speed"), Some(folder)) => speed(Path::new(&folder)),
        _ => Err("model tiny, or model speed FOLDER".into()),
    }
}

fn open() -> Result<Cuda, Box<dyn Error>> {
    let nvrtc = env::var_os("REALM_TEST_NVRTC").map(PathBuf::from);
    let cache = env::var_os("REALM_TEST_KERNELS").map(PathBuf::from);
    Ok(Cuda::open(&OpenOptions { ordinal: 0, nvrtc, cache })?)
}

/// Tokens of a prompt, and of the answer to it.
const PROMPT: usize = 90;
const ANSWER: usize = 30;
/// How far logits may be apart: what eight bits for an activation cost, where an activation that lies
/// between two bytes goes to one here and to the other there.
const NMSE_MAX: f64 = 1e-3;

/// Every format of weights and of caches, on the CPU and on the GPU.
fn tiny() -> Done {
    let mut wrong = 0;
    // The tiny model's widths are whole blocks of 32, and of nothing larger.
    for format in Format::WEIGHTS.into_iter().filter(|format| format.block_len() <= 32) {
        for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
            let bytes = tiny_gguf::tiny_llama(format);
            let options = EvalOptions { context: 512, kv_type, threads: None };
            let mut cpu = Evaluation::of(Gguf::parse(bytes.clone())?, &options)?;
            let mut cuda = Evaluation::on(open()?, Gguf::parse(bytes)?, &options)?;
            let mut tokens: Vec<u32> = (0..).map(|i| 3 + i * 7 % 250).take(PROMPT).collect();
            let (mut error, mut power, mut differ) = (0.0, 0.0, 0);
            for _ in 0..ANSWER {
                let [one, other] = [last(&mut cpu, &tokens)?, last(&mut cuda, &tokens)?];
                for (a, b) in one.iter().zip(&other) {
                    error += f64::from(a - b).powi(2);
                    power += f64::from(*a).powi(2);
                }
                let next = best(&one);
                differ += usize::from(next != best(&other));
                tokens.push(next);
            }
            let nmse = error / power;
            let is_wrong = nmse.is_nan() || nmse > NMSE_MAX || differ > 0;
            wrong += usize::from(is_wrong);
            println!(
                "{format:6} {kv_type:?}: NMSE of logits {nmse:.1e}, {differ} of {ANSWER} tokens differ"
            );
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} models answer otherwise").into()) }
}

/// The logits behind the last token.
fn last(model: &mut Evaluation, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut logits = Vec::new();
    model.logits(tokens, tokens.len() - 1, &mut |_, all| logits = all.to_vec())?;
    Ok(logits)
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.and_then(|(id, _)| u32::try_from(id).ok()).unwrap_or(0)
}

/// The shape of a model.
struct Shape {
    layers: u32,
    width: u32,
    heads: u32,
    kv_heads: u32,
    feed_forward: u32,
    vocabulary: usize,
}

const EIGHT: Shape = Shape {
    layers: 32,
    width: 4096,
    heads: 32,
    kv_heads: 8,
    feed_forward: 14_336,
    vocabulary: 128_256,
};

/// Tokens of context that are measured.
const CONTEXT: u32 = 4096;

fn speed(folder: &Path) -> Done {
    for format in [Format::Q4K, Format::Q8_0] {
        let path = folder.join("random.gguf");
        write(&path, &EIGHT, format)?;
        let mut cuda = open()?;
        let copy = cuda.ceilings()?.copy_bytes;
        let mut bench = Bench::on(cuda, &path, (CONTEXT, 16))?;
        println!(
            "{format} on {}, {:.2} GB of weights",
            bench.device(),
            bench.weights_bytes() as f64 / 1e9
        );
        for tokens in [64, 512, 2048] {
            bench.prefill(tokens)?;
            let rate = bench.prefill(tokens)?.tokens_per_second();
            let ops = rate * (bench.ops_per_token() as f64);
            println!("  prefill {tokens:5}: {rate:8.0} tokens/s, {:6.1} Top/s", ops / 1e12);
        }
        for (sequences, prompt) in [(1, 32), (1, 2048), (4, 32), (8, 32), (16, 32)] {
            let rate = bench.decode(sequences, prompt, 64)?.tokens_per_second();
            let read = rate / sequences as f64 * bench.weights_bytes() as f64;
            let share = read / copy * 100.0;
            println!(
                "  decode {sequences:2} behind {prompt:4}: {rate:8.1} tokens/s, weights at {share:5.1} % of a copy"
            );
        }
        let parts = bench.step_seconds();
        let fitted = (parts.step + parts.decode_token) * 1e3;
        println!("  a step of one token by the fit: {fitted:.2} ms, without sampling; {parts:?}");
        drop(bench);
        if format == Format::Q4K {
            compare(&path)?;
        }
    }
    Ok(())
}

/// The logits of the large model, on the CPU and on the GPU.
fn compare(path: &Path) -> Done {
    let options = EvalOptions { context: 128, kv_type: KvType::F16, threads: None };
    let tokens: Vec<u32> = (0..24).map(|i| 3 + i * 5).collect();
    let cpu = Cpu::detect(default_threads());
    let one = last(&mut Evaluation::on(cpu, Gguf::open(path)?, &options)?, &tokens)?;
    let other = last(&mut Evaluation::on(open()?, Gguf::open(path)?, &options)?, &tokens)?;
    let error: f64 = one.iter().zip(&other).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let power: f64 = one.iter().map(|a| f64::from(*a).powi(2)).sum();
    println!(
        "  logits against the CPU's: NMSE {:.1e}, best {} and {}",
        error / power,
        best(&one),
        best(&other)
    );
    Ok(())
}

/// Writes a llama of random weights. Its matrices are the same numbers in other orders.
fn write(path: &Path, shape: &Shape, format: Format) -> Done {
    let metadata = metadata(shape, format);
    let tensors = tensors(shape, format);
    let bytes_of = |shape: &[u64], format: Format| {
        let rows = shape.get(1).copied().unwrap_or(1);
        format.tensor_bytes(length(rows), length(shape[0])).unwrap_or(0)
    };
    let entries: Vec<Entry<'_>> = tensors
        .iter()
        .map(|(name, shape, format)| Entry {
            name,
            shape,
            format: *format,
            bytes: bytes_of(shape, *format) as u64,
        })
        .collect();
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&writer::header(&metadata, &entries))?;
    for (number, Entry { shape, format, bytes, .. }) in entries.iter().enumerate() {
        let cols = length(shape[0]);
        let scale = if shape.len() == 1 { 0.0 } else { 1.7 / (cols as f32).sqrt() };
        let middle = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> =
            numbers(cols * 8, number as u64).into_iter().map(|x| middle + x * scale).collect();
        let pool = formats::quantise(*format, &values)?;
        let mut left = length(*bytes);
        while left > 0 {
            let part = pool.len().min(left);
            out.write_all(&pool[..part])?;
            left -= part;
        }
        out.write_all(&writer::padding(*bytes))?;
    }
    out.flush()?;
    Ok(())
}

fn length(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn metadata(shape: &Shape, format: Format) -> Vec<(String, Value)> {
    let sizes = [
        ("llama.block_count", shape.layers),
        ("llama.context_length", CONTEXT),
        ("llama.embedding_length", shape.width),
        ("llama.feed_forward_length", shape.feed_forward),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.rope.dimension_count", shape.width / shape.heads),
    ];
    let mut pairs = tiny_gguf::metadata(format);
    for (key, value) in &mut pairs {
        if let Some((_, size)) = sizes.iter().find(|(name, _)| name == key) {
            *value = Value::U32(*size);
        }
        match (key.as_str(), value) {
            ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))) => {
                tokens.extend((tokens.len()..shape.vocabulary).map(|id| format!("<token{id}>")));
            }
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))) => {
                types.resize(shape.vocabulary, 1);
            }
            _ => {}
        }
    }
    pairs
}

/// Names, shapes and formats, as the usual mixture has them where the format is Q4_K: a third of the
/// layers and the head are finer.
fn tensors(shape: &Shape, format: Format) -> Vec<(String, Vec<u64>, Format)> {
    let [width, forward] = [shape.width, shape.feed_forward].map(u64::from);
    let kv = u64::from(shape.width / shape.heads * shape.kv_heads);
    let finer = if format == Format::Q4K { Format::Q6K } else { format };
    let vocabulary = shape.vocabulary as u64;
    let mut all = vec![
        ("token_embd.weight".to_owned(), vec![width, vocabulary], format),
        ("output_norm.weight".to_owned(), vec![width], Format::F32),
        ("output.weight".to_owned(), vec![width, vocabulary], finer),
    ];
    for layer in 0..shape.layers {
        let more = if layer % 3 == 0 { finer } else { format };
        let parts = [
            ("attn_norm", vec![width], Format::F32),
            ("attn_q", vec![width, width], format),
            ("attn_k", vec![width, kv], format),
            ("attn_v", vec![width, kv], more),
            ("attn_output", vec![width, width], format),
            ("ffn_norm", vec![width], Format::F32),
            ("ffn_gate", vec![width, forward], format),
            ("ffn_up", vec![width, forward], format),
            ("ffn_down", vec![forward, width], more),
        ];
        let named = |(part, shape, format)| (format!("blk.{layer}.{part}.weight"), shape, format);
        all.extend(parts.map(named));
    }
    all
}

/// Evenly in -1 to 1, the same on every machine.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
