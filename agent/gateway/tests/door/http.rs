//! What every HTTP answer has in common.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    program::roster,
    server::{KEY, Server, parse, soon},
};

const PAGE: &str = "https://app.example.com";

#[tokio::test]
async fn a_listed_page_may_read_answers_and_another_may_not() {
    let server = Server::start(|config| config.allowed_origins = vec![PAGE.into()]).await;
    let asks = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, x-stainless-lang"),
    ];
    let preflight = |origin| {
        let headers = [("origin", origin), asks[0], asks[1]];
        let server = &server;
        async move { server.ask("OPTIONS", "/v1/chat/completions", &headers, "").await }
    };
    let allowed = preflight(PAGE).await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(allowed.header("access-control-allow-headers"), Some(asks[1].1));
    assert_eq!(preflight("https://evil.example").await.status, 403);

    let key = format!("Bearer {KEY}");
    for (origin, expected) in [(PAGE, Some(PAGE)), ("https://evil.example", None)] {
        let headers = [("origin", origin), ("authorization", key.as_str())];
        let answer = server.ask("GET", "/v1/models", &headers, "").await;
        assert_eq!(answer.header("access-control-allow-origin"), expected);
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    // Errors must be readable too, or the page cannot say what went wrong.
    let answer = server.ask("GET", "/v1/models", &[("origin", PAGE)], "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some(PAGE)));
}

#[tokio::test]
async fn an_unknown_address_a_wrong_method_and_a_missing_key_have_error_objects() {
    let server = Server::start(|_| ()).await;
    let nothing = server.get("/v1/nothing").await;
    assert_eq!((nothing.status, &nothing.json()["error"]["code"]), (404, &json!("unknown_url")));
    let method = server.get("/v1/chat/completions").await;
    let code = json!("method_not_supported");
    assert_eq!((method.status, &method.json()["error"]["code"]), (405, &code));
    let keyless = server.ask("POST", "/v1/chat/completions", &[], "{}").await;
    assert_eq!((keyless.status, keyless.header("www-authenticate")), (401, Some("Bearer")));
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow_is_refused() {
    let server = Server::start(|config| config.limits.message_bytes_max = 1 << 10).await;
    let large = json!({"model": "m", "prompt": "x".repeat(1 << 11)});
    let large = server.post("/v1/completions", &large).await;
    assert_eq!((large.status, &large.json()["error"]["code"]), (413, &json!("too_large")));

    let wait = Duration::from_millis(20);
    let server = Server::start(|config| config.limits.body_wait = wait).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         authorization: Bearer {KEY}\r\ncontent-length: 10\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(parse(&String::from_utf8(bytes).unwrap()).status, 400);
}

#[tokio::test]
async fn the_metrics_have_a_port_of_their_own() {
    let server = Server::start(|_| ()).await;
    let text = server.scrape().await;
    for family in
        ["realm_calls_running", "realm_inter_token_seconds", "realm_gateway_frames_refused_total"]
    {
        assert!(text.contains(&format!("# HELP {family} ")), "{family} is not in\n{text}");
    }
    // The scrapes' own connections are none of a client's.
    assert!(text.contains("\nrealm_gateway_connections 0\n"), "{text}");
    let socket = server.socket().await;
    let text = server.scrape().await;
    assert!(text.contains("\nrealm_gateway_connections 1\n"), "{text}");
    drop(socket);
    let ready = crate::server::ask(server.metrics, "GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 200);
    assert_eq!(server.get("/metrics").await.status, 404);
}

#[tokio::test]
async fn a_tenant_that_is_gone_leaves_no_series() {
    let server = Server::start(|_| ()).await;
    let mut socket = server.socket().await;
    socket.call("1", "tokenize", &json!({})).await;
    assert_eq!(socket.frame().await["status"], "complete");
    assert!(server.scrape().await.contains("default/acme"));
    server.roster.send_replace(roster([]));
    let text = server.scrape().await;
    assert!(!text.contains("default/acme"), "{text}");
}
