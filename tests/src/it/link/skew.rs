//! Operators and agents of different releases.
//!
//! What the release before says is written down here by hand, and so is what one says that is yet
//! to come.

use std::{convert::Infallible, time::Duration};

use futures_util::{StreamExt as _, stream};
use hyper::body::Incoming;
use prost::Message as _;
use realm_core::{
    config_maps::{ConfigMapErrorKind, WantedEntry},
    desired::Sha256,
    report::Report,
};
use realm_proto::link::v1 as proto;
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, client, codegen::http, server,
};
use tonic_prost::ProstCodec;

use super::{
    operator::door,
    raw::channel,
    world::{Agent, World, nothing, soon, token},
};

/// What an agent of the first version says, and one that is yet to come.
#[derive(Clone, PartialEq, prost::Message)]
struct AgentSays {
    #[prost(message, optional, tag = "1")]
    hello: Option<proto::Hello>,
    #[prost(message, optional, tag = "2")]
    report: Option<proto::Report>,
    #[prost(message, optional, tag = "3")]
    supply: Option<proto::Supply>,
    #[prost(message, optional, tag = "4")]
    refused: Option<proto::Refused>,
    /// Known to nobody now.
    #[prost(message, optional, tag = "99")]
    later: Option<proto::Failure>,
}

/// What an operator of the first version says, and one that is yet to come.
#[derive(Clone, PartialEq, prost::Message)]
struct OperatorSays {
    #[prost(message, optional, tag = "1")]
    welcome: Option<proto::Welcome>,
    #[prost(message, optional, tag = "2")]
    credentials: Option<proto::Credentials>,
    #[prost(bytes = "vec", optional, tag = "3")]
    desired: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    heartbeat: Option<proto::Heartbeat>,
    /// Known to nobody now.
    #[prost(message, optional, tag = "99")]
    later: Option<proto::Failure>,
}

/// A text of a kind of message that nobody knows.
fn later() -> proto::Failure {
    proto::Failure { reason: "YetToCome".to_owned(), message: "with a text".to_owned() }
}

fn hello(link_oldest: u32, link_newest: u32) -> AgentSays {
    let hello = proto::Hello {
        node: "worker-1".to_owned(),
        agent_version: "0".to_owned(),
        boot_id: "first".to_owned(),
        generation: 0,
        supply: Some(proto::Supply::default()),
        link_oldest,
        link_newest,
    };
    AgentSays { hello: Some(hello), ..AgentSays::default() }
}

/// An agent that says these, and then nothing.
async fn agent(world: &World, says: Vec<AgentSays>) -> Result<Streaming<OperatorSays>, Status> {
    let mut request = Request::new(stream::iter(says).chain(stream::pending()));
    let bearer = format!("Bearer {}", token("worker-1")).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let mut link = client::Grpc::new(channel(world).await);
    link.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/realm.link.v1.Link/Connect");
    let opened = link.streaming(request, path, ProstCodec::default());
    Ok(soon("an answer", opened).await?.into_inner())
}

async fn next_state(hear: &mut Streaming<OperatorSays>) -> proto::Desired {
    let state = async {
        loop {
            let said = hear.message().await.unwrap().expect("the stream goes on");
            if let Some(bytes) = said.desired {
                return proto::Desired::decode(bytes.as_slice()).unwrap();
            }
        }
    };
    soon("a state", state).await
}

#[tokio::test]
async fn an_agents_message_that_is_yet_to_come_is_passed_over_and_counted() {
    let world = World::start().await;
    let unknown = AgentSays { later: Some(later()), ..AgentSays::default() };
    let report = proto::Report { generation: 7, ..proto::Report::default() };
    let known = AgentSays { report: Some(report), ..AgentSays::default() };
    let _hear = agent(&world, vec![hello(1, 9), unknown, known]).await.unwrap();
    let view = world.until("worker-1", |view| view.report.is_some()).await;
    assert_eq!((view.is_connected, view.report.unwrap().generation), (true, 7));
    assert_eq!(world.registry.unknown(), 1);
}

#[tokio::test]
async fn an_agent_of_the_first_version_gets_each_state_without_an_answer_to_the_last() {
    // It would be given up after three of these, before a state goes out that waits for an answer.
    let world = World::with_heartbeat(Duration::from_secs(1)).await;
    world.order("worker-1", &nothing(1));
    let mut hear = agent(&world, vec![hello(0, 0)]).await.unwrap();
    assert_eq!(next_state(&mut hear).await.generation, 1);
    world.order("worker-1", &nothing(2));
    assert_eq!(next_state(&mut hear).await.generation, 2);
}

#[tokio::test]
async fn an_agent_that_speaks_no_version_of_the_operators_is_refused_with_both() {
    let world = World::start().await;
    let refused = agent(&world, vec![hello(8, 9)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let said = refused.message();
    assert!(said.contains("version 8 to 9 and this operator 1 to 4"), "{said}");
    let view = world.until("worker-1", |view| view.unspoken.is_some()).await;
    assert!(!view.is_connected && view.agent.is_none());
    // One of another release that does is taken in.
    let _hear = agent(&world, vec![hello(2, 9)]).await.unwrap();
    world.until("worker-1", |view| view.is_connected && view.unspoken.is_none()).await;
}

fn welcome(heartbeat_ms: u64, link_oldest: u32, link_newest: u32) -> OperatorSays {
    let welcome = proto::Welcome { heartbeat_ms, link_oldest, link_newest };
    OperatorSays { welcome: Some(welcome), ..OperatorSays::default() }
}

fn state(generation: u64) -> OperatorSays {
    let state = proto::Desired { generation, doors: 1, ..proto::Desired::default() };
    OperatorSays { desired: Some(state.encode_to_vec()), ..OperatorSays::default() }
}

/// An agent of an operator that says these, and all that the operator hears of it.
async fn operator(
    says: Result<Vec<OperatorSays>, Status>,
) -> (Agent, mpsc::Receiver<AgentSays>, tempfile::TempDir) {
    operator_of(says, tempfile::tempdir().unwrap()).await
}

/// The same for an agent that has something on its disk.
async fn operator_of(
    says: Result<Vec<OperatorSays>, Status>,
    disk: tempfile::TempDir,
) -> (Agent, mpsc::Receiver<AgentSays>, tempfile::TempDir) {
    let (tell, heard) = mpsc::channel(64);
    let connect = move |request: Request<Streaming<AgentSays>>| {
        let (says, tell) = (says.clone(), tell.clone());
        async move {
            let mut inbound = request.into_inner();
            tokio::spawn(async move {
                while let Some(Ok(said)) = inbound.next().await {
                    // Nobody listens any more when the test has seen what it wanted to.
                    let _ = tell.send(said).await;
                }
            });
            let said = stream::iter(says?.into_iter().map(Ok));
            Ok(Response::new(said.chain(stream::pending::<Result<OperatorSays, Status>>())))
        }
    };
    let answer = move |request: http::Request<Incoming>| {
        let service = tower::service_fn(connect.clone());
        async move {
            if request.uri().path() != "/realm.link.v1.Link/Connect" {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = ProstCodec::<OperatorSays, AgentSays>::default();
            let answered = server::Grpc::new(codec).streaming(service, request).await;
            Ok::<http::Response<Body>, Infallible>(answered)
        }
    };
    let (options, dir) = door(answer).await;
    (Agent::start(options, disk).await, heard, dir)
}

#[tokio::test]
async fn an_operators_message_that_is_yet_to_come_is_passed_over_and_counted() {
    let unknown = OperatorSays { later: Some(later()), ..OperatorSays::default() };
    let (agent, _heard, _dir) = operator(Ok(vec![welcome(5000, 1, 9), unknown, state(1)])).await;
    agent.until_held(1).await;
    let state = agent.until_state(|state| state.generation == 1).await;
    assert_eq!((state.connected.is_some(), state.unknown), (true, 1));
}

#[tokio::test]
async fn an_operator_of_a_release_that_reads_no_config_maps_is_told_from_one_that_is_away() {
    let (agent, _heard, _dir) = operator(Ok(vec![welcome(5000, 1, 4), state(1)])).await;
    agent.until_held(1).await;
    let (namespace, source) = ("acme".to_owned(), "configmap://programs/a.wasm".to_owned());
    let wanted = WantedEntry { namespace, source, sha256: Sha256([7; 32]) };
    let error = agent.config_maps.read(wanted).await.unwrap_err();
    assert_eq!(error.kind, ConfigMapErrorKind::NotAllowed, "{error}");
    assert!(error.message.contains("of a release that reads no ConfigMaps"), "{error}");
}

#[tokio::test]
async fn an_operator_of_the_first_version_hears_nothing_that_it_does_not_know() {
    let says = vec![welcome(20_000, 0, 0), state(1), state(2)];
    let (agent, mut heard, _dir) = operator(Ok(says)).await;
    agent.until_held(2).await;
    // Said when the states have been taken in, and so behind what would have answered them.
    agent.report.send_replace(Report { generation: 2, ..Report::default() });
    let until_reported = async {
        let mut all = Vec::new();
        loop {
            let said = heard.recv().await.expect("the agent goes on");
            let is_last = said.report.as_ref().is_some_and(|report| report.generation == 2);
            all.push(said);
            if is_last {
                return all;
            }
        }
    };
    let all = soon("a report", until_reported).await;
    assert!(!all.contains(&AgentSays::default()), "{all:?}");
}

#[tokio::test]
async fn an_operator_that_speaks_no_version_of_the_agents_is_left_with_both() {
    let (agent, _heard, _dir) = operator(Ok(vec![welcome(5000, 8, 9)])).await;
    let message = agent.until_refused("Version").await;
    assert!(message.contains("version 8 to 9 and this agent 1 to 4"), "{message}");
    assert_eq!(agent.ledger.newest().generation, 0);
}

#[tokio::test]
async fn an_agent_that_is_refused_for_its_version_says_so() {
    let refused = Status::failed_precondition("version 3 and this operator 8 to 9");
    let (agent, _heard, _dir) = operator(Err(refused)).await;
    let message = agent.until_refused("Version").await;
    assert!(message.contains("version 3 and this operator 8 to 9"), "{message}");
}

#[tokio::test]
async fn an_agent_of_before_slices_is_leased_none() {
    let world = World::start().await;
    let leased = realm_plan::shares::Slices { epoch: 7, share: 1, ..Default::default() };
    world.registry.set_slices("worker-1", leased.into()).unwrap();
    world.order("worker-1", &nothing(1));
    let mut hear = agent(&world, vec![hello(1, 3)]).await.unwrap();
    let until_told = async {
        loop {
            let said = hear.message().await.unwrap().expect("the stream goes on");
            // What it would pass over reads as nothing.
            assert_ne!(said, OperatorSays::default());
            if said.desired.is_some() {
                return;
            }
        }
    };
    soon("a state", until_told).await;
    assert!(!world.registry.snapshot()["worker-1"].is_sliced);
}

#[tokio::test]
async fn an_agent_whose_operator_leases_no_slices_lets_go_of_those_that_it_has() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let leased = realm_plan::shares::Slices { epoch: 7, share: 1, ..Default::default() };
    world.registry.set_slices("worker-1", leased.into()).unwrap();
    agent.until_state(|state| state.epoch == 7).await;
    let dir = agent.stop().await;
    let (agent, mut heard, _dir) =
        operator_of(Ok(vec![welcome(20_000, 1, 3), state(1)]), dir).await;
    agent.until_held(1).await;
    assert!(agent.slices.held().is_none());
    agent.spends.send_replace(realm_core::slices::Spends { epoch: 9, ..Default::default() });
    agent.report.send_replace(Report { generation: 1, ..Report::default() });
    let until_reported = async {
        let mut others = 0;
        loop {
            let said = heard.recv().await.expect("the agent goes on");
            others += u32::from(said == AgentSays::default());
            if said.report.as_ref().is_some_and(|report| report.generation == 1) {
                return others;
            }
        }
    };
    // That it has taken the state is said to this version, and nothing of slices.
    assert_eq!(soon("a report", until_reported).await, 1);
}
