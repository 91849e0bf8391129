//! What Prometheus sees of the operator. Labels are closed sets: the kinds, the words of this
//! house, and the names of nodes and models that are there.
//!
//! What happens is counted here as it does; how nodes and objects stand is read from whoever knows
//! when Prometheus asks (`scene`), by the leader alone.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use realm_plan::Kind;

use self::scene::Stage;
use crate::{fleet::handle::Handle, link::registry};

mod objects;
mod scene;

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
    requeues: IntCounterVec,
    status_writes: IntCounterVec,
    leading: IntGauge,
    stage: Stage,
    pub fleet: FleetMetrics,
}

/// What the fleet's loop counts.
#[derive(Clone)]
pub struct FleetMetrics {
    plan_seconds: Histogram,
    planned_at: Gauge,
    published: IntCounter,
    divisions: IntCounter,
    slices: IntCounter,
    tenants_sliced: IntGauge,
}

/// What became of a status that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusWrite {
    Written,
    /// The object said so already, or is gone.
    Unchanged,
    Failed,
}

/// Why an object is looked at again though nobody changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requeue {
    /// What is new in its status is not to be written yet.
    Throttled,
    Error,
}

impl StatusWrite {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

impl Requeue {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Error => "error",
        }
    }
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let counters =
            |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            registry: Registry::new(),
            reconcile_seconds: HistogramVec::new(
                HistogramOpts::new("realm_operator_reconcile_seconds", "Time of one reconcile.")
                    .buckets(RECONCILE_SECONDS.to_vec()),
                &["kind"],
            )?,
            reconcile_errors: counters(
                "realm_operator_reconcile_errors_total",
                "Reconciles that failed.",
                &["kind"],
            )?,
            requeues: counters(
                "realm_operator_requeues_total",
                "Objects that are looked at again though nobody changed them, by why.",
                &["kind", "reason"],
            )?,
            status_writes: counters(
                "realm_operator_status_writes_total",
                "Statuses that were to be written, by what became of it.",
                &["kind", "outcome"],
            )?,
            leading: IntGauge::new(
                "realm_operator_leading",
                "Whether this operator leads, 0 or 1.",
            )?,
            stage: Stage::default(),
            fleet: FleetMetrics::new()?,
        };
        metrics.register()?;
        metrics.begin();
        Ok(metrics)
    }

    /// Starts every counter at zero, so that its first step is seen as one.
    fn begin(&self) {
        for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline].map(Kind::as_str) {
            self.reconcile_errors.with_label_values(&[kind]);
            for reason in [Requeue::Throttled, Requeue::Error] {
                self.requeues.with_label_values(&[kind, reason.as_str()]);
            }
            for write in [StatusWrite::Written, StatusWrite::Unchanged, StatusWrite::Failed] {
                self.status_writes.with_label_values(&[kind, write.as_str()]);
            }
        }
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let Self {
            registry,
            reconcile_seconds,
            reconcile_errors,
            requeues,
            status_writes,
            leading,
            stage,
            fleet:
                FleetMetrics { plan_seconds, planned_at, published, divisions, slices, tenants_sliced },
        } = self;
        let build = Opts::new("realm_build_info", "1, under the version of the program.");
        let build = IntGaugeVec::new(build, &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(reconcile_seconds.clone()))?;
        registry.register(Box::new(reconcile_errors.clone()))?;
        registry.register(Box::new(requeues.clone()))?;
        registry.register(Box::new(status_writes.clone()))?;
        registry.register(Box::new(leading.clone()))?;
        registry.register(Box::new(plan_seconds.clone()))?;
        registry.register(Box::new(planned_at.clone()))?;
        registry.register(Box::new(published.clone()))?;
        registry.register(Box::new(divisions.clone()))?;
        registry.register(Box::new(slices.clone()))?;
        registry.register(Box::new(tenants_sliced.clone()))?;
        registry.register(Box::new(scene::collector(stage.clone())?))
    }

    /// Times a reconcile until it is dropped.
    pub fn reconciling(&self, kind: Kind) -> Reconciling {
        let seconds = self.reconcile_seconds.with_label_values(&[kind.as_str()]);
        Reconciling { seconds, began: Instant::now() }
    }

    pub fn reconcile_failed(&self, kind: Kind) {
        self.reconcile_errors.with_label_values(&[kind.as_str()]).inc();
    }

    pub(crate) fn requeued(&self, kind: Kind, reason: Requeue) {
        self.requeues.with_label_values(&[kind.as_str(), reason.as_str()]).inc();
    }

    pub(crate) fn status(&self, kind: Kind, write: StatusWrite) {
        self.status_writes.with_label_values(&[kind.as_str(), write.as_str()]).inc();
    }

    /// Says that this operator leads.
    pub(crate) fn lead(&self) {
        self.leading.set(1);
    }

    /// Tells from now on how the nodes and objects of this term stand.
    pub(crate) fn follow(&self, nodes: registry::Registry, fleet: Handle) {
        self.stage.enter(nodes, fleet);
    }

    /// Says that this operator leads no more, and nothing about nodes and objects: the next leader
    /// does.
    pub(crate) fn follow_nobody(&self) {
        self.leading.set(0);
        self.fleet.tenants_sliced.set(0);
        self.stage.leave();
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl FleetMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            plan_seconds: Histogram::with_opts(
                HistogramOpts::new("realm_operator_plan_seconds", "Time of one plan of the fleet.")
                    .buckets(PLAN_SECONDS.to_vec()),
            )?,
            planned_at: Gauge::new(
                "realm_operator_planned_timestamp_seconds",
                "When the fleet was last planned, in seconds since the Unix epoch.",
            )?,
            published: IntCounter::new(
                "realm_operator_states_published_total",
                "Desired states left for an agent.",
            )?,
            divisions: IntCounter::new(
                "realm_operator_limit_divisions_total",
                "How often the limits of a tenant were divided anew among doors, by what it uses.",
            )?,
            slices: IntCounter::new(
                "realm_operator_slices_leased_total",
                "Slices of all tenants' limits left for a door.",
            )?,
            tenants_sliced: IntGauge::new(
                "realm_operator_tenants_sliced",
                "Tenants whose limits doors do not share evenly.",
            )?,
        })
    }

    pub(crate) fn planned(&self, took: Duration, published: usize) {
        self.plan_seconds.observe(took.as_secs_f64());
        self.planned_at.set(unix_now().as_secs_f64());
        self.published.inc_by(published.try_into().unwrap_or(u64::MAX));
    }

    /// Slices were `leased` to so many doors. The limits of `tenants` are shared out unevenly now,
    /// and some tenant's were divided anew so many times since this was said last.
    pub(crate) fn sliced(&self, divided: u64, tenants: usize, leased: usize) {
        self.divisions.inc_by(divided);
        self.tenants_sliced.set(tenants.try_into().unwrap_or(i64::MAX));
        self.slices.inc_by(leased.try_into().unwrap_or(u64::MAX));
    }
}

/// The time since the Unix epoch.
fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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
