//! The WebSocket: who gets in, what is answered, what is refused and goes on.

use std::{sync::Arc, time::Duration};

use realm_core::auth::Roster;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    program::{Event, roster, tenant},
    server::{KEY, Server},
};

fn data(frame: &Value) -> (u64, &str) {
    (frame["index"].as_u64().unwrap(), frame["data"]["text"].as_str().unwrap())
}

#[tokio::test]
async fn a_call_streams_its_pieces_in_order_and_ends_with_usage_and_quota() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "generate", &json!({"prompt": "one two three"})).await;
    for (index, text) in [(0, "one "), (1, "two "), (2, "three")] {
        let frame = socket.frame().await;
        assert_eq!((&frame["id"], &frame["status"]), (&json!("1"), &json!("streaming")));
        assert_eq!(data(&frame), (index, text));
    }
    assert_eq!(
        socket.frame().await,
        json!({
            "id": "1", "status": "complete", "data": {}, "finish": "stop",
            "usage": {"prompt_tokens": 5, "cached_tokens": 2, "completion_tokens": 3},
            "quota": {"requests": 999, "input_tokens": 1000, "output_tokens": 1000},
        })
    );
}

#[tokio::test]
async fn a_call_that_does_not_stream_answers_in_one_frame() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    let params = json!({"prompt": "one two"});
    socket
        .send(&json!({"type": "call", "id": "1", "function": "generate", "params": params,
            "stream": false, "deadline_ms": 1000}))
        .await;
    let frame = socket.frame().await;
    assert_eq!(
        (&frame["status"], &frame["data"]),
        (&json!("complete"), &json!({"text": "one two"}))
    );
    socket.call("1", "tokenize", &json!({"text": "a b"})).await;
    assert_eq!(socket.frame().await["data"], json!({"tokens": [1, 2], "count": 2}));
}

#[tokio::test]
async fn what_is_resumed_reaches_the_program_and_how_far_it_is_comes_back() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    let call = json!({"id": "1", "function": "go on"});
    let with = |fields: Value| {
        let mut call = call.clone();
        call.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
        call
    };
    let resume = json!({"tokens": [3, 4], "text_bytes": 9, "seed": u64::MAX});
    socket.send(&with(json!({"resumable": true, "resume": resume}))).await;
    let frame = socket.frame().await;
    let resumed = realm_core::call::Resume::new(vec![3, 4], 9, u64::MAX).unwrap();
    assert_eq!(frame["data"]["text"], format!("{:?}", Some(resumed)));
    assert_eq!(frame["progress"], json!({"first": 2, "tokens": [5, 6], "seed": 7}));
    assert_eq!(socket.frame().await["status"], "complete");

    // Nobody is told what they did not ask for.
    socket.send(&call).await;
    let frame = socket.frame().await;
    assert_eq!((&frame["data"]["text"], frame.get("progress")), (&json!("None"), None));
    assert_eq!(socket.frame().await["status"], "complete");

    let many = json!({"tokens": vec![1; 131_073], "text_bytes": 0, "seed": 0});
    for refused in [with(json!({"resume": many})), with(json!({"resume": resume, "stream": false}))]
    {
        socket.send(&refused).await;
        assert_eq!(socket.error().await, (json!("1"), "invalid".into()));
    }
}

#[tokio::test]
async fn a_call_of_no_function_is_refused_before_it_costs_anything() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "", &json!({})).await;
    assert_eq!(socket.error().await, (json!("1"), "invalid".into()));
    socket.call("2", "generate", &json!({"prompt": "x"})).await;
    while socket.frame().await["status"] == "streaming" {}
}

#[tokio::test]
async fn a_key_that_a_starting_server_does_not_know_is_to_come_again() {
    let server = Server::start(|_| ()).await;
    let whole = server.roster.send_replace(Arc::new(Roster::partial([])));
    let key = format!("Bearer {KEY}");
    let refused = server.upgrade(&[("authorization", &key)]).await.unwrap_err();
    let code = |body: &Value| body["error"]["code"].clone();
    assert_eq!((refused.status, code(&refused.body)), (503, json!("starting")));
    for answer in [
        server.get("/v1/models").await,
        server.post("/v1/completions", &json!({"model": "m", "prompt": "x"})).await,
    ] {
        assert_eq!((answer.status, code(&answer.json())), (503, json!("starting")));
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    let mut socket = server.upgrade(&[]).await.unwrap();
    socket.send(&json!({"type": "auth", "api_key": KEY})).await;
    assert_eq!(socket.error().await, (json!(null), "starting".into()));
    assert_eq!(socket.close_code().await, 1013);
    server.roster.send_replace(whole);
    server.socket().await;
}

#[tokio::test]
async fn a_value_and_its_step_are_passed_on_as_they_are() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "value", &json!({})).await;
    let frame = socket.frame().await;
    assert_eq!(frame["data"], json!({"step": "judge", "value": {"score": 0.5}}));
    assert_eq!(socket.frame().await["data"], json!({"outputs": {}}));
}

#[tokio::test]
async fn the_key_may_come_in_the_first_frame() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.upgrade(&[]).await.unwrap();
    socket.send(&json!({"type": "auth", "api_key": KEY})).await;
    let ready = socket.frame().await;
    assert_eq!(
        ready,
        json!({"type": "ready", "protocol": "realm.v1", "tenant": "default/acme",
            "version": env!("CARGO_PKG_VERSION")})
    );
    socket.call("1", "health", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["status"], "ok");
    socket.send(&json!({"type": "auth", "api_key": KEY})).await;
    assert_eq!(socket.error().await, (Value::Null, "invalid".into()));
}

#[tokio::test]
async fn wrong_expired_and_revoked_keys_are_refused_alike_in_the_header_and_the_first_frame() {
    let mut acme = tenant(KEY);
    let mut old = tenant("rk_old").keys.remove(0);
    old.expires_at = Some(1);
    let mut gone = tenant("rk_gone").keys.remove(0);
    gone.disabled = true;
    acme.keys.extend([old, gone]);
    let server = Server::start_with(acme, |_| ()).await;
    let mut bodies = Vec::new();
    let mut frames = Vec::new();
    for key in ["rk_wrong", "rk_old", "rk_gone", ""] {
        let refused =
            server.upgrade(&[("authorization", &format!("Bearer {key}"))]).await.unwrap_err();
        assert_eq!(refused.status, 401);
        bodies.push(refused.body);
        let mut socket = server.upgrade(&[]).await.unwrap();
        socket.send(&json!({"type": "auth", "api_key": key})).await;
        frames.push(socket.frame().await);
        assert_eq!(socket.close_code().await, 4401);
    }
    assert_eq!(bodies[0]["error"]["code"], "unauthenticated");
    assert_eq!(frames[0]["error"]["code"], "unauthenticated");
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert!(frames.iter().all(|frame| *frame == frames[0]), "{frames:?}");
    let basic = server.upgrade(&[("authorization", "Basic cms6cms=")]).await.unwrap_err();
    assert_eq!((basic.status, &basic.body), (401, &bodies[0]));
}

#[tokio::test]
async fn a_first_frame_that_is_no_key_and_one_that_does_not_come_close_the_socket() {
    let server = Server::start(|_| ()).await;
    for message in [Message::text(r#"{"id":"1","function":"health"}"#), Message::binary("x")] {
        let mut socket = server.upgrade(&[]).await.unwrap();
        socket.send_message(message).await;
        assert_eq!(socket.error().await.1, "unauthenticated");
        assert_eq!(socket.close_code().await, 4401);
    }
    let wait = Duration::from_millis(20);
    let server = Server::start(|config| config.limits.auth_wait = wait).await;
    let mut socket = server.upgrade(&[]).await.unwrap();
    assert_eq!(socket.error().await.1, "unauthenticated");
    assert_eq!(socket.close_code().await, 4408);
}

#[tokio::test]
async fn a_key_that_is_revoked_ends_its_open_sockets_and_their_calls() {
    let mut server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(data(&socket.frame().await), (0, "held"));
    assert_eq!(server.event().await, Event::Started("1".into()));
    server.roster.send_replace(roster([tenant("rk_new")]));
    assert_eq!(socket.error().await, (Value::Null, "unauthenticated".into()));
    assert_eq!(socket.close_code().await, 4401);
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
}

#[tokio::test]
async fn a_suspended_tenant_keeps_its_socket_and_has_its_calls_refused() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    let mut suspended = tenant(KEY);
    suspended.suspended = true;
    server.roster.send_replace(roster([suspended]));
    socket.call("1", "generate", &json!({"prompt": "x"})).await;
    assert_eq!(socket.error().await, (json!("1"), "suspended".into()));
    server.roster.send_replace(roster([tenant(KEY)]));
    socket.call("1", "tokenize", &json!({})).await;
    assert_eq!(socket.frame().await["status"], "complete");
}

#[tokio::test]
async fn malformed_and_binary_frames_are_refused_and_the_socket_goes_on() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    for bad in ["", "{", "[]", "null", r#"{"id":"1"}"#, r#"{"id":"1","function":"f","x":1}"#] {
        socket.send_message(Message::text(bad)).await;
        assert_eq!(socket.error().await, (Value::Null, "invalid".into()), "{bad}");
    }
    socket.send_message(Message::binary(vec![0; 8])).await;
    assert_eq!(socket.error().await, (Value::Null, "invalid".into()));
    socket.send(&json!({"id": "1", "function": "health", "deadline_ms": 0})).await;
    assert_eq!(socket.error().await, (json!("1"), "invalid".into()));
    socket.call("1", "health", &json!({"colour": 1})).await;
    assert_eq!(socket.error().await, (json!("1"), "invalid".into()));
    socket.call("1", "health", &json!({})).await;
    assert_eq!(socket.frame().await["status"], "complete");
    assert!(server.scrape().await.contains("realm_gateway_frames_refused_total 7"));
}

#[tokio::test]
async fn an_id_that_is_taken_is_refused_and_the_running_call_goes_on() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(data(&socket.frame().await), (0, "held"));
    socket.call("1", "health", &json!({})).await;
    let frame = socket.frame().await;
    assert_eq!(frame["type"], "error");
    assert!(frame["error"]["message"].as_str().unwrap().contains("`1`"), "{frame}");
    server.script.go.add_permits(1);
    assert_eq!(socket.frame().await["status"], "complete");
    socket.call("1", "health", &json!({})).await;
    assert_eq!(socket.frame().await["status"], "complete");
}

#[tokio::test]
async fn a_cancel_ends_its_call_in_mid_stream_and_no_other() {
    let mut server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    for id in ["1", "2"] {
        socket.call(id, "hold", &json!({})).await;
        assert_eq!(data(&socket.frame().await), (0, "held"));
        assert_eq!(server.event().await, Event::Started(id.into()));
    }
    socket.send(&json!({"type": "cancel", "id": "1"})).await;
    assert_eq!(socket.frame().await, json!({"id": "1", "status": "cancelled"}));
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
    // The call has ended: another cancel of it is ignored, and its id is free.
    socket.send(&json!({"type": "cancel", "id": "1"})).await;
    socket.call("1", "health", &json!({})).await;
    assert_eq!(socket.frame().await["id"], "1");
    server.script.go.add_permits(1);
    let frame = socket.frame().await;
    assert_eq!((&frame["id"], &frame["status"]), (&json!("2"), &json!("complete")));
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_calls() {
    let mut server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(server.event().await, Event::Started("1".into()));
    drop(socket);
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
}

#[tokio::test]
async fn a_close_from_the_client_is_answered() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.send_message(Message::Close(None)).await;
    assert!(matches!(socket.message().await, Some(Message::Close(_))));
    assert!(socket.message().await.is_none());
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_an_internal_error() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "vanish", &json!({})).await;
    assert_eq!(socket.error().await, (json!("1"), "internal".into()));
    socket.call("1", "busy", &json!({})).await;
    let frame = socket.frame().await;
    assert_eq!(frame["error"]["retry_after_ms"], 1500);
    socket.call("1", "nothing", &json!({})).await;
    assert_eq!(socket.error().await, (json!("1"), "unknown_function".into()));
}

#[tokio::test]
async fn metadata_lists_what_the_caller_may_use() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "metadata", &json!({})).await;
    let data = &socket.frame().await["data"];
    let embeds = json!({"dimensions": 4, "tokens_max": 8, "shortens": true});
    let model = json!({
        "alias": "m", "ready": true, "context": 64, "functions": ["embed"], "embeds": embeds,
    });
    assert_eq!(data["models"], json!([model]));
    assert_eq!(data["pipelines"], json!(["digest"]));
    let names: Vec<&str> = data["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|function| function["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["chat", "pipeline", "health", "metadata"]);
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_socket_unless_it_is_listed() {
    let listed = "https://app.example.com";
    let server = Server::start(|config| config.allowed_origins = vec![listed.into()]).await;
    let key = format!("Bearer {KEY}");
    let own = format!("http://{}", server.addr);
    for origin in [listed, &own] {
        server.upgrade(&[("authorization", &key), ("origin", origin)]).await.unwrap();
    }
    for origin in ["https://evil.example", "null"] {
        let headers = [("authorization", key.as_str()), ("origin", origin)];
        let refused = server.upgrade(&headers).await.unwrap_err();
        assert_eq!((refused.status, &refused.body["error"]["code"]), (403, &json!("not_allowed")));
    }
}

#[tokio::test]
async fn an_upgrade_that_is_none_is_refused() {
    let server = Server::start(|_| ()).await;
    let refused = server.upgrade(&[("sec-websocket-protocol", "realm.v2")]).await.unwrap_err();
    assert_eq!(refused.status, 400);
    let refused = server.upgrade(&[("sec-websocket-version", "12")]).await.unwrap_err();
    assert_eq!(refused.status, 426);
    let plain = server.get("/v1/ws").await;
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    assert_eq!(server.post("/v1/ws", &json!({})).await.status, 405);
}

#[tokio::test]
async fn tenants_do_not_share_limits() {
    let mut slow = tenant("rk_slow");
    slow.name = realm_core::name::TenantName::parse("default/slow").unwrap();
    slow.limits.requests_per_minute = 1;
    let server = Server::start(|_| ()).await;
    server.roster.send_replace(roster([tenant(KEY), slow]));
    let mut socket = server.upgrade(&[("authorization", "Bearer rk_slow")]).await.unwrap();
    assert_eq!(socket.frame().await["tenant"], "default/slow");
    socket.call("1", "tokenize", &json!({})).await;
    assert_eq!(socket.frame().await["quota"]["requests"], 0);
    socket.call("2", "tokenize", &json!({})).await;
    let frame = socket.frame().await;
    assert_eq!(frame["error"]["code"], "too_many_requests");
    assert!(frame["error"]["retry_after_ms"].as_u64().unwrap() > 1000, "{frame}");
    let mut other = server.socket().await;
    other.call("1", "tokenize", &json!({})).await;
    assert_eq!(other.frame().await["status"], "complete");
    let text = server.scrape().await;
    for line in [
        r#"realm_gateway_requests_total{code="ok",function="tokenize",tenant="default/slow"} 1"#,
        r#"realm_gateway_requests_total{code="too_many_requests",function="tokenize",tenant="default/slow"} 1"#,
        r#"realm_gateway_requests_total{code="ok",function="tokenize",tenant="default/acme"} 1"#,
        "realm_calls_running 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
