//! One agent of a cluster, from its start to its end.
//!
//! The ledger is applied before anybody has been reached, the link follows, and the door opens at
//! once: it is not ready before everything has been tried.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use realm_core::{
    config_maps, credentials,
    desired::Desired,
    report::Report,
    slices::Spends,
    supply::{Credentials, Supply},
    trace::Tracer,
};
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports, TlsFiles};
use realm_link::{
    client::{self, Feeds, LinkOptions, LinkState, OperatorAddress, Sources},
    converge,
    ledger::Ledger,
    peer::{self, Identity, PeerDoor, PeerPorts, Peers},
    readiness,
    slices::SliceStore,
};
use realm_store::{Site, StoreOptions};
use realm_traces::{Service, Traces};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Agent, AgentOptions,
    args::Args,
    metrics,
    relay::{self, Relay, Routes},
    slices,
    supply::{self, Presence},
};

/// How long an operator is waited for to hear what tenants have used by the end: one that listens
/// takes a tenth of a second, and whoever ends this agent waits as well.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, and until what runs once the settle time is over has ended, or its
/// grace is over.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut boot_id = [0; 16];
    getrandom::fill(&mut boot_id).context("draw an id for this start")?;
    let link = link_options(&args, hex::encode(boot_id))?;
    let agent = Arc::new(Agent::new(agent_options(&args))?);
    let (ledger, leased) = open_ledger(&args).await?;
    slices::begin(&agent.limiter(), &leased, &ledger.newest());
    let (report_sender, report) = watch::channel(Report::default());
    let (ready_sender, ready) = watch::channel(false);
    let traces = Traces::start(args.otlp_endpoint.as_deref(), &service(&args))?;
    let metrics = Metrics::new();
    agent.register_metrics(&metrics, &report).context("register the agent's metrics")?;
    let state = watch::Sender::new(LinkState::default());
    metrics::register_link(&state.subscribe(), &metrics).context("register the link's metrics")?;
    let (identity_sender, identity) = watch::channel(None);
    let peers = Peers::new(identity.clone());
    let (routes_sender, routes) = watch::channel(Arc::new(Routes::default()));
    let relay = Relay::new(agent.runtime(), peers.clone(), routes);
    relay.register_metrics(&metrics).context("register the relay's metrics")?;
    let ports = Ports {
        tenants: Arc::new(relay.clone()),
        roster: agent.roster(),
        limiter: agent.limiter(),
        ready,
        metrics,
        tracer: traces.tracer(),
    };
    let gateway = Gateway::bind(config(&args), ports).await?;
    let (peer_door, peer_addr) =
        bind_peer_door(&args, &agent, identity.clone(), traces.tracer()).await?;
    let presence = watch::Sender::new(Presence {
        door: Some(advertised(&args, gateway.addr()?)),
        ..Presence::default()
    });
    let (supply_sender, supply) = watch::channel(Supply::default());
    let sources = open_sources(&agent);
    // An agent that was never told anything is not ready: it does not know one key.
    let generation = ledger.newest().generation.max(1);
    let mut tasks = JoinSet::new();
    let wanted = ledger.subscribe();
    tasks.spawn(readiness::follow(generation, wanted, report.clone(), ready_sender));
    let (doors, tried) = (agent.clone(), report.clone());
    tasks.spawn(async move { doors.know_all_keys(generation, tried).await });
    tasks.spawn(converge::run(agent.clone(), ledger.subscribe(), report_sender));
    tasks.spawn(tell_states(ledger.subscribe()));
    let feed = supply::Feed { report: report.clone(), held: relay.held() };
    tasks.spawn(supply::follow(agent.clone(), presence.subscribe(), feed, supply_sender));
    tasks.spawn(relay::follow(args.node.clone(), ledger.subscribe(), peers, routes_sender));
    tasks.spawn(advertise(identity, peer_addr, presence.clone()));
    let linked = state.subscribe();
    tasks.spawn(keep_identity(link.clone(), args.state.clone(), identity_sender, linked));
    let (uses_sender, uses) = watch::channel(Vec::new());
    tasks.spawn(supply::follow_uses(agent.clone(), uses_sender.clone()));
    let (spends_sender, spends) = watch::channel(Spends::default());
    let (spending, wanted) = ((agent.limiter(), agent.engines.clone()), ledger.subscribe());
    tasks.spawn(slices::follow(spending, leased.clone(), wanted, spends_sender));
    let feeds = Feeds { report, supply, uses, spends };
    let ending = CancellationToken::new();
    let held = (ledger, leased);
    let told = tokio::spawn(client::run(link, held, feeds, sources, state, ending.clone()));
    let shutdown = CancellationToken::new();
    tasks.spawn(drain_on_signal(shutdown.clone(), presence)?);
    let (settle, grace) = (Duration::from_secs(args.settle), Duration::from_secs(args.grace));
    let peers = serve_peers(peer_door, settle, grace, shutdown.clone());
    tokio::join!(gateway.serve(shutdown), peers);
    uses_sender.send_replace(agent.uses());
    end_link(&ending, told).await;
    traces.end().await;
    Ok(())
}

/// What the link brings to the agent's sources.
fn open_sources(agent: &Agent) -> Sources {
    let (credentials, opened) = watch::channel(Credentials::default());
    let (config_maps, asks) = config_maps::channel();
    agent.open_sources(opened, config_maps);
    Sources { credentials, config_maps: asks }
}

/// Ends the link, whose last word is what tenants have used.
async fn end_link(ending: &CancellationToken, link: JoinHandle<()>) {
    ending.cancel();
    if timeout(LAST_WORDS_WAIT, link).await.is_err() {
        tracing::warn!("no operator has heard what tenants have used last");
    }
}

/// Who exports traces.
fn service(args: &Args) -> Service {
    let (name, version) = ("realm-agent", env!("CARGO_PKG_VERSION"));
    Service { name, version, node: Some(args.node.clone()) }
}

fn agent_options(args: &Args) -> AgentOptions {
    let store_dir = args.store.clone().unwrap_or_else(|| args.state.join("store"));
    AgentOptions {
        compiled_dir: store_dir.join("compiled"),
        // Beside the ledger, which is this node's alone; a store may be shared with others.
        compiled_key: args.state.join("compiled.key"),
        proven_dir: args.state.join("programs"),
        store_dir,
        store: StoreOptions { pvc_dir: args.claims.clone(), ..StoreOptions::new(Site::Cluster) },
        credentials: credentials::Credentials::default(),
        device: args.device,
    }
}

/// What this agent was last told to hold, and what it may spend.
async fn open_ledger(args: &Args) -> anyhow::Result<(Ledger, SliceStore)> {
    let folder = args.state.join("ledger");
    let (ledger, warnings) = Ledger::open(&folder).await.context("open the ledger")?;
    for warning in warnings {
        tracing::warn!(path = %warning.path.display(), cause = %warning.source, "ledger");
    }
    let (slices, damage) = spawn_blocking(move || SliceStore::open(&folder)).await?;
    if let Some(damage) = damage {
        let damage = &damage as &dyn std::error::Error;
        tracing::warn!(
            damage,
            "the slices of limits that this door had; it lets nobody in by them"
        );
    }
    Ok((ledger, slices))
}

/// A door for other agents, and where they reach it.
async fn bind_peer_door(
    args: &Args,
    agent: &Agent,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    tracer: Tracer,
) -> anyhow::Result<(PeerDoor, SocketAddr)> {
    let listener = TcpListener::bind(args.peer_listen).await;
    let listener =
        listener.with_context(|| format!("listen for other agents on {}", args.peer_listen))?;
    let address = advertised(args, listener.local_addr()?);
    let ports = PeerPorts { tenants: agent.runtime(), roster: agent.roster(), tracer };
    Ok((PeerDoor { listener, identity, ports }, address))
}

async fn keep_identity(
    link: LinkOptions,
    state: PathBuf,
    identity: watch::Sender<Option<Arc<Identity>>>,
    linked: watch::Receiver<LinkState>,
) {
    let never = peer::keep(link, state, identity, linked).await;
    match never {}
}

/// Serves other agents until this one drains and their calls have ended, or the grace is over. As
/// at the door for clients, new calls are taken until everybody may have heard of it.
async fn serve_peers(
    door: PeerDoor,
    settle: Duration,
    grace: Duration,
    shutdown: CancellationToken,
) {
    let (is_draining, draining) = watch::channel(false);
    let over = async {
        shutdown.cancelled().await;
        sleep(settle).await;
        is_draining.send_replace(true);
        sleep(grace).await;
    };
    tokio::select! {
        () = door.serve(draining) => {}
        () = over => tracing::warn!("the grace is over for calls of other agents"),
    }
}

/// Tells where other agents reach this one, once it can prove itself to them.
async fn advertise(
    mut identity: watch::Receiver<Option<Arc<Identity>>>,
    peer: SocketAddr,
    presence: watch::Sender<Presence>,
) {
    if identity.wait_for(Option::is_some).await.is_ok() {
        presence.send_modify(|presence| presence.peer = Some(peer));
    }
    // Kept, so that the operator goes on hearing of it.
    presence.closed().await;
}

/// Leaves a trace of every state that the ledger took.
async fn tell_states(mut desired: watch::Receiver<Arc<Desired>>) {
    while desired.changed().await.is_ok() {
        let Desired { generation, models, tenants, .. } = &**desired.borrow_and_update();
        let (models, tenants) = (models.len(), tenants.len());
        tracing::debug!(generation, models, tenants, "accepted");
    }
}

fn link_options(args: &Args, boot_id: String) -> anyhow::Result<LinkOptions> {
    let operators = args.operators.iter().map(|url| url.parse::<OperatorAddress>());
    Ok(LinkOptions {
        operators: operators.collect::<Result<_, _>>().context("read --operator")?,
        ca_file: args.operator_ca.clone(),
        token_file: args.token.clone(),
        node: args.node.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id,
    })
}

fn config(args: &Args) -> GatewayConfig {
    let tls = args.tls_cert.as_ref().zip(args.tls_key.as_ref());
    GatewayConfig {
        tls: tls.map(|(certificate, key)| TlsFiles::new(certificate, key)),
        insecure_plaintext: args.insecure_plaintext,
        metrics: Some(args.metrics),
        allowed_origins: args.allow_origins.clone(),
        settle: Duration::from_secs(args.settle),
        grace: Duration::from_secs(args.grace),
        ..GatewayConfig::new(args.listen)
    }
}

/// Where others reach the door that listens at `bound`.
fn advertised(args: &Args, bound: SocketAddr) -> SocketAddr {
    match args.advertise {
        Some(ip) => SocketAddr::new(ip, bound.port()),
        None => bound,
    }
}

/// The first SIGTERM or SIGINT drains: the operator hears of it at once, and the door is not ready.
fn drain_on_signal(
    shutdown: CancellationToken,
    presence: watch::Sender<Presence>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        presence.send_modify(|presence| presence.is_draining = true);
        shutdown.cancel();
        // Kept, so that the operator goes on hearing of this node while it drains.
        presence.closed().await;
    })
}
