//! What Prometheus sees of the operator. Labels are closed sets.

use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use realm_plan::Kind;

/// From the planning of an empty fleet to one that a full plan takes too long for.
const PLAN_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// From a reconcile that writes nothing to one that waits for a slow API server.
const RECONCILE_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// All of the operator's metrics. Clones count the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconcile_seconds: HistogramVec,
    reconcile_errors: IntCounterVec,
    leading: IntGauge,
    pub fleet: FleetMetrics,
}

/// What the fleet's loop counts.
#[derive(Clone)]
pub struct FleetMetrics {
    plan_seconds: Histogram,
    published: IntCounter,
    nodes: IntGauge,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let reconcile_seconds = HistogramVec::new(
            HistogramOpts::new("realm_operator_reconcile_seconds", "Time of one reconcile.")
                .buckets(RECONCILE_SECONDS.to_vec()),
            &["kind"],
        )?;
        let reconcile_errors = IntCounterVec::new(
            Opts::new("realm_operator_reconcile_errors_total", "Reconciles that failed."),
            &["kind"],
        )?;
        let leading =
            IntGauge::new("realm_operator_leading", "Whether this operator leads, 0 or 1.")?;
        let plan_seconds = Histogram::with_opts(
            HistogramOpts::new("realm_operator_plan_seconds", "Time of one plan of the fleet.")
                .buckets(PLAN_SECONDS.to_vec()),
        )?;
        let published = IntCounter::new(
            "realm_operator_states_published_total",
            "Desired states left for an agent.",
        )?;
        let nodes = IntGauge::new("realm_operator_nodes", "Nodes whose agents are known.")?;
        registry.register(Box::new(reconcile_seconds.clone()))?;
        registry.register(Box::new(reconcile_errors.clone()))?;
        registry.register(Box::new(leading.clone()))?;
        registry.register(Box::new(plan_seconds.clone()))?;
        registry.register(Box::new(published.clone()))?;
        registry.register(Box::new(nodes.clone()))?;
        let fleet = FleetMetrics { plan_seconds, published, nodes };
        Ok(Self { registry, reconcile_seconds, reconcile_errors, leading, fleet })
    }

    /// Times a reconcile until it is dropped.
    pub fn reconciling(&self, kind: Kind) -> Reconciling {
        let seconds = self.reconcile_seconds.with_label_values(&[kind.as_str()]);
        Reconciling { seconds, began: Instant::now() }
    }

    pub fn reconcile_failed(&self, kind: Kind) {
        self.reconcile_errors.with_label_values(&[kind.as_str()]).inc();
    }

    pub fn lead(&self, is_leading: bool) {
        self.leading.set(i64::from(is_leading));
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl FleetMetrics {
    pub fn planned(&self, took: Duration, published: usize, nodes: usize) {
        self.plan_seconds.observe(took.as_secs_f64());
        self.published.inc_by(published.try_into().unwrap_or(u64::MAX));
        self.nodes.set(nodes.try_into().unwrap_or(i64::MAX));
    }
}

/// A reconcile that is being timed.
pub struct Reconciling {
    seconds: Histogram,
    began: Instant,
}

impl Drop for Reconciling {
    fn drop(&mut self) {
        self.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}
