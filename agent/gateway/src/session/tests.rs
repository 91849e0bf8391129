//! What a session does when nothing comes, in paused time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use realm_core::{
    auth::Caller,
    desired::{ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, ProgramLimits},
    limit::{Admitted, Limiter},
    name::{ModelName, TenantName},
    reply::{self, Reply, ReplyEvent},
    tenants::{Functions, ModelInfo, Tenants},
    trace::Tracer,
};
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::{
    config::{GatewayConfig, check},
    door::Ports,
    metrics::Metrics,
};

/// A tenant whose replies break off at once.
struct Mute;

impl Tenants for Mute {
    fn start(&self, _: Admitted) -> Reply {
        reply::channel().1
    }

    fn functions(&self, _: &Caller) -> Functions {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn models(&self, _: &Caller) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn hosts(&self, _: &TenantName, _: &ModelName) -> bool {
        false
    }

    fn lacks(&self, _: &TenantName) -> Option<Refusal> {
        None
    }

    fn in_hand(&self) -> u32 {
        0
    }
}

fn tenant() -> DesiredTenant {
    let sha256 = Credential::of("rk_right").digest();
    let program = ProgramLimits {
        memory_bytes_max: 1,
        fuel_max: 1,
        host_calls_max: 1,
        output_bytes_max: 1,
        deadline_ms: 1,
        token_fuel_max: 1_000_000,
        token_deadline_ms: 1_000,
        instances_max: 64,
        memory64: false,
    };
    DesiredTenant {
        name: TenantName::parse("default/acme").unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1,
            input_tokens_per_minute: 1,
            output_tokens_per_minute: 1,
            calls_max: 1,
            context_max: 1,
            output_tokens_max: 1,
            kv_blocks_max: 1,
            program,
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey { name: "main".into(), sha256, expires_at: None, disabled: false }],
        program: Some(HostedProgram::built_in()),
    }
}

fn door() -> Arc<Door> {
    let config = GatewayConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let ports = Ports {
        tenants: Arc::new(Mute),
        roster: watch::Sender::new(Arc::new(Roster::new([Arc::new(tenant())]))).subscribe(),
        limiter: Limiter::default(),
        ready: watch::channel(true).1,
        metrics: Metrics::new(),
        tracer: Tracer::OFF,
    };
    Arc::new(Door::new(ports, &config, check(&config).unwrap()))
}

/// Counts what is logged as an error on this thread.
#[derive(Clone, Default)]
struct Errors(Arc<AtomicUsize>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_reply_that_breaks_off_leaves_its_cause_in_the_log() {
    let errors = Errors::default();
    let _logging = tracing::subscriber::set_default(errors.clone());
    let id = CallId("1".into());
    let call = Call::new(id, "f", serde_json::Value::Null);
    let mut running =
        door().start(Credential::of("rk_right"), call, &Arrival::by_socket(None)).unwrap();
    let ReplyEvent::Failed(refusal) = running.next().await else { panic!() };
    assert_eq!(refusal, Refusal::Internal);
    assert_eq!(errors.0.load(Ordering::Relaxed), 1);
}

type Client = WebSocketStream<DuplexStream>;

/// A session over a pipe, and its client.
async fn start(door: Arc<Door>, entrance: Entrance) -> (Client, JoinHandle<()>) {
    let (near, far) = duplex(1 << 10);
    let socket = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
    let session = tokio::spawn(run(door, socket, entrance, None, || ()));
    (WebSocketStream::from_raw_socket(far, Role::Client, None).await, session)
}

async fn start_known() -> (Client, JoinHandle<()>) {
    let door = door();
    let entrance = known(&door);
    start(door, entrance).await
}

fn known(door: &Door) -> Entrance {
    let credential = Credential::of("rk_right");
    let caller = door.verify(credential).unwrap();
    Entrance::Known(credential, door.take_socket(&caller).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_is_kept() {
    let started = Instant::now();
    let (mut client, session) = start_known().await;
    assert!(client.next().await.unwrap().unwrap().is_text());
    for ping in 1..=30 {
        assert!(client.next().await.unwrap().unwrap().is_ping());
        assert_eq!(started.elapsed().as_secs(), 20 * ping);
    }
    assert!(!session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_given_up_after_a_minute() {
    let started = Instant::now();
    let (client, session) = start_known().await;
    session.await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_mins(1) + CLOSE_WAIT);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_ten_seconds_and_then_its_place_is_free() {
    let started = Instant::now();
    let door = door();
    let place = door.strangers.clone().try_acquire_owned().unwrap();
    let places = door.strangers.available_permits();
    let (mut client, _session) = start(door.clone(), Entrance::Stranger(place)).await;
    assert!(client.next().await.unwrap().unwrap().is_text());
    let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(u16::from(frame.code), close::AUTH_TOO_LATE);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(door.strangers.available_permits(), places + 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_and_takes_no_answer_is_given_up() {
    let started = Instant::now();
    let (mut client, session) = start_known().await;
    // Each of these is answered, and nobody reads the answers.
    while client.send(Message::text("nonsense")).await.is_ok() {}
    session.await.unwrap();
    let stall_max = crate::config::Limits::default().stall_max;
    assert!(started.elapsed() >= stall_max, "{:?}", started.elapsed());
    assert!(started.elapsed() <= stall_max + 3 * CLOSE_WAIT, "{:?}", started.elapsed());
}
