//! From an HTTP request to a socket that speaks `realm.v1`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use realm_core::{auth::Credential, name::TenantName, refusal::Refusal, trace::Parent};
use realm_proto::ws::SUBPROTOCOL;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{
    door::Door, http::Bearer, listen::Slot, metrics::STRANGER, openai::Problem, places::Place,
    session, trace,
};

/// Bytes buffered for reading, for every socket all the time; most messages have fewer.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// Bytes gathered before a write; a burst of tokens has about as many.
const WRITE_BUFFER_BYTES: usize = 4 << 10;

/// How long a client that finds every stranger's place taken should wait: as long as strangers
/// usually need to show their key.
const STRANGERS_RETRY_MS: u64 = 1000;

/// What a new socket starts with.
pub(crate) enum Entrance {
    /// The upgrade request carried a key that was good, and its tenant had a place.
    Known(Credential, Place<TenantName>),
    /// The key must come in the first frame; until then the socket is one of few.
    Stranger(OwnedSemaphorePermit),
}

/// Answers `GET /v1/ws`.
pub(crate) async fn upgrade(State(door): State<Arc<Door>>, request: Request) -> Response {
    accept(&door, request).unwrap_or_else(|refused| match refused {
        Refused::NotAnUpgrade(message) => Problem::upgrade_required(message).into_response(),
        Refused::Caller(refusal) => {
            door.count_refusal(STRANGER, "-", &refusal);
            Problem::in_wire_words(refusal).into_response()
        }
    })
}

/// Why a request does not become a socket.
enum Refused {
    NotAnUpgrade(&'static str),
    Caller(Refusal),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Caller(refusal)
    }
}

fn accept(door: &Arc<Door>, mut request: Request) -> Result<Response, Refused> {
    let accept_key = check(request.method(), request.headers())?;
    if !door.origins.allow(request.headers()) {
        return Err(Refusal::NotAllowed("this origin".into()).into());
    }
    if door.is_draining() {
        return Err(Refusal::Draining.into());
    }
    let entrance = match Bearer::of(request.headers()) {
        Some(bearer) => {
            let Bearer(credential) = bearer?;
            let caller = door.verify(credential)?;
            Entrance::Known(credential, door.take_socket(&caller)?)
        }
        None => Entrance::Stranger(
            door.strangers
                .clone()
                .try_acquire_owned()
                .map_err(|_| Refusal::Busy { retry_after_ms: STRANGERS_RETRY_MS })?,
        ),
    };
    let parent = trace::parent(request.headers());
    let extensions = request.extensions_mut();
    let (Some(on_upgrade), Some(slot)) =
        (extensions.remove::<OnUpgrade>(), extensions.remove::<Arc<Slot>>())
    else {
        return Err(Refusal::Invalid("this connection cannot become a WebSocket".into()).into());
    };
    door.connections.spawn(serve(door.clone(), on_upgrade, slot, entrance, parent));
    Ok(switching(accept_key))
}

/// The parts of RFC 6455's opening handshake that concern a server. Returns the accept key.
fn check(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Refused> {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    if method != Method::GET
        || !has(header::CONNECTION, "upgrade")
        || !has(header::UPGRADE, "websocket")
    {
        return Err(Refused::NotAnUpgrade("this address takes WebSocket upgrades only"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Refused::NotAnUpgrade("WebSocket version 13 is spoken here"));
    }
    if !has(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        let message = format!("the client must offer the subprotocol `{SUBPROTOCOL}`");
        return Err(Refusal::Invalid(message).into());
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Refusal::Invalid("Sec-WebSocket-Key is missing".into()))?;
    let accept_key = derive_accept_key(key.as_bytes());
    Ok(HeaderValue::try_from(accept_key).expect("base64 is a header value"))
}

fn switching(accept_key: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    response
}

/// The task of one socket. It holds the connection's slot to its end.
async fn serve(
    door: Arc<Door>,
    on_upgrade: OnUpgrade,
    slot: Arc<Slot>,
    entrance: Entrance,
    parent: Option<Parent>,
) {
    match on_upgrade.await {
        Ok(upgraded) => {
            let socket = socket(upgraded, door.limits.message_bytes_max).await;
            session::run(door, socket, entrance, parent, || slot.leave_address()).await;
        }
        Err(error) => tracing::debug!(%error, "upgrading a connection"),
    }
    drop(slot);
}

async fn socket(
    upgraded: Upgraded,
    message_bytes_max: usize,
) -> WebSocketStream<TokioIo<Upgraded>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}
