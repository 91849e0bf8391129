//! What one client may take of the door, however it behaves.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    program::{Event, roster, tenant},
    server::{KEY, Server, Socket, soon},
};

#[tokio::test]
async fn sixty_four_calls_run_on_a_socket_and_one_more_is_refused() {
    let mut server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    for id in 0..64 {
        socket.call(&id.to_string(), "hold", &json!({})).await;
        assert_eq!(socket.frame().await["data"]["text"], "held");
        assert_eq!(server.event().await, Event::Started(id.to_string()));
    }
    socket.call("more", "hold", &json!({})).await;
    assert_eq!(socket.error().await, (json!("more"), "too_many_calls".into()));
    assert!(server.scrape().await.contains("realm_calls_running 64"));
    socket.send(&json!({"type": "cancel", "id": "7"})).await;
    assert_eq!(socket.frame().await, json!({"id": "7", "status": "cancelled"}));
    socket.call("more", "hold", &json!({})).await;
    assert_eq!(socket.frame().await["data"]["text"], "held");
    server.script.go.add_permits(64);
    for _ in 0..64 {
        assert_eq!(socket.frame().await["status"], "complete");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_closes_the_socket_with_a_reason() {
    let server = Server::start(|config| config.limits.message_bytes_max = 1 << 10).await;
    let mut socket = server.socket().await;
    socket.call("1", "generate", &json!({"prompt": "x".repeat(900)})).await;
    assert_eq!(socket.frame().await["status"], "streaming");
    assert_eq!(socket.frame().await["status"], "complete");
    socket.send_message(Message::text("x".repeat(1 << 16))).await;
    assert_eq!(socket.error().await, (Value::Null, "too_large".into()));
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn no_message_of_the_server_is_larger_than_eight_mebibytes() {
    let mut wordy = tenant(KEY);
    wordy.limits.program.output_bytes_max = 64 << 20;
    let server = Server::start_with(wordy, |_| ()).await;
    let mut socket = server.socket().await;
    for (stream, kind) in [(true, "value"), (true, "result"), (false, "value"), (false, "result")] {
        let frame = |bytes: u32| {
            let params = json!({"bytes": bytes, "as": kind});
            json!({"id": "1", "function": "bulk", "params": params, "stream": stream})
        };
        socket.send(&frame(8 << 20)).await;
        assert_eq!(socket.error().await, (json!("1"), "program_output".into()), "{kind} {stream}");
        socket.send(&frame((8 << 20) - 512)).await;
        while socket.frame().await["status"] != "complete" {}
    }
    let text = server.scrape().await;
    let refused = r#"realm_gateway_requests_total{code="program_output",function="other",tenant="default/acme"} 4"#;
    assert!(text.contains(refused), "{text}");
}

#[tokio::test]
async fn a_reader_that_stalls_loses_its_call_and_may_go_on_with_another() {
    let stall = Duration::from_millis(50);
    let mut server = Server::start(|config| config.limits.stall_max = stall).await;
    let mut socket = server.socket().await;
    socket.call("1", "flood", &json!({})).await;
    assert_eq!(server.event().await, Event::Started("1".into()));
    // Nothing is read until the call is over.
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
    let mut index = 0;
    let last = loop {
        let frame = socket.frame().await;
        if frame["status"] != "streaming" {
            break frame;
        }
        assert_eq!(frame["index"], index);
        index += 1;
    };
    assert_eq!((&last["status"], &last["error"]["code"]), (&json!("error"), &json!("slow_reader")));
    socket.call("2", "generate", &json!({"prompt": "x"})).await;
    assert_eq!(socket.frame().await["data"]["text"], "x");
}

#[tokio::test]
async fn a_client_that_takes_no_byte_and_says_nothing_is_given_up() {
    let silence = Duration::from_millis(100);
    let mut server = Server::start(|config| {
        config.limits.silence_max = silence;
        config.limits.ping_every = silence / 3;
    })
    .await;
    let mut socket = server.socket().await;
    socket.call("1", "hold", &json!({})).await;
    assert_eq!(server.event().await, Event::Started("1".into()));
    // Not reading, it answers no ping.
    assert_eq!(server.event().await, Event::Cancelled("1".into()));
}

#[tokio::test]
async fn what_the_door_says_about_a_tenant_costs_a_request_and_its_health_none() {
    let mut slow = tenant(KEY);
    slow.limits.requests_per_minute = 2;
    let server = Server::start_with(slow, |_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "metadata", &json!({})).await;
    assert_eq!(socket.frame().await["quota"]["requests"], 1);
    assert_eq!(server.get("/v1/models").await.status, 200);
    socket.call("2", "metadata", &json!({})).await;
    assert_eq!(socket.error().await, (json!("2"), "too_many_requests".into()));
    for path in ["/v1/models", "/v1/models/m"] {
        assert_eq!(server.get(path).await.status, 429, "{path}");
    }
    for id in ["3", "4", "5"] {
        socket.call(id, "health", &json!({})).await;
        assert_eq!(socket.frame().await["status"], "complete");
    }
    let text = server.scrape().await;
    for line in [
        r#"realm_gateway_requests_total{code="ok",function="metadata",tenant="default/acme"} 2"#,
        r#"realm_gateway_requests_total{code="too_many_requests",function="metadata",tenant="default/acme"} 3"#,
        r#"realm_gateway_requests_total{code="ok",function="health",tenant="default/acme"} 3"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_counted() {
    let server = Server::start(|config| config.limits.connections_max = 1).await;
    let first = server.socket().await;
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(soon(second.read(&mut [0; 1])).await.unwrap_or(0), 0);
    let text = server.scrape().await;
    assert!(text.contains("realm_gateway_connections_refused_total 1"), "{text}");
    drop(first);
}

#[tokio::test]
async fn one_tenant_does_not_take_the_sockets_of_another() {
    let server = Server::start(|config| config.limits.sockets_per_tenant_max = 2).await;
    let mut other = tenant("rk_other");
    other.name = realm_core::name::TenantName::parse("default/other").unwrap();
    server.roster.send_replace(roster([tenant(KEY), other]));
    let (first, _second) = (server.socket().await, server.socket().await);
    let refused = server.upgrade(&[("authorization", &format!("Bearer {KEY}"))]).await.unwrap_err();
    assert_eq!((refused.status, &refused.body["error"]["code"]), (503, &json!("busy")));
    let mut by_frame = server.upgrade(&[]).await.unwrap();
    by_frame.send(&json!({"type": "auth", "api_key": KEY})).await;
    assert_eq!(by_frame.error().await, (Value::Null, "busy".into()));
    assert_eq!(by_frame.close_code().await, 1013);
    let mut other = server.upgrade(&[("authorization", "Bearer rk_other")]).await.unwrap();
    assert_eq!(other.frame().await["tenant"], "default/other");
    close(first).await;
    drop(server.socket().await);
}

/// Closes a socket and waits until the server has closed it too.
async fn close(mut socket: Socket) {
    socket.send_message(Message::Close(None)).await;
    while socket.message().await.is_some() {}
}

#[tokio::test]
async fn one_address_does_not_take_every_connection_and_known_sockets_do_not_count_for_it() {
    let server = Server::start(|config| config.limits.connections_per_address_max = 2).await;
    let _known = [server.socket().await, server.socket().await, server.socket().await];
    let mut late = server.upgrade(&[]).await.unwrap();
    let _stranger = server.upgrade(&[]).await.unwrap();
    let mut third = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(soon(third.read(&mut [0; 1])).await.unwrap_or(0), 0);
    let text = server.scrape().await;
    assert!(text.contains("realm_gateway_connections_refused_total 1"), "{text}");
    late.send(&json!({"type": "auth", "api_key": KEY})).await;
    assert_eq!(late.frame().await["type"], "ready");
    drop(server.upgrade(&[]).await.unwrap());
}

#[tokio::test]
async fn strangers_have_few_places_and_give_them_back_once_they_are_known() {
    let server = Server::start(|config| config.limits.strangers_max = 1).await;
    let mut stranger = server.upgrade(&[]).await.unwrap();
    let refused = server.upgrade(&[]).await.unwrap_err();
    assert_eq!((refused.status, &refused.body["error"]["code"]), (503, &json!("busy")));
    drop(server.socket().await);
    stranger.send(&json!({"type": "auth", "api_key": KEY})).await;
    assert_eq!(stranger.frame().await["type"], "ready");
    drop(server.upgrade(&[]).await.unwrap());
}

#[tokio::test]
async fn a_request_whose_head_does_not_come_is_given_up() {
    let wait = Duration::from_millis(50);
    let server = Server::start(|config| config.limits.head_wait = wait).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(soon(idle.read_to_end(&mut bytes)).await.unwrap_or(0), 0);
}
