use std::sync::atomic::Ordering;

use realm_core::{
    constraint::{Constraint, SOURCE_BYTES_MAX},
    engine::{Finish, Usage},
    refusal::{ProgramLimit, Refusal},
    reply::ChunkBody,
    sampling::{BIAS, BIASES_MAX, LOGPROBS_MAX, RANGES, Range, Sampling},
};
use serde_json::{Value, json};

use crate::{
    echo::{self, Echo, Mood},
    town::{Citizen, town, until},
};

#[tokio::test]
async fn chat_streams_the_models_answer() {
    let town = town().await;
    let engine = Echo::new("tests/chat-streams", Mood::Echo);
    let citizen = Citizen::new("chat-streams")
        .with_model(&town.runtime, engine)
        .moves_into(&town.runtime, &town.built_in);
    let params = json!({ "messages": [{ "role": "user", "content": "hello" }] });

    let told = citizen.done(&town.runtime, "chat", &params).await;

    assert_eq!(told.text(), "user: hello\n");
    assert!(told.chunks.len() > 1, "it streams");
    let done = told.end.unwrap();
    let usage = Usage { prompt_tokens: 12, cached_tokens: 2, completion_tokens: 12 };
    assert_eq!((done.finish, done.data, done.usage), (Finish::Stop, Value::Null, usage));
}

#[tokio::test]
async fn prompt_and_answer_are_charged_and_cached_tokens_are_free() {
    let town = town().await;
    let engine = Echo::new("tests/charged", Mood::Echo);
    let mut citizen = Citizen::new("charged").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.input_tokens_per_minute = 30;
    citizen.tenant.limits.output_tokens_per_minute = 30;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = json!({ "prompt": "twelve bytes" });
    citizen.done(&town.runtime, "generate", &params).await.end.unwrap();
    // One in two seconds may have been earned since.
    let left = citizen.quota();
    assert!((20..=21).contains(&left.input_tokens), "twelve, of which two were cached: {left:?}");
    assert!((18..=19).contains(&left.output_tokens), "{left:?}");
}

#[tokio::test]
async fn an_answer_ends_with_what_its_tenant_may_have_and_a_typed_reason() {
    let town = town().await;
    let engine = Echo::new("tests/cut", Mood::Echo);
    let mut citizen = Citizen::new("cut").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.output_tokens_per_minute = 5;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = json!({ "prompt": "twelve bytes" });
    let told = citizen.done(&town.runtime, "generate", &params).await;
    assert_eq!(told.text(), "twelv");
    let refusal = told.end.unwrap_err();
    let Refusal::TooManyTokens { per_minute: 5, retry_after_ms } = refusal else {
        panic!("{refusal:?}")
    };
    assert!((10_000..=12_000).contains(&retry_after_ms), "a token in twelve seconds");
    assert_eq!(citizen.quota().output_tokens, 0);
    until(|| engine.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_prompt_that_is_more_than_its_tenant_may_have_reaches_no_engine() {
    let town = town().await;
    let engine = Echo::new("tests/heavy", Mood::Echo);
    let mut citizen = Citizen::new("heavy").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.input_tokens_per_minute = 20;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = |bytes| json!({ "prompt": "x".repeat(bytes) });
    let refusal = citizen.refused(&town.runtime, "generate", &params(21)).await;
    assert_eq!(refusal, Refusal::TooLongForLimit { tokens: 21, per_minute: 20 });
    citizen.done(&town.runtime, "generate", &params(14)).await.end.unwrap();
    // Six are left, and two that were cached.
    let refusal = citizen.refused(&town.runtime, "generate", &params(18)).await;
    let Refusal::TooManyTokens { per_minute: 20, retry_after_ms } = refusal else {
        panic!("{refusal:?}")
    };
    assert!((27_000..=30_000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(engine.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn generate_hands_every_parameter_to_the_engine() {
    let town = town().await;
    let (first, second) =
        (Echo::new("tests/hands-1", Mood::Echo), Echo::new("tests/hands-2", Mood::Echo));
    let citizen = Citizen::new("hands")
        .with_model(&town.runtime, first.clone())
        .with_model(&town.runtime, second.clone())
        .moves_into(&town.runtime, &town.built_in);
    let defaults = json!({ "prompt": "abc" });
    let told = citizen.done(&town.runtime, "generate", &defaults).await;
    assert_eq!(told.text(), "abc");
    let params = json!({
        "prompt": "abc", "model": "hands-2", "max_tokens": 2, "temperature": 1, "top_k": 5,
        "top_p": 0.5, "min_p": 0.25, "seed": u64::MAX, "stop": ["x", "yz"], "typical_p": 0.75,
        "repetition_penalty": 1.5, "frequency_penalty": -2, "presence_penalty": 0.5,
        "logit_bias": { "7": -100, "255": 0.5 }, "logprobs": 3,
    });
    let told = citizen.done(&town.runtime, "generate", &params).await;
    assert_eq!(told.text(), "ab");
    assert_eq!(told.end.unwrap().finish, Finish::Length);

    let asked = first.asked.lock().unwrap().pop().unwrap();
    assert_eq!((asked.tokens_max, asked.stop), (Some(512), vec![]));
    let neutral = Sampling { temperature: 0.7, top_p: 0.95, ..Sampling::default() };
    assert_eq!((asked.sampling, asked.bias), (neutral, vec![]));
    let asked = second.asked.lock().unwrap().pop().unwrap();
    assert_eq!((asked.tokens_max, asked.stop), (Some(2), vec!["x".into(), "yz".into()]));
    assert_eq!((asked.sampling.temperature, asked.sampling.top_p), (1.0, 0.5));
    assert_eq!((asked.sampling.top_k, asked.sampling.min_p), (5, 0.25));
    assert_eq!(asked.sampling.seed, Some(u64::MAX));
    assert_eq!((asked.sampling.typical_p, asked.sampling.repetition_penalty), (0.75, 1.5));
    let penalties = (asked.sampling.frequency_penalty, asked.sampling.presence_penalty);
    assert_eq!((penalties, asked.sampling.logprobs), ((-2.0, 0.5), Some(3)));
    assert_eq!(asked.bias, [(255, 0.5), (7, -100.0)]);
    assert!(asked.deadline.is_some());
}

#[tokio::test]
async fn what_an_answer_keeps_to_reaches_the_engine_as_it_was_written() {
    let town = town().await;
    let engine = Echo::new("tests/keeps", Mood::Echo);
    let citizen = Citizen::new("keeps")
        .with_model(&town.runtime, engine.clone())
        .moves_into(&town.runtime, &town.built_in);
    let schema = r#"{"properties":{"z":{"enum":["}\"",1.0,null]},"a":[]},"type":"object"}"#;
    let value: Value = serde_json::from_str(schema).unwrap();
    for (format, constraint) in [
        (Value::Null, None),
        (json!({ "type": "text" }), None),
        (json!({ "type": "json_object" }), Some(Constraint::JsonObject)),
        (
            json!({ "type": "json_schema", "json_schema": {
                "description": "schema", "name": "n", "schema": value, "strict": false,
            } }),
            Some(Constraint::JsonSchema(schema.to_owned())),
        ),
        (
            json!({ "json_schema": { "schema": true }, "type": "json_schema" }),
            Some(Constraint::JsonSchema("true".to_owned())),
        ),
        (json!({ "type": "regex", "regex": "a\"" }), Some(Constraint::Regex("a\"".to_owned()))),
        (
            json!({ "type": "grammar", "grammar": "start: /a/" }),
            Some(Constraint::Lark("start: /a/".to_owned())),
        ),
    ] {
        let params = json!({ "prompt": "abc", "response_format": format, "seed": 1 });
        citizen.done(&town.runtime, "generate", &params).await;
        let asked = engine.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked.constraint, constraint, "{format}");
    }
}

#[tokio::test]
async fn probabilities_of_tokens_come_with_their_text_to_who_asks() {
    let town = town().await;
    let citizen = Citizen::new("scored")
        .with_model(&town.runtime, Echo::new("tests/scored", Mood::Echo))
        .moves_into(&town.runtime, &town.built_in);
    let mut params = json!({ "prompt": "abc" });
    let told = citizen.done(&town.runtime, "generate", &params).await;
    assert!(told.logprobs.concat().is_empty());
    params["logprobs"] = json!(2);
    let told = citizen.done(&town.runtime, "generate", &params).await;
    assert_eq!(told.text(), "abc");
    for ((_, body), logprobs) in told.chunks.iter().zip(&told.logprobs) {
        let chosen: Vec<u8> = logprobs.iter().flat_map(|of| of.chosen.bytes.clone()).collect();
        assert_eq!(*body, ChunkBody::Text(String::from_utf8(chosen).unwrap()));
    }
    assert_eq!(told.logprobs.concat(), [97, 98, 99].map(|id| echo::logprobs(id, 2)));
}

#[tokio::test]
async fn tokenize_gives_ids_and_their_count() {
    let town = town().await;
    let citizen = Citizen::new("tokenize")
        .with_model(&town.runtime, Echo::new("tests/tokenize", Mood::Echo))
        .moves_into(&town.runtime, &town.built_in);
    // Long enough to go to another thread.
    for text in ["AB".to_owned(), "A".repeat(5000)] {
        let told = citizen.done(&town.runtime, "tokenize", &json!({ "text": text })).await;
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let expected = json!({ "tokens": tokens, "count": text.len() });
        let done = told.end.unwrap();
        assert_eq!((done.data, done.usage), (expected, Usage::default()));
    }
}

#[tokio::test]
async fn a_long_text_costs_host_calls_by_its_length() {
    let town = town().await;
    let mut citizen = Citizen::new("long-text")
        .with_model(&town.runtime, Echo::new("tests/long-text", Mood::Echo));
    citizen.tenant.limits.program.host_calls_max = 50;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let text = |kib: usize| json!({ "text": "a".repeat(kib << 10) });
    citizen.done(&town.runtime, "tokenize", &text(40)).await.end.unwrap();
    let refusal = citizen.refused(&town.runtime, "tokenize", &text(51)).await;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::HostCalls, max: 50 };
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_named() {
    let town = town().await;
    let citizen = Citizen::new("named")
        .with_model(&town.runtime, Echo::new("tests/named", Mood::Echo))
        .moves_into(&town.runtime, &town.built_in);
    let message = |message: Value| json!({ "messages": [message] });
    for (function, params, named) in [
        ("generate", json!([]), "params"),
        ("generate", json!({}), "`prompt`"),
        ("generate", json!({ "prompt": 1 }), "`prompt`"),
        ("generate", json!({ "prompt": "" }), "no tokens"),
        ("generate", json!({ "prompt": "a", "promt": 1 }), "`promt`"),
        ("generate", json!({ "prompt": "a", "model": 1 }), "`model`"),
        ("generate", json!({ "prompt": "a", "max_tokens": 0 }), "`max_tokens`"),
        ("generate", json!({ "prompt": "a", "max_tokens": -1 }), "`max_tokens`"),
        ("generate", json!({ "prompt": "a", "max_tokens": 1.5 }), "`max_tokens`"),
        ("generate", json!({ "prompt": "a", "max_tokens": u64::MAX }), "`max_tokens`"),
        ("generate", json!({ "prompt": "a", "temperature": -0.1 }), "`temperature`"),
        ("generate", json!({ "prompt": "a", "temperature": 1e300 }), "`temperature`"),
        ("generate", json!({ "prompt": "a", "temperature": "hot" }), "`temperature`"),
        ("generate", json!({ "prompt": "a", "top_k": -1 }), "`top_k`"),
        ("generate", json!({ "prompt": "a", "top_p": 0 }), "`top_p`"),
        ("generate", json!({ "prompt": "a", "top_p": 1.1 }), "`top_p`"),
        ("generate", json!({ "prompt": "a", "min_p": 2 }), "`min_p`"),
        ("generate", json!({ "prompt": "a", "typical_p": 0 }), "`typical_p`"),
        ("generate", json!({ "prompt": "a", "repetition_penalty": 0 }), "`repetition_penalty`"),
        ("generate", json!({ "prompt": "a", "frequency_penalty": 2.1 }), "`frequency_penalty`"),
        ("generate", json!({ "prompt": "a", "presence_penalty": -1e300 }), "`presence_penalty`"),
        ("generate", json!({ "prompt": "a", "logprobs": 21 }), "`logprobs` must be from 0 to 20"),
        ("generate", json!({ "prompt": "a", "logprobs": true }), "`logprobs`"),
        ("generate", json!({ "prompt": "a", "logit_bias": [] }), "`logit_bias`"),
        ("generate", json!({ "prompt": "a", "logit_bias": { "a": 1 } }), "`logit_bias`"),
        ("generate", json!({ "prompt": "a", "logit_bias": { "01": 1 } }), "`logit_bias`"),
        ("generate", json!({ "prompt": "a", "logit_bias": { "1": "x" } }), "`logit_bias.1`"),
        ("generate", json!({ "prompt": "a", "logit_bias": { "1": 101 } }), "from -100 to 100"),
        ("generate", json!({ "prompt": "a", "logit_bias": { "256": 1 } }), "vocabulary of 256"),
        ("generate", json!({ "prompt": "a", "seed": -1 }), "`seed`"),
        ("generate", json!({ "prompt": "a", "stop": 1 }), "`stop`"),
        ("generate", json!({ "prompt": "a", "stop": [1] }), "`stop`"),
        ("generate", json!({ "prompt": "a", "stop": "" }), "`stop`"),
        ("generate", json!({ "prompt": "a", "stop": vec!["a"; 17] }), "`stop`"),
        ("chat", json!({}), "`messages`"),
        ("chat", json!({ "messages": [] }), "`messages`"),
        ("chat", json!({ "messages": "hi" }), "`messages`"),
        ("chat", message(json!("hi")), "`messages[0]`"),
        ("chat", message(json!({ "role": "user" })), "`messages[0].content`"),
        ("chat", message(json!({ "content": "a" })), "`messages[0].role`"),
        ("chat", message(json!({ "role": "god", "content": "a" })), "`messages[0].role`"),
        ("chat", message(json!({ "role": "user", "content": 1 })), "`messages[0].content`"),
        ("chat", message(json!({ "role": "user", "content": "a", "x": 1 })), "`messages[0].x`"),
        ("tokenize", json!({}), "`text`"),
        ("tokenize", json!({ "text": "a", "temperature": 1 }), "`temperature`"),
    ] {
        let refusal = citizen.refused(&town.runtime, function, &params).await;
        let Refusal::Invalid(message) = &refusal else { panic!("{params}: {refusal:?}") };
        assert!(message.contains(named), "{params}: {message}");
    }
}

#[tokio::test]
async fn a_form_of_an_answer_that_is_none_is_named() {
    let town = town().await;
    let citizen = Citizen::new("forms")
        .with_model(&town.runtime, Echo::new("tests/forms", Mood::Echo))
        .moves_into(&town.runtime, &town.built_in);
    let schema = |named: Value| json!({ "type": "json_schema", "json_schema": named });
    let long = "a".repeat(SOURCE_BYTES_MAX + 1);
    for (format, named) in [
        (json!("json"), "`response_format`"),
        (json!({}), "`response_format.type`"),
        (json!({ "type": "xml" }), "`response_format.type`"),
        (json!({ "type": "text", "x": 1 }), "`response_format.x`"),
        (json!({ "type": "regex" }), "`response_format.regex`"),
        (json!({ "type": "grammar" }), "`response_format.grammar`"),
        (json!({ "type": "json_schema" }), "`response_format.json_schema`"),
        (schema(json!({})), "`response_format.json_schema.schema`"),
        (schema(json!({ "schema": 1 })), "`response_format.json_schema.schema`"),
        (schema(json!({ "schema": {}, "x": 1 })), "`response_format.json_schema.x`"),
        (schema(json!({ "schema": {}, "strict": 1 })), "`response_format.json_schema.strict`"),
        (json!({ "type": "regex", "regex": long }), "65537 bytes"),
    ] {
        let params = json!({ "prompt": "a", "response_format": format });
        let refusal = citizen.refused(&town.runtime, "generate", &params).await;
        let Refusal::Invalid(message) = &refusal else { panic!("{params}: {refusal:?}") };
        assert!(message.contains(named), "{params}: {message}");
    }
}

#[tokio::test]
async fn the_built_in_program_names_the_bounds_that_the_host_holds_it_to() {
    let town = town().await;
    for name in ["generate", "chat"] {
        let functions = town.built_in.functions();
        let function = functions.iter().find(|function| function.name == name).unwrap();
        let properties = &function.params_schema["properties"];
        let number = |bound: &Value| bound.as_f64();
        for Range { name, min, max, is_open } in RANGES {
            let (least, other) = if is_open {
                ("exclusiveMinimum", "minimum")
            } else {
                ("minimum", "exclusiveMinimum")
            };
            let property = &properties[name];
            assert_eq!(number(&property[least]), Some(min), "{name}");
            assert_eq!((number(&property["maximum"]), &property[other]), (Some(max), &Value::Null));
        }
        let bias = &properties[BIAS.name];
        let entry = &bias["additionalProperties"];
        assert_eq!(number(&entry["minimum"]), Some(BIAS.min));
        assert_eq!(number(&entry["maximum"]), Some(BIAS.max));
        assert_eq!(bias["maxProperties"], json!(BIASES_MAX));
        assert_eq!(properties["logprobs"]["maximum"], json!(LOGPROBS_MAX));
    }
}

#[tokio::test]
async fn what_the_tenant_does_not_have_is_unknown() {
    let town = town().await;
    let citizen = Citizen::new("unknown")
        .with_model(&town.runtime, Echo::new("tests/unknown", Mood::Echo))
        .moves_into(&town.runtime, &town.built_in);
    let refusal = citizen.refused(&town.runtime, "dance", &json!({})).await;
    assert_eq!(refusal, Refusal::UnknownFunction("dance".into()));
    let params = json!({ "prompt": "a", "model": "gpt" });
    let refusal = citizen.refused(&town.runtime, "generate", &params).await;
    assert_eq!(refusal, Refusal::UnknownModel("gpt".into()));
}

#[tokio::test]
async fn a_tenant_without_models_is_told_so() {
    let town = town().await;
    let poor = Citizen::new("poor").moves_into(&town.runtime, &town.built_in);
    let refusal = poor.refused(&town.runtime, "generate", &json!({ "prompt": "a" })).await;
    let told = Refusal::Invalid("no `model` is named, and the tenant has none".into());
    assert_eq!(refusal, told);
}

#[tokio::test]
async fn the_context_limit_of_the_tenant_holds_prompt_and_answer() {
    let town = town().await;
    let engine = Echo::new("tests/context", Mood::Echo);
    let mut citizen = Citizen::new("context").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.context_max = 10;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let prompt = |text: &str| json!({ "prompt": text });
    let refusal = citizen.refused(&town.runtime, "generate", &prompt("0123456789")).await;
    assert_eq!(refusal, Refusal::TooLong { tokens: 10, tokens_max: 10 });
    let told = citizen.done(&town.runtime, "generate", &prompt("01234567")).await;
    assert_eq!(told.text(), "01");
    assert_eq!(told.end.unwrap().finish, Finish::Length);
}

#[tokio::test]
async fn a_refusal_of_the_engine_reaches_the_client_unchanged() {
    let town = town().await;
    let citizen = Citizen::new("unchanged")
        .with_model(&town.runtime, Echo::new("tests/busy", Mood::Busy))
        .with_model(&town.runtime, Echo::new("tests/fail", Mood::Fail))
        .with_model(&town.runtime, Echo::new("tests/vanish", Mood::Vanish))
        .moves_into(&town.runtime, &town.built_in);
    for (model, text, expected) in [
        ("busy", "", Refusal::Busy { retry_after_ms: 77 }),
        ("fail", "a", Refusal::DeadlineExceeded { deadline_ms: 42 }),
        ("vanish", "a", Refusal::Internal),
    ] {
        let params = json!({ "prompt": "abc", "model": model });
        let told = citizen.done(&town.runtime, "generate", &params).await;
        assert_eq!(told.text(), text);
        assert_eq!(told.end.unwrap_err(), expected);
    }
}
