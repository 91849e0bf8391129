//! One operator from its start to its end: contends for the Lease, and does its work while it leads.
//!
//! Everything that writes to the API server or speaks to agents lives inside [`work`], which is
//! dropped when the Lease is lost, and writes and speaks only by the Lease's own clock.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use kube::{
    Client, Config,
    client::ClientBuilder,
    runtime::events::{Recorder, Reporter},
};
use realm_crds::{Model, Pipeline, Tenant};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use crate::{
    admin,
    args::Args,
    config_maps::ConfigMaps,
    context::Context,
    controller,
    fleet::FleetLoop,
    lease::{
        Contender, Term, guard,
        leading::{Lead, Leading},
    },
    link::{
        authority::{Authority, Serving},
        identity::{Identities, ServiceAccount},
        registry::Registry,
        server::{HEARTBEAT, Server},
    },
    metrics::Metrics,
    nodes,
    retries::Retries,
    review::ApiServer,
    secrets,
    status::apply::MANAGER,
    throttle::Throttle,
    trust::{Trust, TrustError},
    warnings::Warnings,
};

/// The Lease.
const LEASE: &str = "realm-operator";

/// The wait after an authority could not be had.
const TRUST_RETRY: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::infer().await.context("find the API server")?;
    let mut guarded = config.clone();
    // What is to be sent again is looked at again by the guard.
    guarded.default_retry = false;
    let guarded = ClientBuilder::try_from(guarded).context("reach the API server")?;
    let client = Client::try_from(config).context("reach the API server")?;
    let metrics = Metrics::new().context("make the metrics")?;
    let admin = admin::bind(args.metrics).await.context("take the port of the metrics")?;
    let contender = Contender::new(client, &args.namespace, LEASE, &args.identity);
    let lead = Lead::new();
    let client = guard::client(guarded, lead.subscribe());
    let leads = contender
        .lead(&lead, |term| work(client.clone(), &args, term, metrics.clone(), lead.subscribe()));
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        ended = leads => ended,
        served = admin::serve(admin, metrics.clone()) => served.context("serve the metrics"),
        () = stopped => {
            // Before another one may lead.
            lead.end();
            contender.resign().await;
            Ok(())
        }
    }
}

/// What a leader does. Ends only with an error.
async fn work(
    client: Client,
    args: &Args,
    term: Term,
    metrics: Metrics,
    leading: Leading,
) -> anyhow::Result<()> {
    metrics.lead();
    let _leads = Leads(metrics.clone());
    let trust = Trust::new(&client, &args.namespace);
    let authority = watch::Sender::new(Arc::new(open(&trust).await));
    let serving = Serving::start(authority.subscribe(), args.link_names.clone())
        .context("make a certificate for the agents' door")?;
    let listener =
        TcpListener::bind(args.listen).await.context("take the port of the agents' door")?;
    let registry = Registry::new();
    let account = ServiceAccount {
        namespace: args.namespace.clone(),
        name: args.agent_service_account.clone(),
    };
    let namespaces: BTreeSet<String> = args.tenant_namespaces.iter().cloned().collect();
    let server = Server {
        identities: Identities::new(ApiServer::new(client.clone(), &args.namespace), account),
        registry: registry.clone(),
        config_maps: ConfigMaps::new(client.clone(), namespaces.clone()),
        authority: authority.subscribe(),
        tls: serving.current(),
        leading,
        heartbeat: HEARTBEAT,
    };
    let (fleet, handle) = FleetLoop::new(term, registry.clone(), metrics.fleet.clone());
    metrics.follow(registry, handle.clone());
    let reporter =
        Reporter { controller: MANAGER.to_owned(), instance: Some(args.identity.clone()) };
    let context = Arc::new(Context {
        client: client.clone(),
        fleet: handle.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        throttle: Throttle::default(),
        warnings: Warnings::default(),
        retries: Retries::default(),
        metrics: metrics.clone(),
        agent_selector: args.agent_selector.clone(),
    });
    tokio::join!(
        fleet.run(),
        server.serve(listener),
        serving.follow(),
        trust.follow(&authority),
        secrets::run(client.clone(), namespaces, handle.clone()),
        nodes::run(client, handle),
        controller::run::<Model>(context.clone()),
        controller::run::<Tenant>(context.clone()),
        controller::run::<Pipeline>(context),
    );
    anyhow::bail!("the work of a leader ended by itself")
}

/// The authority, however long the API server takes to give it.
async fn open(trust: &Trust) -> Authority {
    loop {
        match trust.open(SystemTime::now()).await {
            Ok(authority) => return authority,
            Err(error) => report(&error),
        }
        sleep(TRUST_RETRY).await;
    }
}

fn report(error: &TrustError) {
    tracing::error!(error = error as &dyn std::error::Error, "no authority for the link yet");
}

/// Says that this operator leads no more when it is dropped.
struct Leads(Metrics);

impl Drop for Leads {
    fn drop(&mut self) {
        self.0.follow_nobody();
    }
}
