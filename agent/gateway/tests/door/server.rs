//! A door on loopback, and the two kinds of client a test needs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use realm_core::{auth::Roster, desired::DesiredTenant, limit::Limiter, tenants::Tenants};
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, http},
};
use tokio_util::sync::CancellationToken;

use crate::program::{self, Event, Script};

pub(crate) const KEY: &str = "rk_right";

/// Longest any step of a test may take; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) script: Arc<Script>,
    pub(crate) roster: watch::Sender<Arc<Roster>>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    events: mpsc::Receiver<Event>,
}

/// A step of a test that must come to an end.
pub(crate) async fn soon<T>(step: impl Future<Output = T>) -> T {
    timeout(PATIENCE, step).await.expect("the step came to an end")
}

impl Server {
    pub(crate) async fn start(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::start_with(program::tenant(KEY), change).await
    }

    pub(crate) async fn start_with(
        tenant: DesiredTenant,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = GatewayConfig::new(loopback);
        config.metrics = Some(loopback);
        change(&mut config);
        let (script, events) = Script::new();
        let roster = watch::Sender::new(program::roster([tenant]));
        let ready = watch::Sender::new(true);
        let ports = Ports {
            tenants: script.clone() as Arc<dyn Tenants>,
            roster: roster.subscribe(),
            limiter: Limiter::default(),
            ready: ready.subscribe(),
            metrics: Metrics::new(),
            tracer: realm_core::trace::Tracer::OFF,
        };
        let gateway = Gateway::bind(config, ports).await.unwrap();
        let addr = gateway.addr().unwrap();
        let metrics = gateway.metrics_addr().unwrap().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(gateway.serve(shutdown.clone()));
        Self { addr, metrics, script, roster, ready, shutdown, serving, events }
    }

    /// The next thing a call reports.
    pub(crate) async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    /// A socket with the key in the upgrade request, past its `ready`.
    pub(crate) async fn socket(&self) -> Socket {
        let mut socket =
            self.upgrade(&[("authorization", &format!("Bearer {KEY}"))]).await.unwrap();
        let ready = socket.frame().await;
        assert_eq!((&ready["type"], &ready["tenant"]), (&json!("ready"), &json!("default/acme")));
        socket
    }

    /// Tries to upgrade with these headers besides those of RFC 6455 and the subprotocol.
    pub(crate) async fn upgrade(&self, headers: &[(&str, &str)]) -> Result<Socket, Refused> {
        let mut request = format!("ws://{}/v1/ws", self.addr).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "realm.v1".parse().unwrap());
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.addr).await.unwrap();
        match soon(client_async(request, stream)).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "realm.v1");
                Ok(Socket(socket))
            }
            Err(WsError::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                Err(Refused { status: response.status().as_u16(), body })
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.ask("POST", path, &[("authorization", &format!("Bearer {KEY}"))], &body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[("authorization", &format!("Bearer {KEY}"))], "").await
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        ask(self.addr, method, path, headers, body).await
    }

    pub(crate) async fn scrape(&self) -> String {
        ask(self.metrics, "GET", "/metrics", &[], "").await.body
    }
}

/// An upgrade that was answered with a status.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A client's end of a WebSocket.
#[derive(Debug)]
pub(crate) struct Socket(pub(crate) WebSocketStream<TcpStream>);

impl Socket {
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_message(Message::text(frame.to_string())).await;
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        soon(self.0.send(message)).await.unwrap();
    }

    /// Calls `function` with `params`, streaming.
    pub(crate) async fn call(&mut self, id: &str, function: &str, params: &Value) {
        self.send(&json!({"id": id, "function": function, "params": params})).await;
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no frame"),
        }
    }

    /// The next frame, which must be the error of the connection or of a call.
    pub(crate) async fn error(&mut self) -> (Value, String) {
        let frame = self.frame().await;
        assert!(frame["type"] == "error" || frame["status"] == "error", "{frame}");
        (frame["id"].clone(), frame["error"]["code"].as_str().unwrap().to_owned())
    }

    /// The code the server closes with, after which the connection must end.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let Some(Message::Close(Some(frame))) = self.message().await else { panic!("no close") };
        assert!(self.message().await.is_none());
        frame.code.into()
    }

    /// The next message that is no ping; `None` once the connection has ended.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }
}

/// An HTTP answer, its chunks put together.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// What the events of a stream carry.
    pub(crate) fn events(&self) -> Vec<&str> {
        assert!(self.body.ends_with("\n\n"), "{}", self.body);
        let events = self.body.trim_end().split("\n\n");
        events
            .map(|event| event.strip_prefix("data: ").expect("an event is one data line"))
            .collect()
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = lines.collect::<Vec<_>>().concat();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: realm.local\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

pub(crate) async fn ask(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request(method, path, headers, body).as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    parse(&String::from_utf8(bytes).unwrap())
}

pub(crate) fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        chunks(body)
    } else {
        body.to_owned()
    };
    Answer { status, head: head.to_owned(), body }
}

fn chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            break;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    whole
}
