//! An agent that speaks the protocol and keeps none of its rules.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use realm_proto::link::{
    AGENT_MESSAGE_BYTES_MAX,
    v1::{self as proto, agent_message::Message, link_client::LinkClient},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::world::{World, nothing, soon, token};

/// A way to the operator, without anything that would keep to rules.
pub(super) async fn channel(world: &World) -> Channel {
    let mut roots = rustls::RootCertStore::empty();
    let bundle = world.authority.borrow().bundle();
    for ca in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let address = world.address;
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tls.connect("localhost".try_into().unwrap(), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

fn hello(node: &str) -> Message {
    Message::Hello(proto::Hello {
        node: node.to_owned(),
        agent_version: "0".to_owned(),
        boot_id: "first".to_owned(),
        generation: 0,
        supply: Some(proto::Supply::default()),
        link_oldest: 1,
        link_newest: 2,
    })
}

/// A stream whose agent says what it likes.
struct Raw {
    say: mpsc::Sender<proto::AgentMessage>,
    hear: Streaming<proto::OperatorMessage>,
}

impl Raw {
    async fn connect(world: &World, token: &str, first: Message) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(4);
        say.send(proto::AgentMessage { message: Some(first) }).await.unwrap();
        let messages =
            stream::unfold(said, |mut said| async move { Some((said.recv().await?, said)) });
        let mut request = Request::new(messages);
        if !token.is_empty() {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = LinkClient::new(channel(world).await);
        let hear = soon("an answer", client.connect(request)).await?.into_inner();
        Ok(Self { say, hear })
    }

    async fn say(&self, message: Option<Message>) {
        self.say.send(proto::AgentMessage { message }).await.unwrap();
    }

    /// How the stream ends, whatever is said before that.
    async fn end(&mut self) -> Status {
        let end = async {
            loop {
                match self.hear.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return status,
                    None => panic!("the stream ended well"),
                }
            }
        };
        soon("the end of the stream", end).await
    }
}

async fn refusal(world: &World, token: &str, first: Message) -> Status {
    Raw::connect(world, token, first).await.err().expect("the door does not open")
}

#[tokio::test]
async fn nobody_comes_in_without_a_token() {
    let world = World::start().await;
    assert_eq!(refusal(&world, "", hello("worker-1")).await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_begins_with_a_hello_and_has_only_one() {
    let world = World::start().await;
    let first = Message::Supply(proto::Supply::default());
    let status = refusal(&world, &token("worker-1"), first).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    let mut raw = Raw::connect(&world, &token("worker-1"), hello("worker-1")).await.unwrap();
    raw.say(Some(hello("worker-1"))).await;
    let status = raw.end().await;
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "a second hello"));
    assert!(!world.until("worker-1", |view| !view.is_connected).await.is_connected);
}

#[tokio::test]
async fn a_message_that_makes_no_sense_ends_the_stream() {
    let world = World::start().await;
    let mut raw = Raw::connect(&world, &token("worker-1"), hello("worker-1")).await.unwrap();
    let model = proto::ModelReport { name: "tiny".to_owned(), ..proto::ModelReport::default() };
    let report = proto::Report { models: vec![model], ..proto::Report::default() };
    raw.say(Some(Message::Report(report))).await;
    let status = raw.end().await;
    assert!(status.message().contains("`report.models.phase` is missing"), "{status}");
}

#[tokio::test]
async fn a_message_larger_than_any_agent_needs_ends_the_stream() {
    let world = World::start().await;
    let mut raw = Raw::connect(&world, &token("worker-1"), hello("worker-1")).await.unwrap();
    let message = "m".repeat(AGENT_MESSAGE_BYTES_MAX);
    let refused = proto::Refused { generation: 1, reason: "Large".to_owned(), message };
    assert!(refused.encoded_len() > AGENT_MESSAGE_BYTES_MAX);
    raw.say(Some(Message::Refused(refused))).await;
    assert_eq!(raw.end().await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_given_up() {
    let world = World::with_heartbeat(Duration::from_millis(20)).await;
    let mut raw = Raw::connect(&world, &token("worker-1"), hello("worker-1")).await.unwrap();
    let status = raw.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    world.until("worker-1", |view| !view.is_connected).await;
}

#[tokio::test]
async fn an_agent_that_reads_nothing_holds_up_nobody() {
    let world = World::with_heartbeat(Duration::from_millis(100)).await;
    let deaf = Raw::connect(&world, &token("worker-1"), hello("worker-1")).await.unwrap();
    for generation in 1..=100 {
        world.order("worker-1", &super::load::state(generation, 50));
        world.order("worker-2", &nothing(generation));
    }
    let agent = world.agent("worker-2").await;
    agent.until_held(100).await;
    // It is given up for its silence, although its stream cannot be told.
    world.until("worker-1", |view| !view.is_connected).await;
    drop(deaf);
}
