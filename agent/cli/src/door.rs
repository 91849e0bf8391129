//! A door as any client comes to it: an address that is parsed, a connection, and [`session`]s of
//! calls over WebSocket.

pub(crate) mod session;

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest as _,
        http::{HeaderValue, StatusCode, Uri, header},
        protocol::WebSocketConfig,
    },
};

use self::session::{Call, Session, lost};
use crate::manifests::one_line;

/// How long a door may take to be connected to, TLS and upgrade included.
pub(crate) const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Largest message of a door, as the protocol has it.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Why a call through a door came to nothing.
#[derive(Debug, Error)]
pub(crate) enum DoorError {
    #[error(
        "`{url}` is not an address of a door, such as wss://realm.example or http://127.0.0.1:8080"
    )]
    Url { url: String },
    #[error(
        "a key sent to {host} without TLS can be read on the way; use wss://, or say \
         --insecure-plaintext where the network encrypts by itself"
    )]
    Plaintext { host: String },
    #[error("the key holds characters that no key has")]
    Key,
    #[error("read the authorities in {path}")]
    Authorities { path: PathBuf, source: pem::Error },
    #[error("make ready for TLS")]
    Tls { source: rustls::Error },
    #[error("connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {} s", waited.as_secs())]
    TimedOut { address: String, waited: Duration },
    #[error("the door does not take the key: it is wrong, expired or revoked")]
    Unauthenticated,
    #[error("{address} is no door of Realm: it answered {status} where one opens a WebSocket")]
    NotADoor { address: String, status: StatusCode },
    #[error("the connection to the door was lost")]
    Lost { source: Box<tungstenite::Error> },
    #[error("the door closed the connection before the call was over: {why}")]
    Closed { why: String },
    #[error("ask the door over HTTP")]
    Http { source: reqwest::Error },
    #[error("{code}: {message}{}", retry(*.retry_after_ms))]
    Refused { code: String, message: String, retry_after_ms: Option<u64> },
}

fn retry(after_ms: Option<u64>) -> String {
    after_ms.map_or_else(String::new, |ms| format!("; try again in {} s", ms.div_ceil(1000)))
}

/// A door's address, and how to trust it.
#[derive(Debug)]
pub(crate) struct Door {
    host: String,
    port: u16,
    /// The path of the WebSocket.
    path: String,
    is_tls: bool,
    ca: Option<PathBuf>,
}

/// A socket, with TLS or without.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: String,
    message: String,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

impl Door {
    /// Reads an address. One beyond loopback must have TLS, unless a person says otherwise.
    pub(crate) fn parse(
        url: &str,
        ca: Option<PathBuf>,
        insecure_plaintext: bool,
    ) -> Result<Self, DoorError> {
        let wrong = || DoorError::Url { url: one_line(url) };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("wss" | "https") => true,
            Some("ws" | "http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_loopback =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_tls && !is_loopback && !insecure_plaintext {
            return Err(DoorError::Plaintext { host });
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        // What a server prints for its doors is taken too.
        let path = uri.path().trim_end_matches('/').trim_end_matches("/ws").trim_end_matches("/v1");
        Ok(Self { host, port, path: format!("{path}/v1/ws"), is_tls, ca })
    }

    /// Calls a function and gives its result; `begun` hears the step of every piece on the way.
    pub(crate) async fn call(
        &self,
        key: &str,
        function: &str,
        params: Value,
        mut begun: impl FnMut(&str),
    ) -> Result<Value, DoorError> {
        let call = Call { function, params: &params, resumable: false };
        let told = |piece: session::Piece| {
            if let Some(step) = &piece.step {
                begun(step);
            }
        };
        Ok(self.open(key).await?.call(&call, told).await?.data)
    }

    /// Connects as the tenant of `key`.
    pub(crate) async fn open(&self, key: &str) -> Result<Session, DoorError> {
        let opened = async {
            let socket = self.connect(Some(key)).await?;
            Session::greet(socket, self.address()).await
        };
        timeout(CONNECT_WAIT_MAX, opened).await.map_err(|_| self.silent(CONNECT_WAIT_MAX))?
    }

    /// Connects as a stranger, and shows `key` in the first frame, as browsers do.
    pub(crate) async fn open_late(&self, key: &str) -> Result<Session, DoorError> {
        let opened = async {
            let socket = self.connect(None).await?;
            Session::introduce(socket, self.address(), key).await
        };
        timeout(CONNECT_WAIT_MAX, opened).await.map_err(|_| self.silent(CONNECT_WAIT_MAX))?
    }

    /// The address of the HTTP door beside the WebSocket.
    pub(crate) fn http(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        let path = self.path.trim_end_matches("/ws");
        format!("{scheme}://{}{path}", self.address())
    }

    /// Whom this door's certificate is believed from.
    pub(crate) fn tls(&self) -> Result<ClientConfig, DoorError> {
        tls(self.ca.as_deref())
    }

    fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub(crate) fn silent(&self, waited: Duration) -> DoorError {
        DoorError::TimedOut { address: self.address(), waited }
    }

    async fn connect(
        &self,
        key: Option<&str>,
    ) -> Result<WebSocketStream<Box<dyn Socket>>, DoorError> {
        let address = self.address();
        let connect = |source| DoorError::Connect { address: address.clone(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(connect)?;
        let stream: Box<dyn Socket> = if self.is_tls {
            let name = ServerName::try_from(self.host.clone())
                .map_err(|_| DoorError::Url { url: self.host.clone() })?;
            let connector = TlsConnector::from(Arc::new(tls(self.ca.as_deref())?));
            Box::new(connector.connect(name, stream).await.map_err(connect)?)
        } else {
            Box::new(stream)
        };
        let scheme = if self.is_tls { "wss" } else { "ws" };
        let mut request = format!("{scheme}://{address}{}", self.path)
            .into_client_request()
            .map_err(|_| DoorError::Url { url: address.clone() })?;
        let headers = request.headers_mut();
        if let Some(key) = key {
            headers.insert(header::AUTHORIZATION, bearer(key)?);
        }
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("realm.v1"));
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(refused(address, &answer)),
            Err(error) => Err(lost(error)),
        }
    }
}

/// What a request with `key` carries.
pub(crate) fn bearer(key: &str) -> Result<HeaderValue, DoorError> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| DoorError::Key)?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// Trusts the system's authorities and those of `ca`.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, DoorError> {
    let extra: Vec<CertificateDer<'static>> = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|source| DoorError::Authorities { path: path.to_owned(), source })?,
        None => Vec::new(),
    };
    let provider = Arc::new(ring::default_provider());
    let wrong = |source| DoorError::Tls { source };
    let verifier = Verifier::new_with_extra_roots(extra, provider.clone()).map_err(wrong)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let verified = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(verified.with_no_client_auth())
}

/// What a door answered in place of a WebSocket.
fn refused(address: String, answer: &tungstenite::http::Response<Option<Vec<u8>>>) -> DoorError {
    #[derive(Deserialize)]
    struct Body {
        error: Refusal,
    }
    let body = answer.body().as_deref().and_then(|body| serde_json::from_slice::<Body>(body).ok());
    match (answer.status(), body) {
        (StatusCode::UNAUTHORIZED, _) => DoorError::Unauthenticated,
        (_, Some(Body { error })) => error.into_error(),
        (status, None) => DoorError::NotADoor { address, status },
    }
}

impl Refusal {
    fn into_error(self) -> DoorError {
        let Self { code, message, retry_after_ms } = self;
        DoorError::Refused { code: one_line(&code), message: one_line(&message), retry_after_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Option<(String, String, bool)> {
        let door = Door::parse(url, None, false).ok()?;
        Some((door.address(), door.path.clone(), door.is_tls))
    }

    #[test]
    fn what_a_server_prints_is_an_address() {
        let door = |address: &str, is_tls| Some((address.to_owned(), "/v1/ws".to_owned(), is_tls));
        for url in ["ws://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/ws", "http://127.0.0.1:8080/v1/"]
        {
            assert_eq!(check(url), door("127.0.0.1:8080", false), "{url}");
        }
        assert_eq!(check("wss://realm.example"), door("realm.example:443", true));
        assert_eq!(check("http://[::1]:80"), door("[::1]:80", false));
        let below = check("https://host/realm").unwrap();
        assert_eq!(below.1, "/realm/v1/ws");
        for wrong in ["", "host", "ftp://host", "ws://"] {
            assert_eq!(check(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_crosses_a_network_in_the_clear_only_where_a_person_says_so() {
        let refused = Door::parse("ws://realm.example", None, false).unwrap_err();
        assert!(matches!(refused, DoorError::Plaintext { .. }), "{refused}");
        assert!(Door::parse("ws://realm.example", None, true).is_ok());
        assert!(Door::parse("ws://localhost:8080", None, false).is_ok());
    }

    #[test]
    fn the_http_door_lies_beside_the_websocket() {
        let http = |url| Door::parse(url, None, false).unwrap().http();
        assert_eq!(http("ws://127.0.0.1:8080/v1/ws"), "http://127.0.0.1:8080/v1");
        assert_eq!(http("https://host/realm"), "https://host:443/realm/v1");
    }
}
