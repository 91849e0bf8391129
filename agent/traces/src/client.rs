//! The exporter of spans: who it says it is, and whom it trusts.

use std::{net::IpAddr, sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::SpanExporter as _,
};
use reqwest::{Client, Url, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;

use crate::{Service, TracesError, settings::Settings};

/// Longest wait for a collector to take a batch, with its retries: it only has to write it down.
pub(crate) const EXPORT_WAIT: Duration = Duration::from_secs(10);

pub(crate) fn exporter(
    settings: &Settings,
    service: &Service,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<SpanExporter, TracesError> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client(&settings.endpoint, &variable)?)
        .with_endpoint(settings.endpoint.as_str())
        .with_timeout(EXPORT_WAIT)
        .build()
        .map_err(TracesError::Exporter)?;
    exporter.set_resource(&resource(service, variable));
    Ok(exporter)
}

/// Who exports, where the environment says nothing else.
fn resource(service: &Service, variable: impl Fn(&str) -> Option<String>) -> Resource {
    let Service { name, version, node } = service;
    let node = node.clone().map(|node| KeyValue::new("k8s.node.name", node));
    let own = [KeyValue::new("service.name", *name), KeyValue::new("service.version", *version)];
    let builder = Resource::builder_empty()
        .with_attributes(own.into_iter().chain(node))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match variable("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}

/// Is led nowhere else: what the exporter shows is for the collector alone.
fn client(
    endpoint: &Url,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Client, TracesError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls(endpoint, variable)?)
        .redirect(Policy::none())
        .timeout(EXPORT_WAIT)
        .user_agent(concat!("realm/", env!("CARGO_PKG_VERSION")));
    if is_loopback(endpoint) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(TracesError::Client)
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Trusts the platform's authorities and those that the environment names; nobody where there is
/// no TLS.
fn tls(
    endpoint: &Url,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<ClientConfig, TracesError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TracesError::Tls)?;
    if endpoint.scheme() == "http" {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let file = variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_CERTIFICATE"));
    let mut authorities = Vec::<CertificateDer<'static>>::new();
    if let Some(file) = file.filter(|file| !file.is_empty()) {
        let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
        authorities = read.map_err(|source| TracesError::Authorities { file, source })?;
    }
    let verifier =
        Verifier::new_with_extra_roots(authorities, provider).map_err(TracesError::Tls)?;
    let verifier = Arc::new(verifier);
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}
