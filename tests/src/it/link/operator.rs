//! An operator that speaks the protocol and keeps none of its rules.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use realm_core::{
    config_maps::{ConfigMapError, ConfigMapErrorKind, WantedEntry},
    desired::Sha256,
};
use realm_link::client::LinkOptions;
use realm_operator::link::authority::{Authority, Serving};
use realm_proto::link::{
    CONFIG_MAP_BYTES_MAX,
    v1::{
        self as proto,
        link_server::{Link, LinkServer},
        operator_message::Message,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming, body::Body, codegen::Service as _};

use super::world::{Agent, soon};

/// Says these to every agent, then nothing, and sends these pieces of every ConfigMap.
struct Script(Vec<proto::OperatorMessage>, Vec<proto::ConfigMapPiece>);

#[tonic::async_trait]
impl Link for Script {
    type ConnectStream = BoxStream<'static, Result<proto::OperatorMessage, Status>>;
    type ReadConfigMapStream = BoxStream<'static, Result<proto::ConfigMapPiece, Status>>;

    async fn connect(
        &self,
        _: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let said = stream::iter(self.0.clone()).map(Ok);
        Ok(Response::new(said.chain(stream::pending()).boxed()))
    }

    async fn enroll(
        &self,
        _: Request<proto::EnrollRequest>,
    ) -> Result<Response<proto::EnrollResponse>, Status> {
        Ok(Response::new(proto::EnrollResponse::default()))
    }

    async fn read_config_map(
        &self,
        _: Request<proto::ConfigMapRequest>,
    ) -> Result<Response<Self::ReadConfigMapStream>, Status> {
        Ok(Response::new(stream::iter(self.1.clone()).map(Ok).boxed()))
    }
}

/// What an agent needs to reach somebody who answers its requests as he likes.
pub(super) async fn door<A, F>(answer: A) -> (LinkOptions, TempDir)
where
    A: Fn(hyper::Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<hyper::Response<Body>, Infallible>> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::create(SystemTime::now()).unwrap());
    std::fs::write(dir.path().join("ca.crt"), authority.bundle()).unwrap();
    std::fs::write(dir.path().join("token"), "token").unwrap();
    let serving =
        Serving::start(watch::Sender::new(authority).subscribe(), vec!["127.0.0.1".to_owned()]);
    let tls = TlsAcceptor::from(serving.unwrap().current().borrow().clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = LinkOptions {
        operators: vec![format!("https://{}", listener.local_addr().unwrap()).parse().unwrap()],
        ca_file: dir.path().join("ca.crt"),
        token_file: dir.path().join("token"),
        node: "worker-1".to_owned(),
        agent_version: "1.0.0".to_owned(),
        boot_id: "first".to_owned(),
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, answer) = (tls.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let http = http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    (options, dir)
}

/// What an agent makes of an operator that says `messages`.
async fn check(messages: Vec<Option<Message>>, reason: &str, expected: &str) {
    let messages = messages.into_iter().map(|message| proto::OperatorMessage { message });
    let script = LinkServer::new(Script(messages.collect(), Vec::new()));
    let (options, _dir) = door(move |request| script.clone().call(request)).await;
    let error = soon("an answer", realm_link::client::enroll(&options, b"csr")).await.unwrap_err();
    assert_eq!(error.reason(), "Protocol", "nothing is no certificate");
    let agent = Agent::start(options, tempfile::tempdir().unwrap()).await;
    let message = agent.until_refused(reason).await;
    assert!(message.contains(expected), "{message} does not say `{expected}`");
    assert_eq!(agent.ledger.newest().generation, 0);
}

const fn welcome(heartbeat_ms: u64) -> Message {
    Message::Welcome(proto::Welcome { heartbeat_ms, link_oldest: 1, link_newest: 2 })
}

#[tokio::test]
async fn an_operator_that_does_not_begin_with_a_good_welcome_is_left() {
    let desired = proto::Desired { generation: 1, ..proto::Desired::default() };
    check(
        vec![Some(Message::Desired(desired.encode_to_vec().into()))],
        "Protocol",
        "not a welcome",
    )
    .await;
    check(vec![Some(welcome(0))], "Protocol", "`welcome.heartbeat_ms` is missing").await;
    check(vec![Some(welcome(u64::MAX))], "Protocol", "is the longest").await;
    check(vec![Some(welcome(5000)), Some(welcome(5000))], "Protocol", "says it twice").await;
}

#[tokio::test]
async fn an_operator_whose_message_makes_no_sense_is_left() {
    let credential = proto::Credential { model: "tiny".to_owned(), secret: vec![1] };
    let credentials = proto::Credentials { models: vec![credential] };
    let said = vec![Some(welcome(5000)), Some(Message::Credentials(credentials))];
    check(said, "Protocol", "`credentials.model` holds no name").await;
}

#[tokio::test]
async fn an_operator_that_falls_silent_is_left() {
    check(vec![Some(welcome(20))], "Silent", "3 heartbeats").await;
}

/// What an agent makes of an entry that comes in these pieces, each with what it says is left.
async fn read(pieces: &[(usize, u32)]) -> Result<usize, ConfigMapError> {
    let piece = |(bytes, bytes_left): &(usize, u32)| proto::ConfigMapPiece {
        content: vec![7; *bytes],
        bytes_left: *bytes_left,
    };
    let welcome = proto::OperatorMessage { message: Some(welcome(5000)) };
    let script = LinkServer::new(Script(vec![welcome], pieces.iter().map(piece).collect()));
    let (options, _dir) = door(move |request| script.clone().call(request)).await;
    let agent = Agent::start(options, tempfile::tempdir().unwrap()).await;
    agent.until_state(|state| state.connected.is_some()).await;
    let (namespace, source) = ("acme".to_owned(), "configmap://programs/a.wasm".to_owned());
    let wanted = WantedEntry { namespace, source, sha256: Sha256([7; 32]) };
    soon("an answer", agent.config_maps.read(wanted)).await.map(|bytes| bytes.len())
}

#[tokio::test]
async fn an_entry_that_breaks_off_or_does_not_end_is_none() {
    assert_eq!(read(&[(10, 5), (5, 0)]).await, Ok(15));
    let broken = read(&[(10, 5)]).await.unwrap_err();
    assert_eq!(broken.kind, ConfigMapErrorKind::Unreachable, "{broken}");
    assert!(broken.message.contains("broke off"), "{broken}");
    let endless = read(&[(CONFIG_MAP_BYTES_MAX / 2, 1); 4]).await.unwrap_err();
    assert_eq!(endless.kind, ConfigMapErrorKind::TooLarge, "{endless}");
}
