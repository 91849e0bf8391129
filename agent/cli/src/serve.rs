//! `realm serve`: the whole of Realm on one machine, from a folder of manifests.

mod convert;
mod progress;
pub(crate) mod state;

use std::{io, net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use realm_agent::Agent;
use realm_core::auth::{self, Credential};
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports, TlsFiles};
use realm_traces::{Service, Traces};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{args::ServeArgs, home::Home, keys::NewKey, machine::Machine, output, sample};

pub(crate) async fn serve(home: &Home, args: ServeArgs) -> anyhow::Result<ExitCode> {
    let (folder, is_sample) = match args.manifests.clone() {
        Some(folder) => (folder, false),
        None => (home.sample()?, true),
    };
    if is_sample {
        sample::lay_out(&folder)?;
    }
    let ledger = home.ledger(&folder)?;
    anyhow::ensure!(folder.is_dir(), "{} is not a folder of manifests", folder.display());
    let machine = Machine::start(home, folder.clone(), &ledger, args.device).await?;
    let agent = &machine.agent;
    let service = Service { name: "realm", version: env!("CARGO_PKG_VERSION"), node: None };
    let traces = Traces::start(args.otlp_endpoint.as_deref(), &service)?;
    let metrics = Metrics::new();
    agent.register_metrics(&metrics, &machine.report).context("register the agent's metrics")?;
    let ports = Ports {
        tenants: agent.runtime(),
        roster: agent.roster(),
        limiter: agent.limiter(),
        ready: machine.ready.clone(),
        metrics,
        tracer: traces.tracer(),
    };
    let gateway = Gateway::bind(config(&args), ports).await?;
    let addr = gateway.addr().context("read the door's address")?;
    greet(&gateway, addr, &args, &folder)?;
    if is_sample {
        // Only now that the ledger and the port are this server's: the key of one that serves
        // already stays good when a second one fails to start.
        let key = sample::new_key(&folder)?;
        tokio::spawn(show_key(key, agent.clone(), addr, args.tls_cert.is_some()));
    }
    let Signals { drain, end } = Signals::listen()?;
    tokio::spawn(progress::tell(machine.report.clone(), machine.notices));
    tokio::select! {
        () = async {
            gateway.serve(drain).await;
            traces.end().await;
        } => {}
        () = end.cancelled() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn config(args: &ServeArgs) -> GatewayConfig {
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

/// Says where everything is.
fn greet(
    gateway: &Gateway,
    addr: SocketAddr,
    args: &ServeArgs,
    folder: &Path,
) -> anyhow::Result<()> {
    let secure = if args.tls_cert.is_some() { "s" } else { "" };
    output::line(format!("manifests  {}", folder.display()))?;
    output::line(format!("listening  ws{secure}://{addr}/v1/ws"))?;
    output::line(format!("http       http{secure}://{addr}/v1"))?;
    if let Some(metrics) = gateway.metrics_addr() {
        let metrics = metrics.context("read the metrics address")?;
        output::line(format!("metrics    http://{metrics}/metrics"))?;
    }
    Ok(())
}

/// Says the key and what to type next, once the key opens the door and something is behind it.
async fn show_key(key: NewKey, agent: Arc<Agent>, addr: SocketAddr, is_tls: bool) {
    let credential = Credential::of(key.reveal());
    let (mut roster, runtime) = (agent.roster(), agent.runtime());
    let mut arrivals = runtime.arrivals();
    loop {
        let caller = auth::verify(&roster.borrow_and_update(), credential, 0);
        if caller.is_ok_and(|caller| runtime.has_program(caller.tenant())) {
            break;
        }
        let changed = tokio::select! {
            changed = roster.changed() => changed,
            changed = arrivals.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
    let (key, secure) = (key.reveal(), if is_tls { "s" } else { "" });
    let text = format!(
        "key        {key}\n\n\
         curl -N http{secure}://{addr}/v1/chat/completions -H 'Authorization: Bearer {key}' \\\n  \
         -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\": \"smollm2\", \"stream\": true, \
         \"messages\": [{{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}}]}}'\n"
    );
    if let Err(error) = output::line(text) {
        tracing::warn!(%error, "the key could not be printed");
    }
}

/// What signals have asked for.
#[derive(Clone, Default)]
struct Signals {
    drain: CancellationToken,
    end: CancellationToken,
}

impl Signals {
    /// The first SIGTERM or SIGINT drains, the second ends at once.
    fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let signals = Self::default();
        let Self { drain, end } = signals.clone();
        tokio::spawn(async move {
            for token in [drain, end] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(signals)
    }
}
