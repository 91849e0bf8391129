//! TLS from files.

use std::{fs, path::Path, sync::Arc, time::Duration};

use realm_gateway::{BindError, Gateway, GatewayConfig, Metrics, Ports, TlsFiles};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;

use crate::{
    program::{self, Script},
    server::{KEY, Server, parse, request, soon},
};

/// Writes a new certificate and key, and returns the certificate.
fn write_pair(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

/// A client that trusts `root` alone.
fn connector(root: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    server: &Server,
    root: &CertificateDer<'static>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    soon(connector(root).connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

fn files(folder: &Path) -> TlsFiles {
    let mut files = TlsFiles::new(folder.join("cert.pem"), folder.join("key.pem"));
    files.look_every = Duration::from_millis(5);
    files
}

#[tokio::test]
async fn requests_come_through_tls_and_a_new_certificate_is_taken_while_old_connections_live() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_pair(folder.path());
    let server = Server::start(|config| config.tls = Some(files(folder.path()))).await;
    let mut old = connect(&server, &first).await.unwrap();

    let second = write_pair(folder.path());
    soon(async { while connect(&server, &second).await.is_err() {} }).await;
    connect(&server, &first).await.unwrap_err();

    let authorization = format!("Bearer {KEY}");
    let request = request("GET", "/v1/models", &[("authorization", &authorization)], "");
    old.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    soon(old.read_to_end(&mut bytes)).await.unwrap();
    let answer = parse(&String::from_utf8(bytes).unwrap());
    assert_eq!((answer.status, &answer.json()["data"][0]["id"]), (200, &"m".into()));
}

#[tokio::test]
async fn a_plain_request_to_a_tls_door_and_a_handshake_that_stops_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path());
    let server = Server::start(|config| {
        config.tls = Some(files(folder.path()));
        config.limits.head_wait = Duration::from_millis(50);
    })
    .await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        drop(soon(stream.read_to_end(&mut answer)).await);
        assert!(!answer.starts_with(b"HTTP"));
    }
}

async fn bind(config: GatewayConfig) -> Result<Gateway, BindError> {
    let ports = Ports {
        tenants: Script::new().0,
        roster: watch::Sender::new(program::roster([])).subscribe(),
        limiter: realm_core::limit::Limiter::default(),
        ready: watch::channel(true).1,
        metrics: Metrics::new(),
        tracer: realm_core::trace::Tracer::OFF,
    };
    Gateway::bind(config, ports).await
}

#[tokio::test]
async fn a_plain_door_beyond_loopback_and_a_missing_certificate_are_not_bound() {
    let plain = GatewayConfig::new("0.0.0.0:0".parse().unwrap());
    assert!(matches!(bind(plain.clone()).await.unwrap_err(), BindError::Config(_)));
    bind(GatewayConfig { insecure_plaintext: true, ..plain.clone() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tls = Some(files(folder.path()));
    let error = bind(GatewayConfig { tls, ..plain }).await.unwrap_err();
    assert!(matches!(error, BindError::Tls(_)), "{error}");
}
