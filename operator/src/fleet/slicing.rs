//! What doors say of their slices of tenants' limits, and what is left for them.

use std::{collections::BTreeMap, sync::Arc};

use realm_plan::{
    Name,
    shares::{Applied, Shares, Slices, Spends},
};
use tokio::time::Instant;

use crate::{
    link::registry::{NodeView, Registry},
    metrics::FleetMetrics,
};

/// The shares, and what was heard of each node by the last turn.
#[derive(Debug)]
pub(super) struct Slicing {
    shares: Shares,
    heard: BTreeMap<String, Heard>,
    started: Instant,
    /// Of tenants of which some door has slices of their own, and of all others.
    applied: (BTreeMap<Name, Applied>, Applied),
}

#[derive(Debug, Default)]
struct Heard {
    is_connected: bool,
    holds: Option<Arc<Slices>>,
    spends: Option<Arc<Spends>>,
}

impl Slicing {
    /// The first slices have `first_epoch`, which no leader before can have given out.
    pub(super) fn new(first_epoch: u64, started: Instant) -> Self {
        let (heard, applied) = (BTreeMap::new(), <_>::default());
        Self { shares: Shares::new(first_epoch), heard, started, applied }
    }

    /// Takes in what doors say, and leaves for each what it may spend now. `doors` is how many there
    /// are or may be, and how many of them the last leader knew that may not have come back;
    /// `is_known` says which nodes are not lost.
    pub(super) fn turn(
        &mut self,
        views: &BTreeMap<String, NodeView>,
        is_known: impl Fn(&str) -> bool,
        (doors, recalled): (u32, u32),
        (registry, metrics): (&Registry, &FleetMetrics),
    ) {
        self.heard.retain(|node, _| is_known(node));
        self.shares.retain(&is_known);
        for (node, view) in views.iter().filter(|(node, _)| is_known(node)) {
            self.hear(node, view);
        }
        self.shares.recall(recalled);
        let Some(left) = self.shares.turn(doors, self.started.elapsed()) else { return };
        self.applied = self.shares.applied();
        metrics.sliced(self.shares.take_divisions(), self.shares.tenants(), left.len());
        for (node, slices) in left {
            tracing::debug!(node, epoch = slices.epoch, tenants = slices.tenants.len(), "sliced");
            if let Err(error) = registry.set_slices(&node, slices) {
                tracing::error!(node, %error, "a node gets no slices");
            }
        }
    }

    fn hear(&mut self, node: &str, view: &NodeView) {
        let is_door = view.supply.as_ref().is_some_and(|supply| supply.door.is_some());
        let heard = self.heard.entry(node.to_owned()).or_default();
        if !view.is_connected || !is_door {
            if heard.is_connected {
                self.shares.away(node);
            }
            *heard = Heard::default();
            return;
        }
        if !view.is_sliced {
            // Also where it was replaced by an older one between two turns.
            if !heard.is_connected || heard.holds.is_some() {
                self.shares.older(node);
            }
            *heard = Heard { is_connected: true, ..Heard::default() };
            return;
        }
        if let Some(holds) = &view.holds
            && !is_same(heard.holds.as_ref(), holds)
        {
            self.shares.holds(node, holds.clone());
        }
        if let Some(spends) = &view.spends
            && !is_same(heard.spends.as_ref(), spends)
        {
            self.shares.spends(node, spends.clone());
        }
        *heard =
            Heard { is_connected: true, holds: view.holds.clone(), spends: view.spends.clone() };
    }

    /// When the division may change without anybody saying anything.
    pub(super) fn due(&self) -> Option<Instant> {
        self.shares.due().map(|due| self.started + due)
    }

    /// The newest epoch that has been given out.
    pub(super) const fn newest(&self) -> u64 {
        self.shares.newest()
    }

    /// Who enforces a tenant's limits.
    pub(super) fn applied(&self, tenant: &Name) -> &Applied {
        let (named, others) = &self.applied;
        named.get(tenant).unwrap_or(others)
    }
}

fn is_same<T>(last: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    last.is_some_and(|last| Arc::ptr_eq(last, new))
}
