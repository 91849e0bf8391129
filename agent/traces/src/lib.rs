//! Traces of calls to an OpenTelemetry collector: the only place that knows one.
//!
//! The rooms of an agent gather facts in the words of `realm_core::trace`. Here they become
//! OpenTelemetry's spans (`convert`) and leave by OTLP over HTTP (`export`, `client`), if whoever
//! starts the process says where to (`settings`).

mod client;
mod convert;
mod export;
mod settings;

use std::time::{Instant, SystemTime};

use opentelemetry_otlp::ExporterBuildError;
use realm_core::trace::{Outside, Tracer};
use thiserror::Error;

use crate::{export::Exporting, settings::Settings};

/// Why traces cannot be exported as they should be.
#[derive(Debug, Error)]
pub enum TracesError {
    #[error("the collector's address {url} {problem}")]
    Endpoint { url: String, problem: String },
    #[error("there is no sampler `{0}`")]
    Sampler(String),
    #[error("the sampler's argument is `{0}`; it is a number from 0 to 1")]
    Ratio(String),
    #[error("spans are sent as `http/protobuf`, not as `{0}`")]
    Protocol(String),
    #[error("read the authorities of the collector in {file}")]
    Authorities { file: String, source: rustls::pki_types::pem::Error },
    #[error("trust a collector")]
    Tls(#[source] rustls::Error),
    #[error("make the collector's client")]
    Client(#[source] reqwest::Error),
    #[error("make the exporter")]
    Exporter(#[source] ExporterBuildError),
}

/// Who exports.
#[derive(Clone, Debug)]
pub struct Service {
    /// What it is called where the environment says nothing else.
    pub name: &'static str,
    pub version: &'static str,
    /// The Kubernetes node, where there is one.
    pub node: Option<String>,
}

/// The traces of one process.
#[derive(Debug)]
pub struct Traces {
    tracer: Tracer,
    exporting: Option<Exporting>,
}

impl Traces {
    /// Begins to export to `endpoint`, or to where the environment says; without either nothing is
    /// recorded. Called within a Tokio runtime.
    pub fn start(endpoint: Option<&str>, service: &Service) -> Result<Self, TracesError> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(settings) = Settings::read(endpoint, variable)? else {
            return Ok(Self { tracer: Tracer::OFF, exporting: None });
        };
        let exporter = client::exporter(&settings, service, variable)?;
        let outside = Outside { now: Instant::now, date: SystemTime::now, draw };
        let (tracer, queue) = Tracer::new(settings.sampling, outside);
        // Without what may be secret in an address.
        let collector = settings.endpoint.origin().ascii_serialization();
        tracing::info!(collector, "traces are exported");
        Ok(Self { tracer, exporting: Some(Exporting::start(queue, exporter)) })
    }

    /// What begins the traces of calls.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Exports what is there, and takes no longer than a collector that is there needs.
    pub async fn end(self) {
        if let Some(exporting) = self.exporting {
            exporting.end().await;
        }
    }
}

fn draw() -> Option<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(u128::from_ne_bytes(bytes))
}
