//! OpenAI's HTTP API as its official clients see it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    program::{Event, tenant},
    server::{KEY, Server, request},
};

fn chat(content: &str, stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}], "stream": stream})
}

#[tokio::test]
async fn a_chat_in_one_piece_has_every_field_of_the_api() {
    let server = Server::start(|_| ()).await;
    let answer = server.post("/v1/chat/completions", &chat("one two", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut body = answer.json();
    let id = body["id"].take();
    assert!(id.as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer.header("x-request-id"), id.as_str());
    assert!(body["created"].take().as_u64().unwrap() > 1_600_000_000);
    assert_eq!(
        body,
        json!({
            "id": null, "object": "chat.completion", "created": null, "model": "m",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "one two", "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
        })
    );
}

#[tokio::test]
async fn a_chat_streams_events_and_ends_with_usage_and_done() {
    let server = Server::start(|_| ()).await;
    let mut body = chat("one two", true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/chat/completions", &body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    let events = answer.events();
    let (done, pieces) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let pieces: Vec<Value> =
        pieces.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let choices: Vec<&Value> = pieces.iter().map(|piece| &piece["choices"]).collect();
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    assert_eq!(
        choices,
        [
            &choice(json!({"role": "assistant", "content": ""}), Value::Null),
            &choice(json!({"content": "one "}), Value::Null),
            &choice(json!({"content": "two"}), Value::Null),
            &choice(json!({}), json!("stop")),
            &json!([]),
        ]
    );
    assert!(pieces.iter().all(|piece| piece["id"] == pieces[0]["id"]));
    assert!(pieces.iter().all(|piece| piece["object"] == "chat.completion.chunk"));
    assert_eq!(pieces[4]["usage"]["total_tokens"], 7);
}

#[tokio::test]
async fn a_chat_tells_the_probabilities_of_its_tokens_whole_or_streamed() {
    let server = Server::start(|_| ()).await;
    let mut body = chat("one two", false);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(1);
    let top = json!([{"token": "x", "logprob": -2.5, "bytes": [120]}]);
    let told = |token: &str| {
        json!({
            "token": token, "logprob": -0.25, "bytes": token.as_bytes(), "top_logprobs": top,
        })
    };
    let whole = server.post("/v1/chat/completions", &body).await.json();
    let expected = json!({"content": [told("one "), told("two")], "refusal": null});
    assert_eq!(whole["choices"][0]["logprobs"], expected);
    body["stream"] = json!(true);
    let answer = server.post("/v1/chat/completions", &body).await;
    let pieces = answer.events().into_iter().filter(|event| *event != "[DONE]");
    let pieces: Vec<Value> = pieces
        .map(|event| serde_json::from_str::<Value>(event).unwrap()["choices"][0]["logprobs"].take())
        .collect();
    let piece = |token: &str| json!({"content": [told(token)], "refusal": null});
    assert_eq!(pieces, [Value::Null, piece("one "), piece("two"), Value::Null]);
}

#[tokio::test]
async fn a_completion_tells_them_in_columns() {
    let server = Server::start(|_| ()).await;
    let mut body = json!({"model": "m", "prompt": "one two", "logprobs": 1});
    let whole = server.post("/v1/completions", &body).await.json();
    let expected = json!({
        "tokens": ["one ", "two"], "token_logprobs": [-0.25, -0.25], "text_offset": [0, 4],
        "top_logprobs": [{"one ": -0.25, "x": -2.5}, {"two": -0.25, "x": -2.5}],
    });
    assert_eq!(whole["choices"][0]["logprobs"], expected);
    body["stream"] = json!(true);
    let answer = server.post("/v1/completions", &body).await;
    let second: Value = serde_json::from_str(answer.events()[1]).unwrap();
    let expected = json!({
        "tokens": ["two"], "token_logprobs": [-0.25], "text_offset": [4],
        "top_logprobs": [{"two": -0.25, "x": -2.5}],
    });
    assert_eq!(second["choices"][0]["logprobs"], expected);
}

#[tokio::test]
async fn a_completion_comes_in_one_piece_or_streamed() {
    let server = Server::start(|_| ()).await;
    let mut body = json!({"model": "m", "prompt": "one two"});
    let answer = server.post("/v1/completions", &body).await.json();
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!("one two"))
    );
    body["stream"] = json!(true);
    let answer = server.post("/v1/completions", &body).await;
    let events = answer.events();
    assert_eq!(events.len(), 4, "{events:?}");
    let first: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(first["choices"][0]["text"], "one ");
}

#[tokio::test]
async fn models_are_listed_and_shown_by_the_tenants_own_names() {
    let server = Server::start(|_| ()).await;
    let list = server.get("/v1/models").await.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("m")));
    assert_eq!(list["data"][0]["owned_by"], "default/acme");
    assert_eq!(server.get("/v1/models/m").await.json(), list["data"][0]);
    let unknown = server.get("/v1/models/other/model").await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn a_refusal_before_the_first_piece_has_a_status_even_when_streaming() {
    let server = Server::start(|_| ()).await;
    for (name, status, code) in [
        ("busy", 503, "busy"),
        ("model", 404, "model_not_found"),
        ("long", 400, "context_length_exceeded"),
        ("late", 504, "deadline_exceeded"),
        ("internal", 500, "internal"),
    ] {
        for stream in [false, true] {
            let answer = server.post("/v1/chat/completions", &chat(name, stream)).await;
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)));
            if name == "busy" {
                assert_eq!(answer.header("retry-after"), Some("2"));
                assert_eq!(answer.header("retry-after-ms"), Some("1500"));
            }
        }
    }
}

#[tokio::test]
async fn an_input_that_is_too_long_is_named_by_the_parameter_it_came_in() {
    let server = Server::start(|_| ()).await;
    for stream in [false, true] {
        let answer = server.post("/v1/chat/completions", &chat("long", stream)).await;
        assert_eq!(answer.json()["error"]["param"], "messages");
        let prompt = json!({"model": "m", "prompt": "too long", "stream": stream});
        let answer = server.post("/v1/completions", &prompt).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("prompt")));
    }
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let server = Server::start(|_| ()).await;
    let mut body = chat("x", false);
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    let answer = server.post("/v1/chat/completions", &body).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["type"]), (400, &json!("invalid_request_error")));
    assert_eq!((&error["param"], &error["code"]), (&json!("tools"), &json!("invalid")));
    let key = format!("Bearer {KEY}");
    for body in ["", "{", "[]", "\"x\"", r#"{"model":"m"}"#] {
        let headers = [("authorization", key.as_str())];
        let answer = server.ask("POST", "/v1/chat/completions", &headers, body).await;
        assert_eq!(answer.status, 400, "{body}");
    }
}

#[tokio::test]
async fn a_tenant_over_its_limit_is_told_when_to_come_back() {
    let mut slow = tenant(KEY);
    slow.limits.requests_per_minute = 1;
    let server = Server::start_with(slow, |_| ()).await;
    assert_eq!(server.post("/v1/chat/completions", &chat("x", false)).await.status, 200);
    let answer = server.post("/v1/chat/completions", &chat("x", false)).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (429, &json!("rate_limit_exceeded")));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn output_beyond_the_tenants_limit_ends_the_call() {
    let mut server = Server::start(|_| ()).await;
    let answer = server.post("/v1/chat/completions", &chat("flood", false)).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (422, &json!("program_output")));
    assert!(matches!(server.event().await, Event::Started(_)));
    assert!(matches!(server.event().await, Event::Cancelled(_)));
}

async fn post_by_hand(server: &Server, content: &str, stream: bool) -> TcpStream {
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    let key = format!("Bearer {KEY}");
    let body = chat(content, stream).to_string();
    let text = request("POST", "/v1/chat/completions", &[("authorization", &key)], &body);
    connection.write_all(text.as_bytes()).await.unwrap();
    connection
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_call_streaming_or_not() {
    let mut server = Server::start(|_| ()).await;
    for stream in [false, true] {
        let mut connection = post_by_hand(&server, "hold", stream).await;
        assert!(matches!(server.event().await, Event::Started(_)));
        if stream {
            connection.read_exact(&mut [0; 8]).await.unwrap();
        }
        drop(connection);
        assert!(matches!(server.event().await, Event::Cancelled(_)));
    }
    assert!(server.scrape().await.contains(
        r#"realm_gateway_requests_total{code="cancelled",function="chat",tenant="default/acme"} 2"#
    ));
}

#[tokio::test]
async fn a_reader_of_events_that_stalls_loses_its_call_and_hears_why() {
    let stall = Duration::from_millis(50);
    let mut server = Server::start(|config| config.limits.stall_max = stall).await;
    let mut connection = post_by_hand(&server, "flood", true).await;
    assert!(matches!(server.event().await, Event::Started(_)));
    assert!(matches!(server.event().await, Event::Cancelled(_)));
    let mut text = String::new();
    crate::server::soon(connection.read_to_string(&mut text)).await.unwrap();
    let answer = crate::server::parse(&text);
    let last: Value = serde_json::from_str(answer.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "slow_reader");
}
