//! Logits along the reference's own answers, step by step.

use realm_engine::{
    eval::{EvalOptions, Evaluation},
    gguf::Gguf,
};
use realm_kernels::{backend::KvType, format::Format};
use serde::Deserialize;

use crate::{
    converted::smollm2_in,
    support::{smollm2, vector},
};

/// How far two right engines may be apart.
#[derive(Clone, Copy)]
struct Bound {
    /// In the likeliest logits behind a prompt, and in the margin that decides a step.
    near: f32,
    /// In one token's logit along the way.
    path: f32,
}

/// Where activations are quantised, each engine is up to 0.66 from the same weights in float, so
/// two of them are up to twice that from each other.
const QUANTISED: Bound = Bound { near: 0.7, path: 1.32 };
/// Of the Q4_0 file the reference's own logits behind a prompt are up to 0.83 from its weights in
/// float, so that none nearer than that is wrong.
const COARSE: Bound = Bound { near: 0.83, ..QUANTISED };
const FLOAT: Bound = Bound { near: 0.03, path: 0.03 };

#[derive(Deserialize)]
struct Reference {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    prompt: String,
    prompt_ids: Vec<u32>,
    top20: Vec<Logit>,
    greedy_ids: Vec<u32>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Logit {
    id: u32,
    logit: f32,
}

#[derive(Deserialize)]
struct Step {
    id: u32,
    logit: f32,
    margin: f32,
}

/// Compares every step of every prompt; returns the largest distance and the steps compared.
fn check(gguf: Gguf, reference: &str, kv_type: KvType, bound: Bound) -> (f32, usize) {
    let reference: Reference = serde_json::from_str(&vector(reference)).unwrap();
    let options = EvalOptions { context: 256, kv_type, threads: Some(2) };
    let mut evaluation = Evaluation::of(gguf, &options).unwrap();
    let (mut worst, mut decided) = (0.0_f32, 0);
    for item in &reference.items {
        let prompt = item.prompt_ids.len();
        let tokens = [&item.prompt_ids[..], &item.greedy_ids].concat();
        let visit = &mut |position: usize, logits: &[f32]| {
            let at = position + 1 - prompt;
            let Some(step) = item.steps.get(at) else { return };
            let far = |id: u32, logit: f32| (logits[id as usize] - logit).abs();
            let on_path = far(step.id, step.logit);
            assert!(on_path <= bound.path, "{} step {at}: {on_path} apart", item.id);
            worst = worst.max(on_path);
            if at == 0 {
                let near = item.top20.iter().map(|t| far(t.id, t.logit)).fold(0.0, f32::max);
                assert!(near <= bound.near, "{}: {near} apart", item.id);
            }
            if step.margin > bound.near {
                let best = (0_u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                assert_eq!(best, step.id, "{} step {at}, margin {}", item.id, step.margin);
                decided += 1;
            }
        };
        evaluation.logits(&tokens, prompt - 1, visit).unwrap();
    }
    println!("at most {worst} apart, {decided} steps decided");
    (worst, decided)
}

#[test]
fn the_q4_1_file_answers_as_the_reference_does() {
    let gguf = Gguf::open(&smollm2()).unwrap();
    let (_, decided) = check(gguf, "logits/logits-smollm2-Q4_1.json", KvType::F16, QUANTISED);
    assert!(decided > 100, "{decided}");
}

#[test]
fn its_weights_in_f32_answer_as_the_reference_does() {
    let gguf = smollm2_in(Format::F32);
    let (_, decided) = check(gguf, "logits/logits-smollm2-F32.json", KvType::F32, FLOAT);
    assert!(decided > 200, "{decided}");
}

#[test]
fn keys_and_values_in_f16_keep_the_answers_of_f32() {
    let gguf = smollm2_in(Format::F32);
    check(gguf, "logits/logits-smollm2-F32.json", KvType::F16, FLOAT);
}

/// The logits behind each token of the beginning of a text, `(token, vocabulary)`.
fn along_a_text(kv_type: KvType) -> Vec<Vec<f32>> {
    let options = EvalOptions { context: 256, kv_type, threads: Some(2) };
    let mut evaluation = Evaluation::of(smollm2_in(Format::F32), &options).unwrap();
    let tokens = evaluation.tokenize(&vector("ppl_64k.txt")).unwrap();
    let mut all = Vec::new();
    let visit = &mut |_: usize, logits: &[f32]| all.push(logits.to_vec());
    evaluation.logits(&tokens[..256], 0, visit).unwrap();
    all
}

/// How likely each token is.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

/// How much likelier the likeliest token may have been than the one that is likeliest after rounding.
const MARGIN: f32 = 0.15;

/// The bounds of a whole model: what an engine may be from another one with the same weights. Where
/// the likeliest token becomes another, there were two nearly as likely.
#[test]
fn keys_and_values_in_q8_0_keep_logits_within_the_bounds_of_a_model() {
    let (truth, found) = (along_a_text(KvType::F32), along_a_text(KvType::Q8_0));
    let (mut error, mut energy, mut divergence) = (0.0, 0.0, 0.0);
    let (mut alike, mut margin) = (0, 0.0_f32);
    for (truth, found) in truth.iter().zip(&found) {
        for (&truth, &found) in truth.iter().zip(found) {
            error += f64::from(truth - found).powi(2);
            energy += f64::from(truth).powi(2);
        }
        let (p, q) = (probabilities(truth), probabilities(found));
        divergence += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        let (best, chosen) = (likeliest(truth), likeliest(found));
        alike += usize::from(best == chosen);
        margin = margin.max(truth[best] - truth[chosen]);
    }
    let nmse = error / energy;
    let divergence = divergence / truth.len() as f64;
    println!("NMSE {nmse}, divergence {divergence}, {alike} of {} alike, {margin}", truth.len());
    assert!(nmse <= 2e-3, "{nmse}");
    assert!(divergence <= 1e-3, "{divergence}");
    assert!(margin <= MARGIN, "{margin}");
}

#[test]
fn its_weights_in_q8_0_answer_as_the_reference_does() {
    let gguf = smollm2_in(Format::Q8_0);
    check(gguf, "logits/logits-smollm2-Q8_0.json", KvType::F16, QUANTISED);
}

/// `llama-quantize --allow-requantize` writes them from the Q4_1 file, as `Q8_0.gguf` and `Q4_0.gguf`
/// into the folder that `REALM_TEST_QUANTIZED` names.
#[test]
#[ignore = "wants files that the reference's own tool has quantised"]
fn files_of_the_references_own_quantiser_answer_as_it_does() {
    let folder =
        std::env::var("REALM_TEST_QUANTIZED").expect("REALM_TEST_QUANTIZED names a folder");
    for (format, bound) in [("Q8_0", QUANTISED), ("Q4_0", COARSE)] {
        let gguf =
            Gguf::open(&std::path::Path::new(&folder).join(format!("{format}.gguf"))).unwrap();
        let reference = format!("logits/logits-smollm2-{format}.json");
        let (_, decided) = check(gguf, &reference, KvType::F16, bound);
        assert!(decided > 50, "{decided}");
    }
}

#[test]
fn the_reference_prompts_are_tokenized_as_the_reference_does() {
    let reference = vector("logits/logits-smollm2-F32.json");
    let reference: Reference = serde_json::from_str(&reference).unwrap();
    let gguf = Gguf::open(&smollm2()).unwrap();
    let tokenizer = realm_engine::tokenizer::Tokenizer::of(&gguf).unwrap();
    for item in reference.items {
        let special = realm_engine::tokenizer::Special::Token;
        assert_eq!(tokenizer.encode(&item.prompt, special).unwrap(), item.prompt_ids);
    }
}
