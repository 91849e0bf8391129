//! Texts through the built-in program, and what they cost.

use std::sync::atomic::Ordering;

use realm_core::{
    embed::Text,
    engine::{Finish, Usage},
    refusal::Refusal,
    tenants::Tenants as _,
};
use serde_json::{Value, json};

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, read, town, until},
};

async fn refused(mood: Mood, name: &str, params: &Value) -> Refusal {
    let town = town().await;
    let citizen = Citizen::new(name)
        .with_model(&town.runtime, Echo::new(&format!("tests/{name}"), mood))
        .moves_into(&town.runtime, &town.built_in);
    citizen.refused(&town.runtime, "embed", params).await
}

#[tokio::test]
async fn vectors_come_back_in_the_order_of_the_texts() {
    let town = town().await;
    let citizen = Citizen::new("vectors")
        .with_model(&town.runtime, Echo::new("tests/vectors", Mood::Reads))
        .moves_into(&town.runtime, &town.built_in);
    let params = json!({ "texts": ["two", "é", [5, 6, 7, 8]] });
    let done = citizen.done(&town.runtime, "embed", &params).await.end.unwrap();
    // 3 and 116, 2 and 195, 4 and 5, as little-endian floats.
    let vectors = ["AABAQAAA6EI=", "AAAAQAAAQ0M=", "AACAQAAAoEA="];
    let data = json!({ "vectors": vectors, "dimensions": 2, "tokens": [3, 2, 4] });
    let usage = Usage { prompt_tokens: 9, ..Usage::default() };
    assert_eq!((done.data, done.finish, done.usage), (data, Finish::Stop, usage));
    let one = citizen.done(&town.runtime, "embed", &json!({ "text": "two" })).await.end.unwrap();
    assert_eq!(one.data, json!({ "vectors": vectors[..1], "dimensions": 2, "tokens": [3] }));
}

#[tokio::test]
async fn embed_hands_every_parameter_to_the_engine() {
    let town = town().await;
    let (first, second) =
        (Echo::new("tests/embed-1", Mood::Reads), Echo::new("tests/embed-2", Mood::Reads));
    let citizen = Citizen::new("embed-hands")
        .with_model(&town.runtime, first.clone())
        .with_model(&town.runtime, second.clone())
        .moves_into(&town.runtime, &town.built_in);
    citizen.done(&town.runtime, "embed", &json!({ "text": "a" })).await.end.unwrap();
    let params = json!({
        "texts": [[1, 2], "b"], "model": "embed-2", "dimensions": 7, "normalize": false,
    });
    citizen.done(&town.runtime, "embed", &params).await.end.unwrap();
    let asked = first.texts.lock().unwrap().pop().unwrap();
    assert_eq!((asked.dimensions, asked.normalize), (None, true));
    assert!(asked.deadline.is_some());
    let asked = second.texts.lock().unwrap().pop().unwrap();
    assert_eq!(asked.texts, [Text::Tokens(vec![1, 2]), Text::Words("b".into())]);
    assert_eq!((asked.dimensions, asked.normalize), (Some(7), false));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    for (at, (params, name)) in [
        (json!({}), "texts"),
        (json!({ "text": "a", "texts": ["b"] }), "not both"),
        (json!({ "texts": "a" }), "texts"),
        (json!({ "texts": ["a", 1] }), "texts[1]"),
        (json!({ "texts": [[-1]] }), "texts[0]"),
        (json!({ "text": "a", "normalize": 1 }), "normalize"),
        (json!({ "text": "a", "dimensions": 0 }), "dimensions"),
        (json!({ "text": "a", "truncate": true }), "truncate"),
    ]
    .iter()
    .enumerate()
    {
        let refusal = refused(Mood::Reads, &format!("nonsense-{at}"), params).await;
        assert!(matches!(&refusal, Refusal::Invalid(why) if why.contains(name)), "{refusal:?}");
    }
}

#[tokio::test]
async fn texts_are_charged_as_prompts_are_and_begun_by_nobody_who_has_no_tokens_left() {
    let town = town().await;
    let engine = Echo::new("tests/embed-charged", Mood::Reads);
    let mut citizen = Citizen::new("embed-charged").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.input_tokens_per_minute = 8;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let beside = citizen.admit("embed", &json!({ "text": "later" })).unwrap();
    let params = json!({ "texts": ["six by", "te"] });
    citizen.done(&town.runtime, "embed", &params).await.end.unwrap();
    assert_eq!(citizen.quota().input_tokens, 0);
    let refusal = read(town.runtime.start(beside)).await.end.unwrap_err();
    assert!(matches!(refusal, Refusal::TooManyTokens { .. }), "{refusal:?}");
    assert_eq!(engine.texts.lock().unwrap().len(), 1, "it was not begun");
}

#[tokio::test]
async fn the_text_that_is_too_long_is_named_and_nothing_is_charged() {
    let town = town().await;
    let mut citizen = Citizen::new("embed-long")
        .with_model(&town.runtime, Echo::new("tests/embed-long", Mood::Reads));
    citizen.tenant.limits.input_tokens_per_minute = 1;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = json!({ "texts": ["a", "x".repeat(1001)] });
    let refusal = citizen.refused(&town.runtime, "embed", &params).await;
    assert_eq!(refusal, Refusal::TextTooLong { at: 1, tokens: 1001, tokens_max: 1000 });
    citizen.admit("embed", &json!({})).unwrap();
}

#[tokio::test]
async fn a_model_says_what_it_can_to_a_call_that_it_cannot_serve() {
    let refusal = refused(Mood::Echo, "no-embed", &json!({ "text": "a" })).await;
    let told = "model `no-embed` cannot `embed`; it can `generate` and `chat`";
    assert_eq!(refusal, Refusal::Unsupported(told.into()));
    let town = town().await;
    let citizen = Citizen::new("only-reads")
        .with_model(&town.runtime, Echo::new("tests/only-reads", Mood::Reads))
        .moves_into(&town.runtime, &town.built_in);
    let chat = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    for (function, params) in [("chat", chat), ("generate", json!({ "prompt": "a" }))] {
        let refusal = citizen.refused(&town.runtime, function, &params).await;
        let told = format!("model `only-reads` cannot `{function}`; it can `embed`");
        assert_eq!(refusal, Refusal::Unsupported(told));
    }
    let [model] = &town.runtime.models(&citizen.caller())[..] else { panic!("one") };
    assert_eq!(model.abilities.unwrap().functions(), ["embed"]);
    // It takes texts apart, as every model does.
    citizen.done(&town.runtime, "tokenize", &json!({ "text": "a" })).await.end.unwrap();
}

#[tokio::test]
async fn an_engine_that_forgets_texts_ends_their_call() {
    let refusal = refused(Mood::Forgets, "forgets", &json!({ "text": "a" })).await;
    assert_eq!(refusal, Refusal::Internal);
}

#[tokio::test]
async fn texts_that_nobody_waits_for_are_given_up() {
    let town = town().await;
    let engine = Echo::new("tests/embed-gone", Mood::Reads);
    let citizen = Citizen::new("embed-gone")
        .with_model(&town.runtime, engine.clone())
        .moves_into(&town.runtime, &town.built_in);
    let reply = citizen.call(&town.runtime, "embed", &json!({ "texts": [[0]] }));
    until(|| engine.running.load(Ordering::SeqCst) == 1).await;
    drop(reply);
    until(|| engine.running.load(Ordering::SeqCst) == 0).await;
}

/// As many numbers as a call may have: the program holds them within the memory that tenants have
/// by default, and its answer fits a message.
#[tokio::test]
async fn the_largest_answer_fits_the_programs_memory_and_a_message() {
    let town = town().await;
    let mut citizen = Citizen::new("embed-large")
        .with_model(&town.runtime, Echo::new("tests/embed-large", Mood::Wide));
    citizen.tenant.limits.program.memory_bytes_max = 64 << 20;
    citizen.tenant.limits.program.fuel_max = 10_000_000_000;
    citizen.tenant.limits.program.output_bytes_max = 8 << 20;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = json!({ "texts": vec!["a"; 2000] });
    let done = citizen.done(&town.runtime, "embed", &params).await.end.unwrap();
    let vectors = done.data["vectors"].as_array().unwrap();
    assert_eq!((vectors.len(), vectors[1999].as_str().unwrap().len()), (2000, 4000));
    assert!(done.data.to_string().len() < (8 << 20) - 1024);
}
