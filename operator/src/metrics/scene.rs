//! How nodes and objects stand, read when Prometheus asks.
//!
//! Everything here is of one term: a standby tells nothing, so that each node and object is told
//! of once in a cluster.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    core::{Collector, Desc},
    proto,
};
use tokio::time::Instant;

use super::{objects, unix_now};
use crate::{
    fleet::handle::Handle,
    link::registry::{NodeView, Registry},
};

/// Who knows, while this operator leads.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<Mutex<Option<Scene>>>);

#[derive(Clone)]
struct Scene {
    nodes: Registry,
    fleet: Handle,
}

impl Stage {
    pub(super) fn enter(&self, nodes: Registry, fleet: Handle) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Scene { nodes, fleet });
    }

    pub(super) fn leave(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A gauge with its labels.
pub(super) struct Row {
    family: &'static Family,
    labels: Vec<String>,
    value: f64,
}

impl Row {
    pub(super) fn new(family: &'static Family, labels: impl Into<Vec<String>>, value: f64) -> Self {
        Self { family, labels: labels.into(), value }
    }
}

/// What rows have in common.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: proto::MetricType,
    pub(super) labels: &'static [&'static str],
}

impl Family {
    pub(super) const fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, help, kind: proto::MetricType::GAUGE, labels }
    }

    fn desc(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, [].into())
    }
}

static NODES: Family =
    Family::gauge("realm_operator_nodes", "Nodes whose agents are known.", &["state"]);
static NODE_UP: Family = Family::gauge(
    "realm_operator_node_up",
    "Whether the node's agent is connected, 0 or 1.",
    &["node"],
);
static NODE_HEARD: Family = Family::gauge(
    "realm_operator_node_last_heard_timestamp_seconds",
    "When the node's agent last said something, in seconds since the Unix epoch.",
    &["node"],
);
static NODE_PUBLISHED: Family = Family::gauge(
    "realm_operator_node_published_generation",
    "The generation of the state that the node should hold.",
    &["node"],
);
static NODE_REPORTED: Family = Family::gauge(
    "realm_operator_node_reported_generation",
    "The generation of the state that the node's last report answers.",
    &["node"],
);
static NODE_REFUSES: Family = Family::gauge(
    "realm_operator_node_refuses",
    "Whether the node's ledger did not take the state that it should hold, 0 or 1.",
    &["node"],
);
static NODE_MEMORY: Family = Family::gauge(
    "realm_operator_node_memory_bytes",
    "Memory of the node's host that models may take.",
    &["node"],
);
static NODE_MEMORY_FREE: Family = Family::gauge(
    "realm_operator_node_memory_free_bytes",
    "Of the memory that models may take, what is free.",
    &["node"],
);
static ENDINGS: Family = Family {
    name: "realm_operator_link_endings_total",
    help: "Agents turned away and streams that ended, by why.",
    kind: proto::MetricType::COUNTER,
    labels: &["reason"],
};

static STRANGERS: Family = Family {
    name: "realm_operator_agents_refused_total",
    help: "Who came to the agents' door and was none of ours, by what told.",
    kind: proto::MetricType::COUNTER,
    labels: &["reason"],
};

static UNKNOWN: Family = Family {
    name: "realm_operator_link_unknown_messages_total",
    help: "Messages of agents that were passed over, of a kind that this operator does not know.",
    kind: proto::MetricType::COUNTER,
    labels: &[],
};

static FAMILIES: [&Family; 11] = [
    &NODES,
    &NODE_UP,
    &NODE_HEARD,
    &NODE_PUBLISHED,
    &NODE_REPORTED,
    &NODE_REFUSES,
    &NODE_MEMORY,
    &NODE_MEMORY_FREE,
    &ENDINGS,
    &STRANGERS,
    &UNKNOWN,
];

/// Reads the stage.
pub(super) fn collector(stage: Stage) -> prometheus::Result<impl Collector + 'static> {
    let families: Vec<_> = FAMILIES.iter().chain(objects::FAMILIES.iter()).copied().collect();
    let descs = families.iter().map(|family| family.desc()).collect::<Result<_, _>>()?;
    Ok(Reading { stage, families, descs })
}

struct Reading {
    stage: Stage,
    families: Vec<&'static Family>,
    descs: Vec<Desc>,
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let scene = self.stage.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rows = Vec::new();
        if let Some(Scene { nodes, fleet }) = scene {
            of_nodes(&nodes, &mut rows);
            objects::rows(&fleet.snapshot(), &mut rows);
        }
        self.families.iter().map(|family| told(family, &rows)).collect()
    }
}

fn of_nodes(registry: &Registry, rows: &mut Vec<Row>) {
    let (mut connected, mut draining, mut away) = (0_u32, 0_u32, 0_u32);
    for (name, view) in registry.snapshot() {
        let is_draining = view.supply.as_ref().is_some_and(|supply| supply.is_draining);
        match (view.is_connected, is_draining) {
            (true, false) => connected += 1,
            (true, true) => draining += 1,
            (false, _) => away += 1,
        }
        of_node(&name, &view, rows);
    }
    for (state, count) in [("connected", connected), ("draining", draining), ("away", away)] {
        rows.push(Row::new(&NODES, [state.to_owned()], count.into()));
    }
    for (reason, count) in registry.endings() {
        rows.push(Row::new(&ENDINGS, [reason.to_owned()], count as f64));
    }
    for (stranger, count) in registry.strangers() {
        rows.push(Row::new(&STRANGERS, [stranger.as_str().to_owned()], count as f64));
    }
    rows.push(Row::new(&UNKNOWN, Vec::new(), registry.unknown() as f64));
}

fn of_node(name: &str, view: &NodeView, rows: &mut Vec<Row>) {
    let NodeView {
        is_connected,
        agent: _,
        report,
        supply,
        uses: _,
        published,
        refused,
        heard_at,
        is_sliced: _,
        holds: _,
        spends: _,
        unspoken: _,
    } = view;
    let mut tell = |family, value: f64| rows.push(Row::new(family, [name.to_owned()], value));
    tell(&NODE_UP, f64::from(u8::from(*is_connected)));
    tell(&NODE_REFUSES, f64::from(u8::from(refused.is_some())));
    if let Some(heard_at) = heard_at {
        tell(&NODE_HEARD, unix(*heard_at));
    }
    if let Some(generation) = published {
        tell(&NODE_PUBLISHED, *generation as f64);
    }
    if let Some(report) = report {
        tell(&NODE_REPORTED, report.generation as f64);
    }
    if let Some(supply) = supply {
        tell(&NODE_MEMORY, supply.memory_bytes_total as f64);
        tell(&NODE_MEMORY_FREE, supply.memory_bytes_free as f64);
    }
}

/// A moment in seconds since the Unix epoch.
fn unix(at: Instant) -> f64 {
    unix_now().saturating_sub(at.elapsed()).as_secs_f64()
}

/// The rows of one family, as Prometheus reads them.
fn told(family: &'static Family, rows: &[Row]) -> proto::MetricFamily {
    let mut told = proto::MetricFamily::default();
    told.set_name(family.name.to_owned());
    told.set_help(family.help.to_owned());
    told.set_field_type(family.kind);
    let rows = rows.iter().filter(|row| row.family.name == family.name);
    told.set_metric(rows.map(metric).collect());
    told
}

fn metric(row: &Row) -> proto::Metric {
    let pairs = row.family.labels.iter().zip(&row.labels).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut metric = proto::Metric::from_label(pairs.collect());
    if row.family.kind == proto::MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(row.value);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(row.value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::{
        fleet::FleetLoop,
        lease::{Given, Term},
        link::supply::Credentials,
        metrics::Metrics,
    };

    #[tokio::test]
    async fn a_leader_tells_of_every_node_and_one_that_leads_no_more_of_none() {
        let (metrics, nodes) = (Metrics::new().unwrap(), Registry::new());
        nodes.set_credentials("alpha", Arc::new(Credentials::default())).unwrap();
        let given = Arc::new(watch::Sender::new(Given::default()));
        let term = Term { first_generation: 1, doors: 0, given };
        let (_fleet, handle) = FleetLoop::new(term, nodes.clone(), metrics.fleet.clone());
        metrics.lead();
        metrics.follow(nodes, handle);
        let text = metrics.text().unwrap();
        for line in [
            "realm_operator_leading 1",
            r#"realm_operator_node_up{node="alpha"} 0"#,
            r#"realm_operator_nodes{state="away"} 1"#,
            r#"realm_operator_nodes{state="connected"} 0"#,
            r#"realm_operator_agents_refused_total{reason="Audience"} 0"#,
            "realm_operator_link_unknown_messages_total 0",
            r#"realm_operator_objects{kind="Model",condition="Ready",status="True"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.follow_nobody();
        let text = metrics.text().unwrap();
        assert!(text.contains("realm_operator_leading 0"), "{text}");
        assert!(!text.contains("realm_operator_agents_refused"), "{text}");
        assert!(!text.contains("realm_operator_node") && !text.contains("realm_operator_objects"));
    }
}
