//! Perplexity of a text of Jane Austen against llama.cpp's, by the same protocol: chunks of 512
//! tokens, the second half of each counted.

use realm_engine::{
    eval::{EvalOptions, Evaluation},
    gguf::Gguf,
    quantise::recipe::{Mix, Recipe},
};
use realm_kernels::{backend::KvType, format::Format};

use crate::{
    converted::{smollm2_in, smollm2_through},
    support::{smollm2, vector},
};

const CHUNK: usize = 512;

fn perplexity(gguf: Gguf) -> f64 {
    perplexity_with(gguf, KvType::F16)
}

fn perplexity_with(gguf: Gguf, kv_type: KvType) -> f64 {
    let context = u32::try_from(CHUNK).unwrap();
    let options = EvalOptions { context, kv_type, threads: Some(2) };
    let mut evaluation = Evaluation::of(gguf, &options).unwrap();
    let tokens = evaluation.tokenize(&vector("ppl_64k.txt")).unwrap();
    assert_eq!(tokens.len() / CHUNK, 28);
    let perplexity = evaluation.perplexity(&tokens, CHUNK).unwrap();
    assert_eq!(perplexity.tokens, 28 * (CHUNK / 2 - 1));
    println!("perplexity {}", perplexity.value);
    perplexity.value
}

/// Within two hundredths of a percent of the reference.
fn check_float(got: f64, reference: f64) {
    assert!((got / reference - 1.0).abs() <= 0.0002, "{got}, the reference has {reference}");
}

/// At most a tenth of a percent above the reference, and at most a tenth of a percent below what
/// the same weights give in float.
fn check_quantised(got: f64, reference: f64, dequantised: f64) {
    assert!(got <= reference * 1.001, "{got}, the reference has {reference}");
    assert!(got >= dequantised * 0.999, "{got}, the same weights in float have {dequantised}");
}

#[test]
fn the_q4_1_file_and_its_weights_in_f32_are_as_good_as_the_references() {
    let dequantised = perplexity(smollm2_in(Format::F32));
    check_float(dequantised, 37.466);
    check_quantised(perplexity(Gguf::open(&smollm2()).unwrap()), 37.590, dequantised);
    let again = smollm2_through(&[Format::F32, Format::Q4_1].map(Recipe::Plain));
    check_quantised(perplexity(again), 37.590, dequantised);
}

/// The floats stand on the grid of Q4_1, on which no other format has its numbers: they cost more to
/// round than those of the original would.
#[test]
fn a_mix_is_nearly_as_good_as_the_floats_it_is_made_of() {
    let mix = smollm2_through(&[Recipe::Plain(Format::F32), Recipe::Mix(Mix::Q4KM)]);
    let of_mix = perplexity(mix);
    assert!((of_mix / 37.466 - 1.0).abs() < 0.06, "{of_mix}");
}

/// Weights in float, so that nothing else is rounded.
#[test]
fn keys_and_values_in_q8_0_cost_less_than_a_tenth_of_a_percent() {
    let got = perplexity_with(smollm2_in(Format::F32), KvType::Q8_0);
    assert!((got / 37.466 - 1.0).abs() <= 0.001, "{got}, the reference with floats has 37.466");
}

#[test]
fn f16_is_as_good_as_the_references() {
    check_float(perplexity(smollm2_in(Format::F16)), 37.465);
}

#[test]
fn bf16_is_as_good_as_the_references() {
    check_float(perplexity(smollm2_in(Format::BF16)), 37.466);
}

#[test]
fn q8_0_is_as_good_as_the_references() {
    let dequantised = perplexity(smollm2_through(&[Format::Q8_0, Format::F32].map(Recipe::Plain)));
    check_quantised(perplexity(smollm2_in(Format::Q8_0)), 37.709, dequantised);
}
