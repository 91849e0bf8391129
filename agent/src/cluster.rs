//! One agent of a cluster, from its start to its end.
//!
//! The ledger is applied before anybody has been reached, the link follows, and the door opens at
//! once: it is not ready before everything has been tried.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use realm_core::{
    desired::Desired,
    report::Report,
    supply::{Credentials, Supply},
};
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports, TlsFiles};
use realm_link::{
    client::{self, Feeds, LinkOptions, LinkState, OperatorAddress},
    converge,
    ledger::Ledger,
    readiness,
};
use realm_store::{Site, StoreOptions};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Agent, AgentOptions,
    args::Args,
    metrics,
    supply::{self, Presence},
};

/// Runs until SIGTERM or SIGINT, and until what was running then has ended or its grace is over.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut boot_id = [0; 16];
    getrandom::fill(&mut boot_id).context("draw an id for this start")?;
    let link = link_options(&args, hex::encode(boot_id))?;
    let agent = Arc::new(Agent::new(AgentOptions {
        store_dir: args.store.clone().unwrap_or_else(|| args.state.join("store")),
        store: StoreOptions::new(Site::Cluster),
        threads: args.threads,
    })?);
    let ledger_dir = args.state.join("ledger");
    let (ledger, warnings) = Ledger::open(&ledger_dir).await.context("open the ledger")?;
    for warning in warnings {
        tracing::warn!(path = %warning.path.display(), cause = %warning.source, "ledger");
    }
    let (report_sender, report) = watch::channel(Report::default());
    let (ready_sender, ready) = watch::channel(false);
    let metrics = Metrics::new();
    agent.register_metrics(&metrics, &report).context("register the agent's metrics")?;
    let state = watch::Sender::new(LinkState::default());
    metrics::register_link(&state.subscribe(), &metrics).context("register the link's metrics")?;
    let ports = Ports {
        tenants: agent.runtime(),
        roster: agent.roster(),
        limiter: agent.limiter(),
        ready,
        metrics,
    };
    let gateway = Gateway::bind(config(&args), ports).await?;
    let presence = watch::Sender::new(presence(&args, gateway.addr()?));
    let (supply_sender, supply) = watch::channel(Supply::default());
    let (credentials, opened) = watch::channel(Credentials::default());
    agent.open_sources(opened);
    // An agent that was never told anything is not ready: it does not know one key.
    let generation = ledger.newest().generation.max(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(readiness::follow(generation, report.clone(), ready_sender));
    tasks.spawn(converge::run(agent.clone(), ledger.subscribe(), report_sender));
    tasks.spawn(tell_states(ledger.subscribe()));
    tasks.spawn(supply::follow(agent.clone(), presence.subscribe(), report.clone(), supply_sender));
    let feeds = Feeds { report, supply };
    tasks.spawn(async move {
        let never = client::run(link, ledger, feeds, credentials, state).await;
        match never {}
    });
    let shutdown = CancellationToken::new();
    tasks.spawn(drain_on_signal(shutdown.clone(), presence)?);
    gateway.serve(shutdown).await;
    Ok(())
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
        grace: Duration::from_secs(args.grace),
        ..GatewayConfig::new(args.listen)
    }
}

/// Where clients reach the door that listens at `bound`.
fn presence(args: &Args, bound: SocketAddr) -> Presence {
    let door = match args.advertise {
        Some(ip) => SocketAddr::new(ip, bound.port()),
        None => bound,
    };
    Presence { door: Some(door), ..Presence::default() }
}

/// The first SIGTERM or SIGINT drains: the operator hears of it, and the door says so.
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
