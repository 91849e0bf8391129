//! What Prometheus reads: the door's own families, and whatever the wiring registers besides.
//!
//! Label sets are closed. `tenant` takes the names the operator gave out and `-` for strangers,
//! `function` the known names and `other`, `code` the codes of refusals, `ok` among them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector, proto::MetricFamily,
};
use thiserror::Error;

mod reading;

use self::reading::Reading;
pub use self::reading::{Family, FamilyKind, Sample, SampleValue};

/// The `tenant` of what strangers ask.
pub(crate) const STRANGER: &str = "-";

/// The families of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: Registry,
    requests: IntCounterVec,
    first_token: HistogramVec,
    inter_token: Histogram,
    request: HistogramVec,
    calls_running: IntGauge,
    connections: IntGauge,
    connections_refused: IntCounter,
    frames_refused: IntCounter,
    ready: IntGauge,
    draining: IntGauge,
}

/// Why a family could not be registered.
#[derive(Debug, Error)]
#[error("registering the metric family `{name}`")]
pub struct MetricsError {
    name: &'static str,
    source: prometheus::Error,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        Families::new().map(|families| Self(Arc::new(families))).expect("the names are distinct")
    }

    /// Adds a family that `read` fills at each scrape.
    pub fn register(
        &self,
        family: Family,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) -> Result<(), MetricsError> {
        let failed = |source| MetricsError { name: family.name, source };
        let reading = Reading::new(family, read).map_err(failed)?;
        self.0.registry.register(Box::new(reading)).map_err(failed)
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// Drops the series of tenants that are gone: names would pile up for as long as the process
    /// lives. A call that ends after its tenant was removed brings one back until the next time.
    pub(crate) fn retain_tenants(&self, is_known: impl Fn(&str) -> bool) {
        let requests = &self.0.requests;
        for series in requests.collect().iter().flat_map(MetricFamily::get_metric) {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            let is_gone =
                labels.get("tenant").is_some_and(|&name| name != STRANGER && !is_known(name));
            if is_gone {
                // Fails only when the series is gone already.
                drop(requests.remove(&labels));
            }
        }
    }

    /// Notes whether clients should be sent here.
    pub(crate) fn show_ready(&self, is_ready: bool) {
        self.0.ready.set(i64::from(is_ready));
    }

    /// Notes whether the door is about to go.
    pub(crate) fn show_draining(&self, is_draining: bool) {
        self.0.draining.set(i64::from(is_draining));
    }

    pub(crate) fn refused(&self, tenant: &str, function: &str, code: &str) {
        self.0.requests.with_label_values(&[tenant, label(function), code]).inc();
    }

    pub(crate) fn connection_opened(&self) {
        self.0.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.0.connections.dec();
    }

    pub(crate) fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    pub(crate) fn frame_refused(&self) {
        self.0.frames_refused.inc();
    }
}

impl Families {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counted = |name, help| Opts::new(name, help);
        let timed =
            |name, help, buckets: &[f64]| HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let families = Self {
            requests: IntCounterVec::new(
                counted(
                    "realm_gateway_requests_total",
                    "Calls by how they ended; `ok` was served.",
                ),
                &["tenant", "function", "code"],
            )?,
            first_token: HistogramVec::new(
                timed(
                    "realm_time_to_first_token_seconds",
                    "From the admission of a call to its first piece.",
                    SECONDS,
                ),
                &["function"],
            )?,
            inter_token: Histogram::with_opts(timed(
                "realm_inter_token_seconds",
                "Between one piece of a call and the next.",
                GAPS,
            ))?,
            request: HistogramVec::new(
                timed(
                    "realm_request_seconds",
                    "From the admission of a call to its end, however it ended.",
                    SECONDS,
                ),
                &["function"],
            )?,
            calls_running: IntGauge::new("realm_calls_running", "Calls admitted and not ended.")?,
            connections: IntGauge::new("realm_gateway_connections", "Open connections.")?,
            connections_refused: IntCounter::new(
                "realm_gateway_connections_refused_total",
                "Connections closed at once because too many were open.",
            )?,
            frames_refused: IntCounter::new(
                "realm_gateway_frames_refused_total",
                "WebSocket messages that were no frame.",
            )?,
            ready: IntGauge::new(
                "realm_gateway_ready",
                "Whether clients should be sent to this door, 0 or 1.",
            )?,
            draining: IntGauge::new(
                "realm_gateway_draining",
                "Whether this door takes no new calls because it is about to go, 0 or 1.",
            )?,
            registry,
        };
        families.register()?;
        Ok(families)
    }

    fn register(&self) -> prometheus::Result<()> {
        let Self {
            registry,
            requests,
            first_token,
            inter_token,
            request,
            calls_running,
            connections,
            connections_refused,
            frames_refused,
            ready,
            draining,
        } = self;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(first_token.clone()))?;
        registry.register(Box::new(inter_token.clone()))?;
        registry.register(Box::new(request.clone()))?;
        registry.register(Box::new(calls_running.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(connections_refused.clone()))?;
        registry.register(Box::new(frames_refused.clone()))?;
        registry.register(Box::new(ready.clone()))?;
        registry.register(Box::new(draining.clone()))
    }
}

/// From a cached prefix on a fast device to the longest deadline in use.
const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// From 2000 tokens a second to one in two seconds, finest where a reader notices.
const GAPS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 2.0];

/// The label of a function: tenants' programs may export any name, labels may not.
pub(crate) fn label(function: &str) -> &'static str {
    match function {
        "generate" => "generate",
        "chat" => "chat",
        "embed" => "embed",
        "tokenize" => "tokenize",
        "pipeline" => "pipeline",
        "health" => "health",
        "metadata" => "metadata",
        _ => "other",
    }
}

/// The figures of one admitted call. Dropped before its end, the call counts as cancelled.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Metrics,
    tenant: String,
    function: &'static str,
    started_at: Instant,
    piece_at: Option<Instant>,
    code: &'static str,
}

impl Meter {
    pub(crate) fn start(metrics: &Metrics, tenant: &str, function: &str, now: Instant) -> Self {
        metrics.0.calls_running.inc();
        Self {
            metrics: metrics.clone(),
            tenant: tenant.to_owned(),
            function: label(function),
            started_at: now,
            piece_at: None,
            code: "cancelled",
        }
    }

    pub(crate) fn piece(&mut self, now: Instant) {
        let families = &self.metrics.0;
        if let Some(before) = self.piece_at.replace(now) {
            families.inter_token.observe(seconds(before, now));
        } else {
            let first = families.first_token.with_label_values(&[self.function]);
            first.observe(seconds(self.started_at, now));
        }
    }

    /// Says how the call ended; the figures are booked when the meter is dropped.
    pub(crate) fn end(&mut self, code: &'static str) {
        self.code = code;
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

impl Drop for Meter {
    fn drop(&mut self) {
        let families = &self.metrics.0;
        families.calls_running.dec();
        families.requests.with_label_values(&[&self.tenant, self.function, self.code]).inc();
        let request = families.request.with_label_values(&[self.function]);
        request.observe(self.started_at.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_is_counted_by_how_it_ended_and_an_unknown_function_is_other() {
        let metrics = Metrics::new();
        let start = Instant::now();
        let mut served = Meter::start(&metrics, "default/acme", "generate", start);
        served.piece(start + Duration::from_millis(30));
        served.piece(start + Duration::from_millis(31));
        served.end("ok");
        assert!(metrics.text().unwrap().contains("realm_calls_running 1"));
        drop(served);
        drop(Meter::start(&metrics, "default/acme", "a tenant's own", start));
        let text = metrics.text().unwrap();
        for line in [
            r#"realm_gateway_requests_total{code="ok",function="generate",tenant="default/acme"} 1"#,
            r#"realm_gateway_requests_total{code="cancelled",function="other",tenant="default/acme"} 1"#,
            r#"realm_time_to_first_token_seconds_bucket{function="generate",le="0.025"} 0"#,
            r#"realm_time_to_first_token_seconds_bucket{function="generate",le="0.05"} 1"#,
            "realm_inter_token_seconds_count 1",
            "realm_calls_running 0",
            "# HELP realm_request_seconds From",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_series_of_a_tenant_that_is_gone_are_dropped_and_no_others() {
        let metrics = Metrics::new();
        for tenant in ["default/acme", "default/gone", STRANGER] {
            metrics.refused(tenant, "chat", "busy");
            metrics.refused(tenant, "chat", "unauthenticated");
        }
        metrics.retain_tenants(|name| name == "default/acme");
        let text = metrics.text().unwrap();
        assert!(!text.contains("default/gone"), "{text}");
        assert_eq!(text.matches(r#"tenant="default/acme""#).count(), 2, "{text}");
        assert_eq!(text.matches(r#"tenant="-""#).count(), 2, "{text}");
    }

    #[test]
    fn a_registered_family_is_read_at_each_scrape_and_a_name_is_taken_once() {
        let metrics = Metrics::new();
        let family = Family {
            name: "realm_engine_queued_calls",
            help: "Calls that wait.",
            kind: FamilyKind::Gauge,
            labels: &["model"],
        };
        let good = Sample::new(["default/a".to_owned()], 3.0);
        let bad = Sample::new([], 9.0);
        metrics.register(family, move || vec![good.clone(), bad.clone()]).unwrap();
        let text = metrics.text().unwrap();
        assert!(text.contains("# HELP realm_engine_queued_calls Calls that wait."), "{text}");
        assert!(text.contains(r#"realm_engine_queued_calls{model="default/a"} 3"#), "{text}");
        metrics.register(family, Vec::new).unwrap_err();
    }
}
