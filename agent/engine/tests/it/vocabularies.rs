//! Every kind of tokenizer against the reference, string by string.
//!
//! Of each vocabulary the tests hold what the strings can touch (`tests/vectors/tokens/reduce.py`).
//! `REALM_TEST_VOCABULARIES` may name a folder of whole ones, `llama-bpe.gguf` and so on.

use std::{env, path::PathBuf};

use realm_engine::{
    gguf::{Array, Gguf, Value, writer},
    tokenizer::{Special, Tokenizer},
};
use serde::Deserialize;

use crate::support::{vector, vector_json};

/// The parts of a vocabulary that the reference strings touch.
#[derive(Deserialize)]
struct Reduced {
    vocabulary: usize,
    single: serde_json::Map<String, serde_json::Value>,
    tokens: Vec<Token>,
    merges: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(usize, i32, String),
    Scored(usize, i32, String, f32),
}

/// A file of that vocabulary, in which control tokens stand for the tokens that were left out.
fn reduced(name: &str) -> Gguf {
    let reduced: Reduced =
        serde_json::from_str(&vector(&format!("tokens/vocabulary-{name}.json"))).unwrap();
    let len = reduced.vocabulary;
    let mut tokens: Vec<String> = (0..len).map(|id| format!("<left out {id}>")).collect();
    let (mut kinds, mut scores) = (vec![3; len], None);
    for token in reduced.tokens {
        let (id, kind, text) = match token {
            Token::Plain(id, kind, text) => (id, kind, text),
            Token::Scored(id, kind, text, score) => {
                scores.get_or_insert_with(|| vec![0.0; len])[id] = score;
                (id, kind, text)
            }
        };
        (tokens[id], kinds[id]) = (text, kind);
    }
    let mut pairs: Vec<(String, Value)> = reduced
        .single
        .into_iter()
        .map(|(key, value)| (key, single(&value)))
        .chain([
            ("tokens".to_owned(), Value::Array(Array::String(tokens))),
            ("token_type".to_owned(), Value::Array(Array::I32(kinds))),
            ("merges".to_owned(), Value::Array(Array::String(reduced.merges))),
        ])
        .collect();
    pairs.extend(scores.map(|scores| ("scores".to_owned(), Value::Array(Array::F32(scores)))));
    for (key, _) in &mut pairs {
        key.insert_str(0, "tokenizer.ggml.");
    }
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs, &[]).unwrap();
    Gguf::parse(bytes).unwrap()
}

fn single(value: &serde_json::Value) -> Value {
    if let Some(flag) = value.as_bool() {
        return Value::Bool(flag);
    }
    match value.as_u64() {
        Some(number) => Value::U32(number.try_into().unwrap()),
        None => Value::String(value.as_str().unwrap().to_owned()),
    }
}

fn tokenizer(name: &str) -> Tokenizer {
    let gguf = match env::var_os("REALM_TEST_VOCABULARIES") {
        Some(folder) => Gguf::open(&PathBuf::from(folder).join(format!("{name}.gguf"))).unwrap(),
        None => reduced(name),
    };
    Tokenizer::of(&gguf).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// Compares every string. The reference tidies the text of one byte-level vocabulary, leaving out
/// blanks before signs; here such text comes out as it went in.
fn check(name: &str, comes_out: impl Fn(&serde_json::Value) -> Vec<u8>) -> Tokenizer {
    let tokenizer = tokenizer(name);
    let reference = vector_json(&format!("tokens/tokens-{name}.json"));
    let strings = reference["strings"].as_object().unwrap();
    assert_eq!(strings.len(), 72);
    for (string, want) in strings {
        let text = want["text"].as_str().unwrap();
        let plain = tokenizer.encode(text, Special::Text).unwrap();
        assert_eq!(plain, ids(&want["ids_plain"]), "{string}");
        if !want["ids_special"].is_null() {
            let special = tokenizer.encode(text, Special::Token).unwrap();
            assert_eq!(special, ids(&want["ids_special"]), "{string}");
        }
        let pieces: Vec<_> = plain.iter().map(|&id| tokenizer.piece(id).to_vec()).collect();
        let wanted = want["pieces_plain_hex"].as_array().unwrap();
        assert_eq!(pieces, wanted.iter().map(bytes).collect::<Vec<_>>(), "{string}");
        assert_eq!(tokenizer.decode(&plain).unwrap(), comes_out(want), "{string}");
    }
    tokenizer
}

fn check_chat(name: &str, comes_out: impl Fn(&serde_json::Value) -> Vec<u8>) {
    let tokenizer = check(name, comes_out);
    let all = 0..u32::try_from(tokenizer.len()).unwrap();
    let endings: Vec<u32> = all.filter(|&id| tokenizer.is_ending(id)).collect();
    assert_eq!(endings, ids(&vector_json(&format!("tokens/tokens-{name}.json"))["eog"]));
}

fn as_it_went_in(want: &serde_json::Value) -> Vec<u8> {
    want["text"].as_str().unwrap().as_bytes().to_vec()
}

fn as_the_reference_says(want: &serde_json::Value) -> Vec<u8> {
    bytes(&want["detok_plain_hex"])
}

#[test]
fn llama_3_is_read_as_the_reference_reads_it() {
    check_chat("llama-bpe", as_it_went_in);
}

#[test]
fn qwen_2_is_read_as_the_reference_reads_it() {
    check_chat("qwen2", as_it_went_in);
}

#[test]
fn llama_2_is_read_as_the_reference_reads_it() {
    check_chat("llama-spm", as_the_reference_says);
}

#[test]
fn gemma_3_is_read_as_the_reference_reads_it() {
    check_chat("gemma3", as_the_reference_says);
}

#[test]
fn a_model_of_sentences_is_read_as_the_reference_reads_it() {
    check("minilm", as_the_reference_says);
}

#[test]
fn the_likeliest_pieces_of_all_are_those_of_the_reference() {
    check("unigram", as_the_reference_says);
}
