//! Who is connected, what each node should hold, and what it said last.
//!
//! The fleet's loop and the agents' connections meet here and never wait for each other: what a
//! node should hold is the newest value of a `watch`, which a slow agent reads when it can, and
//! what nodes say overwrites what they said before. However many agents report at once, the loop
//! is woken once and takes a [`Registry::snapshot`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_plan::{
    desired::{Desired, HostedProgram, Program, Sha256},
    shares::{Slices, Spends},
};
use realm_proto::link::versions::{SLICES_SINCE, Versions};
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    identity::Stranger,
    report::{Refused, Report},
    supply::{Credentials, Hello, Supply, TenantUse},
};

/// Nodes known at once: twice what Kubernetes supports in one cluster. More means that nobody
/// forgets those that are gone.
const NODES_MAX: usize = 10_000;

/// Why a node cannot be added.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{NODES_MAX} nodes are known already")]
pub struct TooManyNodes;

/// All nodes. Clones are handles to the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    nodes: Mutex<Nodes>,
    changed: Notify,
}

#[derive(Default)]
struct Nodes {
    by_name: BTreeMap<String, Node>,
    connections: u64,
    /// Agents turned away and streams that ended, by why.
    endings: BTreeMap<&'static str, u64>,
    /// Who came to the door and was no agent, by what told.
    strangers: BTreeMap<Stranger, u64>,
    /// Messages of agents of a kind that is not known here.
    unknown: u64,
}

#[derive(Default)]
struct Node {
    orders: watch::Sender<Orders>,
    connection: Option<Connection>,
    view: NodeView,
}

/// What a node is to be told. Each is whole; `None` while nobody has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) desired: Option<Arc<Desired>>,
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) slices: Option<Arc<Slices>>,
}

struct Connection {
    id: ConnectionId,
    replaced: watch::Sender<bool>,
}

/// One connection among all that there have ever been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// What is known of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub is_connected: bool,
    /// Of the last connection; `None` before the first.
    pub agent: Option<Agent>,
    pub report: Option<Arc<Report>>,
    pub supply: Option<Arc<Supply>>,
    /// What tenants have used there; `None` before the agent has told it.
    pub uses: Option<Arc<[TenantUse]>>,
    /// Whether its agent spends by slices of limits; one of an older release does not.
    pub is_sliced: bool,
    /// The slices that it came with; `None` until it has said.
    pub holds: Option<Arc<Slices>>,
    /// What was used of slices when it said so last.
    pub spends: Option<Arc<Spends>>,
    /// The generation of the last desired state that was left for the node.
    pub published: Option<u64>,
    /// The last desired state that the agent's ledger did not take, until it reports on it or is
    /// left another one.
    pub refused: Option<Refused>,
    pub heard_at: Option<Instant>,
    /// The versions of the link that the node's agent speaks, where they are none that this
    /// operator does.
    pub unspoken: Option<Versions>,
}

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub version: String,
    pub boot_id: String,
    /// The newest generation in its ledger when it connected.
    pub generation: u64,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves what `node` should hold. Takes the place of what was left before, sent or not.
    pub fn set_desired(&self, node: &str, desired: Arc<Desired>) -> Result<(), TooManyNodes> {
        let mut nodes = self.lock();
        let node = nodes.node(node)?;
        let refused = node.view.refused.take();
        node.view.refused = refused.filter(|old| old.generation == desired.generation);
        node.view.published = Some(desired.generation);
        node.orders.send_modify(|orders| orders.desired = Some(desired));
        Ok(())
    }

    /// Whether `node` should hold a program of a tenant of `namespace` that comes from this source and
    /// has this digest; `None` while nobody has said what it should hold.
    pub(super) fn has_program(
        &self,
        node: &str,
        (namespace, source, sha256): (&str, &str, Sha256),
    ) -> Option<bool> {
        let desired = self.lock().by_name.get(node)?.orders.borrow().desired.clone()?;
        let is_it = |hosted: &HostedProgram| match &hosted.code {
            Program::BuiltIn => false,
            Program::Component(artifact) => {
                artifact.sha256 == Some(sha256) && artifact.sources.iter().any(|s| s == source)
            }
        };
        let mut tenants = desired.tenants.iter().filter(|t| t.name.namespace() == namespace);
        Some(tenants.any(|tenant| tenant.program.as_ref().is_some_and(is_it)))
    }

    /// Leaves what opens the sources of the models on `node`, to be sent before what it should
    /// hold.
    pub fn set_credentials(
        &self,
        node: &str,
        credentials: Arc<Credentials>,
    ) -> Result<(), TooManyNodes> {
        let mut nodes = self.lock();
        nodes.node(node)?.orders.send_modify(|orders| orders.credentials = Some(credentials));
        Ok(())
    }

    /// Leaves slices of limits for `node`, to be sent before what it should hold.
    pub fn set_slices(&self, node: &str, slices: Arc<Slices>) -> Result<(), TooManyNodes> {
        let mut nodes = self.lock();
        nodes.node(node)?.orders.send_modify(|orders| orders.slices = Some(slices));
        Ok(())
    }

    /// Forgets a node that is lost, unless it has come back since.
    pub fn forget(&self, node: &str) {
        let mut nodes = self.lock();
        if nodes.by_name.get(node).is_some_and(|node| !node.view.is_connected) {
            nodes.by_name.remove(node);
        }
    }

    /// Ends the connection of a node that is no longer part of the cluster. What its agent has said
    /// is kept until it is lost: a Node object may come again, and its agent with it.
    pub fn dismiss(&self, name: &str) {
        let mut nodes = self.lock();
        let Some(node) = nodes.by_name.get_mut(name) else { return };
        if node.view.agent.is_none() {
            nodes.by_name.remove(name);
        } else if node.connection.take().is_some() {
            node.view.is_connected = false;
            drop(nodes);
            self.inner.changed.notify_one();
        }
    }

    /// Returns when a node has said something or has come or gone since the last return. One
    /// waits at a time.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// What is known of every node now.
    pub fn snapshot(&self) -> BTreeMap<String, NodeView> {
        let nodes = self.lock();
        nodes.by_name.iter().map(|(name, node)| (name.clone(), node.view.clone())).collect()
    }

    /// Counts an agent that was turned away, or a stream that ended. `reason` is one of a closed
    /// list.
    pub(super) fn count_ending(&self, reason: &'static str) {
        let mut nodes = self.lock();
        let count = nodes.endings.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    /// Agents turned away and streams that ended, by why.
    pub(crate) fn endings(&self) -> BTreeMap<&'static str, u64> {
        self.lock().endings.clone()
    }

    /// Counts somebody who came to the door and was no agent.
    pub(super) fn count_stranger(&self, stranger: Stranger) {
        let mut nodes = self.lock();
        let count = nodes.strangers.entry(stranger).or_default();
        *count = count.saturating_add(1);
    }

    /// Who came to the door and was no agent: of each sort, how many.
    pub fn strangers(&self) -> [(Stranger, u64); Stranger::ALL.len()] {
        let nodes = self.lock();
        Stranger::ALL.map(|sort| (sort, nodes.strangers.get(&sort).copied().unwrap_or(0)))
    }

    /// Counts a message of a kind that is not known here.
    pub(super) fn count_unknown(&self) {
        let mut nodes = self.lock();
        nodes.unknown = nodes.unknown.saturating_add(1);
    }

    /// Messages of agents of a kind that is not known here, which were passed over.
    pub fn unknown(&self) -> u64 {
        self.lock().unknown
    }

    /// Notes that a node has an agent that speaks no version of the link that is spoken here. Gives
    /// whether that is news.
    pub(super) fn note_unspoken(
        &self,
        node: &str,
        said: Versions,
        now: Instant,
    ) -> Result<bool, TooManyNodes> {
        let mut nodes = self.lock();
        let view = &mut nodes.node(node)?.view;
        let is_news = view.unspoken.replace(said) != Some(said);
        view.heard_at = Some(now);
        drop(nodes);
        if is_news {
            self.inner.changed.notify_one();
        }
        Ok(is_news)
    }

    /// Takes in an agent that has proven its node. An older connection of the node is ended.
    pub(super) fn connect(&self, hello: Hello, now: Instant) -> Result<Connected, TooManyNodes> {
        let Hello { node: name, agent_version, boot_id, generation, supply, link } = hello;
        let mut nodes = self.lock();
        let id = ConnectionId(nodes.connections);
        nodes.connections = nodes.connections.saturating_add(1);
        let node = nodes.node(&name)?;
        let (replaced, is_replaced) = watch::channel(false);
        if let Some(older) = node.connection.replace(Connection { id, replaced }) {
            older.replaced.send_replace(true);
        }
        node.view.is_connected = true;
        if node.view.agent.as_ref().is_some_and(|agent| agent.boot_id != boot_id) {
            // Of another process, which may have held what this one does not.
            (node.view.report, node.view.refused) = (None, None);
        }
        node.view.agent = Some(Agent { version: agent_version, boot_id, generation });
        node.view.supply = Some(Arc::new(supply));
        let version = Versions::OURS.common(link);
        node.view.is_sliced = version.is_some_and(|version| SLICES_SINCE <= version);
        (node.view.holds, node.view.spends) = (None, None);
        node.view.heard_at = Some(now);
        node.view.unspoken = None;
        let orders = node.orders.subscribe();
        drop(nodes);
        self.inner.changed.notify_one();
        Ok(Connected { node: name, id, orders, replaced: is_replaced })
    }

    /// Notes the end of a connection, unless it was noted before or a newer one has taken over.
    /// Gives whether it did.
    pub(super) fn disconnect(&self, node: &str, id: ConnectionId) -> bool {
        self.hear(node, id, |node| {
            node.connection = None;
            node.view.is_connected = false;
        })
    }

    pub(super) fn report(&self, node: &str, id: ConnectionId, report: Report, now: Instant) {
        self.hear(node, id, |node| {
            let view = &mut node.view;
            view.refused = view.refused.take().filter(|old| report.generation != old.generation);
            view.report = Some(Arc::new(report));
            view.heard_at = Some(now);
        });
    }

    /// Notes a heartbeat. Only one that says something new wakes anybody.
    pub(super) fn supply(&self, node: &str, id: ConnectionId, supply: Supply, now: Instant) {
        let is_same = |node: &mut Node| {
            node.view.heard_at = Some(now);
            node.view.supply.as_deref() == Some(&supply)
        };
        if self.lock().connected(node, id).is_none_or(is_same) {
            return;
        }
        self.hear(node, id, |node| node.view.supply = Some(Arc::new(supply)));
    }

    /// Notes what tenants have used on the node.
    pub(super) fn uses(&self, node: &str, id: ConnectionId, uses: Vec<TenantUse>, now: Instant) {
        self.hear(node, id, |node| {
            node.view.uses = Some(uses.into());
            node.view.heard_at = Some(now);
        });
    }

    /// Notes what slices an agent came with.
    pub(super) fn holds(&self, node: &str, id: ConnectionId, slices: Slices, now: Instant) {
        self.hear(node, id, |node| {
            node.view.holds = Some(Arc::new(slices));
            node.view.heard_at = Some(now);
        });
    }

    /// Notes what is used of slices. Whoever divides looks every few seconds by itself, and is woken
    /// for what it waits for: an answer, and use where there was none; and for what statuses say, that
    /// other limits are reached.
    pub(super) fn spends(&self, node: &str, id: ConnectionId, spends: Spends, now: Instant) {
        let spends = Arc::new(spends);
        let is_same = |node: &mut Node| {
            node.view.heard_at = Some(now);
            let last = node.view.spends.replace(spends.clone());
            last.is_some_and(|last| {
                let is_used = |spends: &Spends| !spends.tenants.is_empty();
                (last.epoch, is_used(&last)) == (spends.epoch, is_used(&spends))
                    && last.reached == spends.reached
            })
        };
        if self.lock().connected(node, id).is_some_and(|node| !is_same(node)) {
            self.inner.changed.notify_one();
        }
    }

    pub(super) fn refused(&self, node: &str, id: ConnectionId, refused: Refused, now: Instant) {
        self.hear(node, id, |node| {
            node.view.refused = Some(refused);
            node.view.heard_at = Some(now);
        });
    }

    /// Changes what is known of a node, if the connection that says so is still its own. Gives
    /// whether it is.
    fn hear(&self, node: &str, id: ConnectionId, change: impl FnOnce(&mut Node)) -> bool {
        let mut nodes = self.lock();
        let Some(node) = nodes.connected(node, id) else { return false };
        change(node);
        drop(nodes);
        self.inner.changed.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection is given.
pub(super) struct Connected {
    pub(super) node: String,
    pub(super) id: ConnectionId,
    pub(super) orders: watch::Receiver<Orders>,
    /// Becomes true when a newer connection takes over; ends when the node is forgotten.
    pub(super) replaced: watch::Receiver<bool>,
}

impl Nodes {
    fn node(&mut self, name: &str) -> Result<&mut Node, TooManyNodes> {
        if !self.by_name.contains_key(name) && self.by_name.len() >= NODES_MAX {
            return Err(TooManyNodes);
        }
        Ok(self.by_name.entry(name.to_owned()).or_default())
    }

    fn connected(&mut self, name: &str, id: ConnectionId) -> Option<&mut Node> {
        let node = self.by_name.get_mut(name)?;
        let is_own = node.connection.as_ref().is_some_and(|connection| connection.id == id);
        is_own.then_some(node)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.snapshot()).finish()
    }
}

#[cfg(test)]
mod tests;
