//! What targets share: models small enough to be read or opened thousands of times a second.

use std::{
    fs,
    path::{Path, PathBuf},
};

use realm_core::{desired::Sha256, name::ModelName};
use realm_engine::{
    MemoryBudget, OpenOptions, Secret,
    gguf::{
        Array, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::{backend::KvType, format::Format};
use realm_tests::tiny_gguf;
use tempfile::TempDir;

/// Hyperparameters of the narrowest model there is, by the names of their keys.
const NARROW: [(&str, u32); 7] = [
    ("llama.block_count", 1),
    ("llama.context_length", 64),
    ("llama.embedding_length", WIDTH),
    ("llama.feed_forward_length", WIDTH),
    ("llama.attention.head_count", 2),
    ("llama.attention.head_count_kv", 1),
    ("llama.rope.dimension_count", WIDTH / 2),
];
const WIDTH: u32 = 8;

/// Tokens that are text of their own: one inside another, one of blanks, one that begins a mark.
const USER_DEFINED: [&str; 4] = ["<tool>", "<tool>x", "  ", "<|im"];

/// Bytes that a fuzzed model may take, far above what a file of 64 KiB has any use for.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// A model of all bytes and some special tokens, with that chat template.
pub fn model(template: &str) -> Vec<u8> {
    let mut pairs = tiny_gguf::metadata(Format::F32);
    let (mut tokens, mut types) = vocabulary(&pairs);
    tokens.extend(USER_DEFINED.map(str::to_owned));
    types.extend([4; USER_DEFINED.len()]);
    put(&mut pairs, "tokenizer.chat_template", Value::String(template.to_owned()));
    write(pairs, tokens, types)
}

/// A model of three letters, whose file is a seed of less than 4 KiB.
pub fn seed_model(template: &str) -> Vec<u8> {
    let mut pairs = tiny_gguf::metadata(Format::F32);
    let mut tokens = tiny_gguf::CONTROL.map(str::to_owned).to_vec();
    tokens.extend(["a", "b", "Ġ", "ab", "<t>"].map(str::to_owned));
    put(&mut pairs, "tokenizer.chat_template", Value::String(template.to_owned()));
    put(&mut pairs, "tokenizer.ggml.merges", Value::Array(Array::String(vec!["a b".to_owned()])));
    write(pairs, tokens, vec![3, 3, 3, 1, 1, 1, 1, 4])
}

/// An adapter of the seed's model, of rank 1.
pub fn seed_adapter() -> Vec<u8> {
    let text = |text: &str| Value::String(text.to_owned());
    let pairs = [
        ("general.type", text("adapter")),
        ("general.architecture", text("llama")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(1.0)),
    ];
    let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let width = u64::from(WIDTH);
    let part = |name: &str, shape: [u64; 2]| Tensor {
        name: format!("blk.0.attn_q.weight.{name}"),
        shape: shape.to_vec(),
        format: Format::F32,
        bytes: vec![0; 4 * WIDTH as usize],
    };
    let tensors = [part("lora_a", [width, 1]), part("lora_b", [1, width])];
    let mut out = Vec::new();
    writer::write(&mut out, &pairs, &tensors).expect("a vector takes all");
    out
}

/// The metadata of a model without tensors.
pub fn header() -> Vec<u8> {
    let mut out = Vec::new();
    let kinds = [
        ("a", Value::U8(1)),
        ("b", Value::I64(-1)),
        ("c", Value::Bool(true)),
        ("d", Value::F64(0.5)),
        ("e", Value::Array(Array::U16(vec![1, 2, 3]))),
        ("f", Value::Array(Array::Bool(vec![false, true]))),
        ("general.alignment", Value::U32(64)),
    ];
    let pairs: Vec<_> = kinds.map(|(key, value)| (key.to_owned(), value)).into();
    writer::write(&mut out, &pairs, &[]).expect("a vector takes all");
    out
}

/// How targets open models.
pub fn options() -> OpenOptions {
    OpenOptions {
        name: ModelName::new("default", "tiny").expect("a proper name"),
        sha256: Sha256([3; 32]),
        context: None,
        kv_blocks: None,
        kv_type: KvType::F16,
        threads: Some(1),
        lock_weights: false,
        memory_bytes_max: Some(MEMORY_BYTES_MAX),
        budget: MemoryBudget::fixed(u64::MAX),
        secret: Secret([9; 32]),
    }
}

/// A file that takes one input after the other, for what reads files only.
pub struct InputFile {
    folder: TempDir,
    path: PathBuf,
}

impl InputFile {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("the machine has a folder for temporary files");
        let path = folder.path().join(name);
        Self { folder, path }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file, holding `bytes`.
    pub fn hold(&self, bytes: &[u8]) -> &Path {
        fs::write(&self.path, bytes).expect("a temporary file can be written");
        &self.path
    }
}

fn vocabulary(pairs: &[(String, Value)]) -> (Vec<String>, Vec<i32>) {
    let value = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    match (value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")) {
        (Some(Value::Array(Array::String(tokens))), Some(Value::Array(Array::I32(types)))) => {
            (tokens.clone(), types.clone())
        }
        other => panic!("the tiny model has no such vocabulary: {other:?}"),
    }
}

fn put(pairs: &mut Vec<(String, Value)>, key: &str, value: Value) {
    pairs.retain(|(held, _)| held != key);
    pairs.push((key.to_owned(), value));
}

fn write(mut pairs: Vec<(String, Value)>, tokens: Vec<String>, types: Vec<i32>) -> Vec<u8> {
    for (key, value) in NARROW {
        put(&mut pairs, key, Value::U32(value));
    }
    let vocabulary = tokens.len() as u64;
    put(&mut pairs, "tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    put(&mut pairs, "tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    let mut out = Vec::new();
    writer::write(&mut out, &pairs, &tensors(vocabulary)).expect("a vector takes all");
    out
}

/// The tensors of one layer, all of zeros.
fn tensors(vocabulary: u64) -> Vec<Tensor> {
    let width = u64::from(WIDTH);
    let shapes: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[width, vocabulary]),
        ("output_norm.weight", &[width]),
        ("blk.0.attn_norm.weight", &[width]),
        ("blk.0.attn_q.weight", &[width, width]),
        ("blk.0.attn_k.weight", &[width, width / 2]),
        ("blk.0.attn_v.weight", &[width, width / 2]),
        ("blk.0.attn_output.weight", &[width, width]),
        ("blk.0.ffn_norm.weight", &[width]),
        ("blk.0.ffn_gate.weight", &[width, width]),
        ("blk.0.ffn_up.weight", &[width, width]),
        ("blk.0.ffn_down.weight", &[width, width]),
    ];
    shapes
        .map(|(name, shape)| {
            let len = usize::try_from(shape.iter().product::<u64>()).expect("narrow");
            let bytes = vec![0; len * size_of::<f32>()];
            Tensor { name: name.to_owned(), shape: shape.to_vec(), format: Format::F32, bytes }
        })
        .into()
}
