//! The orderly end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    program::Event,
    server::{KEY, Server, ask, parse, request, soon},
};

#[tokio::test]
async fn a_drain_lets_running_calls_finish_and_takes_no_new_ones() {
    let server = Server::start(|config| config.grace = Duration::from_secs(20)).await;
    let mut socket = server.socket().await;
    let mut idle = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["text"], "held");
    assert_eq!(server.get("/readyz").await.status, 200);

    server.shutdown.cancel();
    assert_eq!(
        idle.frame().await,
        json!({"type": "going_away", "grace_ms": 20_000, "resume": true})
    );
    assert_eq!(idle.close_code().await, 1001);
    assert_eq!(socket.frame().await["type"], "going_away");
    socket.call("2", "generate", &json!({"prompt": "x"})).await;
    assert_eq!(socket.error().await, (json!("2"), "draining".into()));
    socket.call("2", "health", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["status"], "draining");

    // Late clients hear why, and probes see it.
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.upgrade(&[]).await.unwrap_err().status, 503);
    let late = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let late = server.post("/v1/chat/completions", &late).await;
    assert_eq!((late.status, &late.json()["error"]["code"]), (503, &json!("draining")));

    server.script.go.add_permits(1);
    assert_eq!(socket.frame().await["status"], "complete");
    assert_eq!(socket.close_code().await, 1001);
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn when_the_grace_is_over_calls_end_with_a_reason() {
    let mut server = Server::start(|config| config.grace = Duration::from_millis(50)).await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["text"], "held");
    assert_eq!(server.event().await, Event::Started("1".into()));
    server.shutdown.cancel();
    assert_eq!(socket.frame().await["type"], "going_away");
    assert_eq!(socket.error().await, (json!("1"), "moved".into()));
    assert_eq!(socket.close_code().await, 1001);
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn an_event_stream_that_outlives_the_grace_ends_with_a_reason() {
    let server = Server::start(|config| config.grace = Duration::from_millis(50)).await;
    let body = json!({
        "model": "m", "stream": true, "messages": [{"role": "user", "content": "hold"}],
    });
    let key = format!("Bearer {KEY}");
    let request =
        request("POST", "/v1/chat/completions", &[("authorization", &key)], &body.to_string());
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 16];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    server.shutdown.cancel();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    let answer = parse(&String::from_utf8(bytes).unwrap());
    let last: Value = serde_json::from_str(answer.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "moved");
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn a_call_in_one_piece_that_outlives_the_grace_ends_with_a_reason() {
    let mut server = Server::start(|config| config.grace = Duration::from_millis(50)).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hold"}]});
    let asking = tokio::spawn({
        let addr = server.addr;
        async move {
            let key = format!("Bearer {KEY}");
            ask(addr, "POST", "/v1/chat/completions", &[("authorization", &key)], &body.to_string())
                .await
        }
    });
    assert!(matches!(server.event().await, Event::Started(_)));
    server.shutdown.cancel();
    let answer = soon(asking).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("moved")));
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn calls_are_taken_while_the_address_is_still_believed_in() {
    let server = Server::start(|config| config.settle = Duration::from_secs(3)).await;
    let mut socket = server.socket().await;
    server.shutdown.cancel();
    soon(async {
        while server.get("/readyz").await.status == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.get("/readyz").await.body, "draining\n");
    // Nobody was told to go, and new sockets and calls are served as ever.
    socket.call("1", "generate", &json!({"prompt": "x"})).await;
    assert_eq!(socket.frame().await["data"]["text"], "x");
    assert_eq!(socket.frame().await["status"], "complete");
    let mut late = server.socket().await;
    late.call("1", "hold", &json!({})).await;
    assert_eq!(late.frame().await["data"]["text"], "held");

    assert_eq!(socket.frame().await["type"], "going_away");
    assert_eq!(late.frame().await["type"], "going_away");
    late.call("2", "generate", &json!({"prompt": "x"})).await;
    assert_eq!(late.error().await, (json!("2"), "draining".into()));
    server.script.go.add_permits(1);
    assert_eq!(late.frame().await["status"], "complete");
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn a_server_whose_clients_have_gone_elsewhere_ends_before_its_grace() {
    let mut server = Server::start(|config| config.grace = Duration::from_mins(10)).await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["text"], "held");
    assert_eq!(server.event().await, Event::Started("1".into()));
    server.shutdown.cancel();
    assert_eq!(socket.frame().await["type"], "going_away");
    socket.send(&json!({"type": "cancel", "id": "1"})).await;
    assert_eq!(socket.frame().await["status"], "cancelled");
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn an_idle_server_drains_at_once() {
    let server = Server::start(|config| config.grace = Duration::from_mins(10)).await;
    let idle = TcpStream::connect(server.addr).await.unwrap();
    server.shutdown.cancel();
    soon(server.serving).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn readiness_is_what_the_node_says() {
    let server = Server::start(|_| ()).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.ready.send_replace(false);
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/healthz").await.status, 200);
}
