//! `realm serve`: the whole of Realm on one machine, from a folder of manifests.

mod convert;
mod progress;
pub(crate) mod state;

use std::{io, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports, TlsFiles};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{args::ServeArgs, home::Home, keys::NewKey, machine::Machine, output, sample};

pub(crate) async fn serve(home: &Home, args: ServeArgs) -> anyhow::Result<ExitCode> {
    let (folder, key) = match &args.manifests {
        Some(folder) => (folder.clone(), None),
        None => (home.sample(), Some(sample::lay_out(&home.sample())?)),
    };
    let ledger =
        home.ledger(&folder).with_context(|| format!("there is no folder {}", folder.display()))?;
    let machine = Machine::start(home, folder.clone(), &ledger, args.threads).await?;
    let agent = &machine.agent;
    let metrics = Metrics::new();
    agent.register_metrics(&metrics).context("register the engines' metrics")?;
    let ports = Ports {
        tenants: agent.runtime(),
        roster: agent.roster(),
        limiter: agent.limiter(),
        metrics,
    };
    let gateway = Gateway::bind(config(&args), ports).await?;
    greet(&gateway, &args, &folder, key.as_ref())?;
    let Signals { drain, end } = Signals::listen()?;
    tokio::spawn(progress::tell(machine.report.clone(), machine.notices));
    tokio::select! {
        () = gateway.serve(drain) => {}
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
        grace: Duration::from_secs(args.grace),
        ..GatewayConfig::new(args.listen)
    }
}

/// Says where everything is, and what to type next.
fn greet(
    gateway: &Gateway,
    args: &ServeArgs,
    folder: &Path,
    key: Option<&NewKey>,
) -> anyhow::Result<()> {
    let secure = if args.tls_cert.is_some() { "s" } else { "" };
    let addr = gateway.addr().context("read the door's address")?;
    output::line(format!("manifests  {}", folder.display()))?;
    output::line(format!("listening  ws{secure}://{addr}/v1/ws"))?;
    output::line(format!("http       http{secure}://{addr}/v1"))?;
    if let Some(metrics) = gateway.metrics_addr() {
        let metrics = metrics.context("read the metrics address")?;
        output::line(format!("metrics    http://{metrics}/metrics"))?;
    }
    if let Some(key) = key {
        let key = key.reveal();
        output::line(format!("key        {key}"))?;
        output::line(format!(
            "\ncurl -N http{secure}://{addr}/v1/chat/completions -H 'Authorization: Bearer {key}' \\\n  \
             -H 'Content-Type: application/json' \\\n  -d '{{\"model\": \"smollm2\", \"stream\": true, \
             \"messages\": [{{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}}]}}'\n"
        ))?;
    }
    Ok(())
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
