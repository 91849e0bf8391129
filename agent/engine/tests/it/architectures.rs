//! Every architecture against another program, on tiny models of random weights.
//!
//! The references hold no weights: both sides make them from the names of the tensors
//! (`tests/vectors/models/make.py`, which has made the references). Models that embed are in
//! `encoders.rs`.

use realm_engine::eval::{EvalOptions, Evaluation};
use realm_kernels::backend::KvType;
use serde::Deserialize;

use crate::{reference_model::Model, support::vector};

/// How far a logit may be from the reference, where logits are about eight apart. Both compute in
/// f32; the sums of three to six layers are added in another order.
const APART_MAX: f32 = 5e-5;

#[derive(Deserialize)]
struct Reference {
    #[serde(flatten)]
    model: Model,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
}

fn check(name: &str) {
    let reference = vector(&format!("models/{name}.json"));
    let reference: Reference = serde_json::from_str(&reference).unwrap();
    let context = reference.model.context();
    let options = EvalOptions { context, kv_type: KvType::F32, threads: Some(2) };
    let mut evaluation = Evaluation::of(reference.model.file(), &options).unwrap();
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
