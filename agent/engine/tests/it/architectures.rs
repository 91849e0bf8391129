//! Every architecture against another program, on tiny models of random weights.
//!
//! The references hold no weights: both sides make them from the names of the tensors
//! (`tests/vectors/models/make.py`, which has made the references).

use std::collections::BTreeMap;

use realm_engine::{
    eval::{EvalOptions, Evaluation},
    gguf::{
        Array, Gguf, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::{backend::KvType, format::Format};
use serde::Deserialize;

use crate::support::vector;

/// How far a logit may be from the reference, where logits are about eight apart. Both compute in
/// f32; the sums of three to six layers are added in another order.
const APART_MAX: f32 = 5e-5;

#[derive(Deserialize)]
struct Reference {
    metadata: BTreeMap<String, serde_json::Value>,
    tensors: BTreeMap<String, Vec<u64>>,
    /// Tensors that follow from the configuration.
    values: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
}

/// As the references make it: the name seeds SplitMix64, whose upper bits are a number from -1 to 1.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |at: u64| {
        let x = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let shaped = |x: f32| {
        if name.contains("norm") {
            1.0 + x * 0.25
        } else if name.contains("factors") {
            2.0 + x
        } else {
            x * if shape.len() > 1 { 0.3 } else { 0.25 }
        }
    };
    (1..=shape.iter().product()).map(|at| shaped(number(at))).collect()
}

/// The file of a reference.
fn file(reference: &Reference, vocabulary: u8) -> Gguf {
    let value = |value: &serde_json::Value| {
        if let Some(text) = value.as_str() {
            return Value::String(text.to_owned());
        }
        #[expect(clippy::cast_possible_truncation, reason = "files hold numbers in f32")]
        let float = |x: f64| Value::F32(x as f32);
        match value.as_u64() {
            Some(number) => Value::U32(number.try_into().unwrap()),
            None => float(value.as_f64().unwrap()),
        }
    };
    let text = |text: &str| Value::String(text.to_owned());
    // A letter for each token, but for two of control.
    let letters = (b'!'..b'!' + vocabulary - 2).map(|byte| char::from(byte).to_string());
    let tokens = ["<|a|>", "<|b|>"].map(str::to_owned).into_iter().chain(letters).collect();
    let kinds = (0..vocabulary).map(|id| if id < 2 { 3 } else { 1 }).collect();
    let tokenizer = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(Vec::new()))),
    ];
    let metadata: Vec<(String, Value)> = reference
        .metadata
        .iter()
        .map(|(key, given)| (key.clone(), value(given)))
        .chain(tokenizer.map(|(key, value)| (key.to_owned(), value)))
        .collect();
    let tensors: Vec<Tensor> = reference
        .tensors
        .iter()
        .map(|(name, shape)| {
            let values =
                reference.values.get(name).cloned().unwrap_or_else(|| weights(name, shape));
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Tensor { name: name.clone(), shape: shape.clone(), format: Format::F32, bytes }
        })
        .collect();
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &metadata, &tensors).unwrap();
    Gguf::parse(bytes).unwrap()
}

fn check(name: &str) {
    let reference = vector(&format!("models/{name}.json"));
    let reference: Reference = serde_json::from_str(&reference).unwrap();
    let context = reference.metadata.iter().find(|(key, _)| key.ends_with("context_length"));
    let context = u32::try_from(context.unwrap().1.as_u64().unwrap()).unwrap();
    let vocabulary = u8::try_from(reference.logits[0].len()).unwrap();
    let options = EvalOptions { context, kv_type: KvType::F32, threads: Some(2) };
    let mut evaluation = Evaluation::of(file(&reference, vocabulary), &options).unwrap();
    let mut worst = 0.0_f32;
    let visit = &mut |position: usize, logits: &[f32]| {
        let Some(at) = reference.positions.iter().position(|&at| at == position) else { return };
        let apart = logits.iter().zip(&reference.logits[at]).map(|(a, b)| (a - b).abs());
        worst = apart.fold(worst, f32::max);
    };
    evaluation.logits(&reference.tokens, 0, visit).unwrap();
    assert!(worst <= APART_MAX, "{name}: {worst} apart");
}

#[test]
fn llama_answers_as_the_reference_does() {
    check("llama");
}

#[test]
fn positions_that_are_scaled_linearly_answer_as_the_reference_does() {
    check("llama-linear");
}

#[test]
fn positions_that_are_scaled_by_yarn_answer_as_the_reference_does() {
    check("llama-yarn");
}

#[test]
fn positions_that_are_scaled_by_a_factor_each_answer_as_the_reference_does() {
    check("llama3");
}

#[test]
fn mistral_with_its_window_answers_as_the_reference_does() {
    check("mistral");
}

#[test]
fn qwen2_with_its_biases_answers_as_the_reference_does() {
    check("qwen2");
}

#[test]
fn qwen3_with_normed_heads_answers_as_the_reference_does() {
    check("qwen3");
}

#[test]
fn gemma2_with_caps_and_every_other_layer_windowed_answers_as_the_reference_does() {
    check("gemma2");
}

#[test]
fn gemma3_with_two_kinds_of_positions_answers_as_the_reference_does() {
    check("gemma3");
}

#[test]
fn gemma3_has_two_kinds_of_positions_in_a_context_that_its_window_holds_whole() {
    check("gemma3-wide");
}

#[test]
fn phi3_with_fused_matrices_answers_as_the_reference_does() {
    check("phi3");
}

#[test]
fn phi3_beyond_its_first_context_takes_its_long_factors() {
    check("phi3-longrope");
}

#[test]
fn mixtral_with_its_experts_answers_as_the_reference_does() {
    check("mixtral");
}

#[test]
fn qwen2_of_experts_and_a_shared_one_answers_as_the_reference_does() {
    check("qwen2moe");
}

#[test]
fn qwen3_of_experts_answers_as_the_reference_does() {
    check("qwen3moe");
}
