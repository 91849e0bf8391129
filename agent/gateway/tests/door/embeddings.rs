//! Vectors by OpenAI's HTTP API, and what is refused there.

use serde_json::{Value, json};

use crate::{
    program::tenant,
    server::{KEY, Server},
};

fn body(input: &Value) -> Value {
    json!({ "model": "m", "input": input })
}

#[tokio::test]
async fn vectors_come_as_digits_or_as_base64() {
    let server = Server::start(|_| ()).await;
    let mut asked = body(&json!(["a", "bc"]));
    let answer = server.post("/v1/embeddings", &asked).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert!(answer.header("x-request-id").unwrap().starts_with("embd-"));
    let item = |index, embedding: Value| json!({"object": "embedding", "index": index, "embedding": embedding});
    let listed = |first, second| {
        json!({
            "object": "list", "model": "m", "data": [item(0, first), item(1, second)],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        })
    };
    assert_eq!(answer.json(), listed(json!([1.0, 0.5]), json!([2.0, 0.5])));
    asked["encoding_format"] = json!("base64");
    let answer = server.post("/v1/embeddings", &asked).await.json();
    assert_eq!(answer, listed(json!("AACAPwAAAD8="), json!("AAAAQAAAAD8=")));
}

#[tokio::test]
async fn a_refusal_names_the_parameter_that_it_is_about() {
    let server = Server::start(|_| ()).await;
    for (input, status, code, param) in [
        (json!(["a", "too long"]), 400, "context_length_exceeded", json!("input[1]")),
        (json!("unsupported"), 400, "unsupported", json!("model")),
        (json!("late"), 504, "deadline_exceeded", json!(null)),
        (json!([]), 400, "invalid", json!("input")),
        (json!("chat"), 502, "program_failed", json!(null)),
        (json!("nothing"), 502, "program_failed", json!(null)),
    ] {
        let answer = server.post("/v1/embeddings", &body(&input)).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"], &error["param"]),
            (status, &json!(code), &param)
        );
    }
    assert_eq!(server.get("/v1/embeddings").await.status, 405);
    let anonymous = server.ask("POST", "/v1/embeddings", &[], "{}").await;
    assert_eq!(anonymous.status, 401);
    let scrape = server.scrape().await;
    for code in ["too_long", "unsupported", "invalid"] {
        let series = format!(
            r#"realm_gateway_requests_total{{code="{code}",function="embed",tenant="default/acme"}} 1"#
        );
        assert!(scrape.contains(&series), "{series}");
    }
}

#[tokio::test]
async fn a_call_for_vectors_costs_a_request() {
    let mut slow = tenant(KEY);
    slow.limits.requests_per_minute = 1;
    let server = Server::start_with(slow, |_| ()).await;
    assert_eq!(server.post("/v1/embeddings", &body(&json!("a"))).await.status, 200);
    assert_eq!(server.post("/v1/embeddings", &body(&json!("a"))).await.status, 429);
}

#[tokio::test]
async fn models_say_what_they_can_be_called_for() {
    let server = Server::start(|_| ()).await;
    let model = server.get("/v1/models/m").await.json();
    assert_eq!(model["functions"], json!(["embed"]));
    let embeds = json!({"dimensions": 4, "tokens_max": 8, "shortens": true});
    assert_eq!(model["embeds"], embeds);
    assert_eq!(server.get("/v1/models").await.json()["data"][0], model);
}
