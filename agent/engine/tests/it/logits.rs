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

/// How far two right engines may be apart where activations are quantised, and where they are not.
const QUANTISED: f32 = 0.7;
const FLOAT: f32 = 0.03;

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
fn check(gguf: Gguf, reference: &str, kv_type: KvType, bound: f32) -> (f32, usize) {
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
            let mut far = (logits[step.id as usize] - step.logit).abs();
            if at == 0 {
                let all = item.top20.iter().map(|t| (logits[t.id as usize] - t.logit).abs());
                far = all.fold(far, f32::max);
            }
            assert!(far <= bound, "{} step {at}: {far} from the reference", item.id);
            worst = worst.max(far);
            if step.margin > bound {
                let best = (0_u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                assert_eq!(best, step.id, "{} step {at}, margin {}", item.id, step.margin);
                decided += 1;
            }
        };
        evaluation.logits(&tokens, prompt - 1, visit).unwrap();
    }
    println!("{bound}: at most {worst} apart, {decided} steps decided");
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

#[test]
fn its_weights_in_q8_0_answer_as_the_reference_does() {
    let gguf = smollm2_in(Format::Q8_0);
    check(gguf, "logits/logits-smollm2-Q8_0.json", KvType::F16, QUANTISED);
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
