//! Adapters of the tiny llama: low-rank changes of some of its matrices, the same every time.

use realm_engine::gguf::{
    Value,
    writer::{self, Tensor},
};
use realm_kernels::{format::Format, formats};

use crate::tiny_gguf;

pub(crate) const RANK: usize = 4;
pub(crate) const ALPHA: f32 = 2.0;

/// Every matrix that adapters change.
pub(crate) const ALL: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// The bytes of an adapter of the matrices that end so; another one for each seed.
pub(crate) fn tiny_adapter(parts: &[&str], seed: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let tensors: Vec<Tensor> = pairs(parts, seed).into_iter().flat_map(|(_, pair)| pair).collect();
    writer::write(&mut out, &metadata(), &tensors).expect("a vector takes all");
    out
}

/// The key-value pairs of an adapter.
pub(crate) fn metadata() -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    [
        ("general.type", text("adapter")),
        ("general.architecture", text("llama")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(ALPHA)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

/// The matrices of an adapter for those of the tiny model that end so, with their places in it.
pub(crate) fn pairs(parts: &[&str], seed: usize) -> Vec<(usize, [Tensor; 2])> {
    let tensors = tiny_gguf::tensors(Format::F32);
    let is_changed = |tensor: &Tensor| {
        parts.iter().any(|part| tensor.name.ends_with(&format!(".{part}.weight")))
    };
    let changed = tensors.iter().enumerate().filter(|(_, tensor)| is_changed(tensor));
    changed.map(|(at, tensor)| (at, pair(tensor, 100 * seed + 2 * at))).collect()
}

/// The matrices of an adapter for one of a model.
pub(crate) fn pair(tensor: &Tensor, seed: usize) -> [Tensor; 2] {
    let [inputs, outputs] = [0, 1].map(|i| usize::try_from(tensor.shape[i]).expect("tiny"));
    let matrix = |part: &str, shape: [usize; 2], seed| Tensor {
        name: format!("{}.{part}", tensor.name),
        shape: shape.map(|len| len as u64).to_vec(),
        format: Format::F32,
        bytes: formats::quantise(Format::F32, &noise(shape[0] * shape[1], seed))
            .expect("numbers as they are"),
    };
    [matrix("lora_a", [inputs, RANK], seed), matrix("lora_b", [RANK, outputs], seed + 1)]
}

/// Numbers that look like none, from -1/4 to 1/4.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    let at = |i: usize| (i * 7919 + seed * 104_729) % 1013;
    (0..len).map(|i| at(i) as f32 / 1013.0 / 2.0 - 0.25).collect()
}
