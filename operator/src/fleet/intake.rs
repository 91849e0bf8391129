//! What nodes say, in the planner's words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use realm_plan::{
    Estimate, Fleet, ModelHeld, Name, NodeReport, NodeSupply,
    desired::{Accelerator, Desired},
};
use tokio::time::Instant;

use super::answers::Answer;
use crate::link::{
    registry::NodeView,
    report::{ModelFacts, ModelPhase, ModelReport, Refused, Report},
    supply::{Credentials, DeviceKind, Supply},
};

/// How long a node may be away before its models go elsewhere: over the restart of an agent and of
/// a machine's network, and not much over the forty seconds after which Kubernetes itself calls a
/// node unreachable.
const LOST_AFTER: Duration = Duration::from_secs(45);

/// The same for nodes that a new leader has not met yet: all agents come back within seconds, and
/// some of their networks take a while.
const RECALLED_LOST_AFTER: Duration = Duration::from_mins(2);

/// How long a new leader says nothing of objects while agents that the last one knew are on their
/// way: thirty seconds between two of their tries at most, and five for each step of a connection.
const SETTLE_WAIT: Duration = Duration::from_secs(45);

/// Every node that the fleet knows, and since when it is away.
#[derive(Debug)]
pub(super) struct Nodes {
    started: Instant,
    /// Whether the doors of the last leader may still come back without any node being recalled.
    awaits_doors: bool,
    known: BTreeMap<String, Away>,
    settling: Settling,
    labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Nodes whose labels changed since the last turn.
    relabelled: BTreeSet<String>,
    /// What each node said by the last turn.
    heard: BTreeMap<String, Heard>,
}

/// Who has to answer this leader before what nodes say is the whole of it. What they said before
/// was of another leader's states, and does not tell what became of this one's.
#[derive(Debug, Default)]
struct Settling {
    awaited: BTreeSet<String>,
    /// The generation of the first state that this leader left for each node.
    told: BTreeMap<String, u64>,
    /// Whether anybody has to answer at all.
    is_anybody: bool,
    has_ended: bool,
}

/// Whether a node is away, and when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    No,
    LostAt(Instant),
}

#[derive(Debug, Default)]
struct Heard {
    supply: Option<Arc<Supply>>,
    report: Option<Arc<Report>>,
    /// What the node refused last.
    refused: Option<Refused>,
}

impl Heard {
    /// What the node says of the state of a generation, or of a later one.
    fn answer(&self, generation: u64) -> Answer {
        if self.report.as_ref().is_some_and(|report| generation <= report.generation) {
            return Answer::Taken;
        }
        let refused = self.refused.as_ref().filter(|refused| generation <= refused.generation);
        refused.map_or(Answer::Awaited, |refused| Answer::Refused(refused.failure.clone()))
    }
}

impl Nodes {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            awaits_doors: true,
            known: BTreeMap::new(),
            settling: Settling::default(),
            labels: BTreeMap::new(),
            relabelled: BTreeSet::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Waits for a node that held something before this leader's time.
    pub(super) fn recall(&mut self, node: &str) {
        let lost_at = self.started + RECALLED_LOST_AFTER;
        self.known.entry(node.to_owned()).or_insert(Away::LostAt(lost_at));
        self.settling.awaited.insert(node.to_owned());
    }

    /// Waits for any node, since one held something before this leader's time.
    pub(super) const fn expect(&mut self) {
        self.settling.is_anybody = true;
    }

    /// Notes that a state of this generation waits for the node.
    pub(super) fn tell(&mut self, node: &str, generation: u64) {
        if !self.settling.has_ended {
            self.settling.told.entry(node.to_owned()).or_insert(generation);
        }
    }

    /// Whether a node is there, or has not been away for long.
    pub(super) fn is_known(&self, node: &str) -> bool {
        self.known.contains_key(node)
    }

    /// Whether a node that held something before this leader's time has not come yet, and may.
    pub(super) fn awaits_recalled(&self) -> bool {
        let lost_at = Away::LostAt(self.started + RECALLED_LOST_AFTER);
        self.known.values().any(|away| *away == lost_at)
    }

    /// Whether the cluster has such a node. Its agent may be away.
    pub(super) fn is_in_cluster(&self, node: &str) -> bool {
        self.labels.contains_key(node)
    }

    /// What a node says of a generation.
    pub(super) fn answer(&self, node: &str, generation: u64) -> Answer {
        match self.heard.get(node) {
            Some(heard) => heard.answer(generation),
            None if self.is_known(node) => Answer::Away,
            None => Answer::Taken,
        }
    }

    /// Whether every node that held something before this leader's time has answered its first
    /// state, or been waited for. Once it is so it stays so.
    pub(super) fn is_settled(&mut self, now: Instant) -> bool {
        let Settling { awaited, told, is_anybody, has_ended } = &mut self.settling;
        if *has_ended {
            return true;
        }
        let answered: BTreeSet<&String> = told
            .iter()
            .filter(|(node, told)| {
                self.heard.get(*node).is_some_and(|it| it.answer(**told) != Answer::Awaited)
            })
            .map(|(node, _)| node)
            .collect();
        awaited.retain(|node| !answered.contains(node));
        *has_ended = now >= self.started + SETTLE_WAIT
            || (awaited.is_empty() && (!answered.is_empty() || !*is_anybody));
        *has_ended
    }

    pub(super) fn label(&mut self, node: String, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => drop(self.labels.insert(node.clone(), labels)),
            None => drop(self.labels.remove(&node)),
        }
        self.relabelled.insert(node);
    }

    /// When the next node is lost, or those that are waited for have had their time.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let doors_at = self.awaits_doors.then(|| self.started + RECALLED_LOST_AFTER);
        let settles_at = self.started + SETTLE_WAIT;
        // Where it has passed and objects are still to be read, their coming is what is waited for.
        let settles_at = Some(settles_at).filter(|at| !self.settling.has_ended && now < *at);
        let lost_at = self.known.values().filter_map(|away| match away {
            Away::No => None,
            Away::LostAt(at) => Some(*at),
        });
        lost_at.chain(doors_at).chain(settles_at).min()
    }

    /// Tells the fleet what is new of the nodes in `views`. Gives those that are lost.
    pub(super) fn take(
        &mut self,
        fleet: &mut Fleet,
        views: &BTreeMap<String, NodeView>,
        now: Instant,
    ) -> Vec<String> {
        for (name, view) in views {
            if view.is_connected {
                self.known.insert(name.clone(), Away::No);
                self.hear(fleet, name, view);
            } else if self.known.get(name) == Some(&Away::No) {
                self.known.insert(name.clone(), Away::LostAt(now + LOST_AFTER));
                self.heard.remove(name);
                fleet.disconnect(name);
            }
        }
        self.relabelled.clear();
        if self.awaits_doors && self.started + RECALLED_LOST_AFTER <= now {
            self.awaits_doors = false;
            fleet.recall_doors(0);
        }
        let is_lost = |_: &String, away: &mut Away| matches!(away, Away::LostAt(at) if *at <= now);
        let lost: Vec<String> = self.known.extract_if(.., is_lost).map(|(name, _)| name).collect();
        for name in &lost {
            fleet.withdraw(name);
        }
        lost
    }

    fn hear(&mut self, fleet: &mut Fleet, name: &str, view: &NodeView) {
        let heard = self.heard.entry(name.to_owned()).or_default();
        let is_relabelled = self.relabelled.contains(name);
        let has_news = !is_same(heard.supply.as_ref(), view.supply.as_ref());
        if let Some(supply) = &view.supply
            && (has_news || is_relabelled)
        {
            let labels = self.labels.get(name).cloned().unwrap_or_default();
            fleet.supply(node_supply(name, labels, supply));
        }
        if let Some(report) = &view.report
            && !is_same(heard.report.as_ref(), view.report.as_ref())
        {
            fleet.report(name, node_report(report));
        }
        if let Some(agent) = &view.agent {
            fleet.outgrow(agent.generation);
        }
        *heard = Heard {
            supply: view.supply.clone(),
            report: view.report.clone(),
            refused: view.refused.clone(),
        };
    }
}

fn is_same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn node_supply(name: &str, labels: BTreeMap<String, String>, supply: &Supply) -> NodeSupply {
    let mut memory_bytes = BTreeMap::new();
    for device in &supply.devices {
        let accelerator = match device.kind {
            DeviceKind::Cpu => Accelerator::Cpu,
            DeviceKind::Cuda => Accelerator::Cuda,
            DeviceKind::WebGpu => Accelerator::WebGpu,
        };
        // A device without memory of its own uses the host's.
        let free = match device.memory_bytes_total {
            0 => supply.memory_bytes_free,
            _ => device.memory_bytes_free,
        };
        let most = memory_bytes.entry(accelerator).or_insert(0);
        *most = free.max(*most);
    }
    let calls = supply.models.iter().map(|load| {
        let calls = load.sequences_queued.saturating_add(load.sequences_running);
        (load.model.clone(), calls)
    });
    let held = supply.held.iter().map(|held| (held.model.clone(), held.calls));
    NodeSupply {
        name: name.to_owned(),
        labels,
        memory_bytes,
        is_door: supply.door.is_some(),
        peer_address: supply.peer.map(|peer| peer.to_string()),
        is_ready: !supply.is_draining,
        calls: calls.collect(),
        held: held.collect(),
    }
}

fn node_report(report: &Report) -> NodeReport {
    let models = report.models.iter().map(model_held).collect();
    NodeReport { generation: report.generation, models }
}

fn model_held(model: &ModelReport) -> ModelHeld {
    let ModelReport { name, phase, stage, kv_blocks, facts } = model;
    ModelHeld {
        name: name.clone(),
        stage: *stage,
        kv_blocks: *kv_blocks,
        is_failed: matches!(phase, ModelPhase::Failed(_)),
        sha256: facts.as_ref().and_then(|facts| facts.sha256),
        estimate: facts.as_ref().and_then(estimate),
    }
}

fn estimate(facts: &ModelFacts) -> Option<Estimate> {
    let memory = facts.memory?;
    Some(Estimate {
        weights_bytes: facts.weights_bytes,
        kv_bytes_per_block: memory.kv_bytes_per_block,
        activation_bytes: memory.activation_bytes,
        context: facts.context,
        kv_blocks_per_sequence: memory.kv_blocks_per_sequence,
    })
}

/// What opens the sources of the models in `desired`, of what the Secrets hold.
pub(super) fn credentials(desired: &Desired, secrets: &BTreeMap<Name, Arc<[u8]>>) -> Credentials {
    let opened = desired.models.iter().filter_map(|model| {
        let bytes = secrets.get(model.secret.as_ref()?)?;
        Some((model.name.clone(), bytes.clone()))
    });
    Credentials(opened.collect())
}

#[cfg(test)]
mod tests;
