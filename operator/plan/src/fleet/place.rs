//! Which nodes hold which models.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::NodeSupply;
use crate::{
    name::{Kind, Name},
    problem::{Problem, Reason},
    validate::ValidModel,
};

/// The nodes of each model.
pub(super) type Placement = BTreeMap<Name, BTreeSet<String>>;

type Models = BTreeMap<Name, ValidModel>;
type Nodes = BTreeMap<String, NodeSupply>;

/// Places every model, moving none: a replica stays where it is while its node is there and its
/// model wants as many.
pub(super) fn place(models: &Models, nodes: &Nodes, last: &Placement) -> Placement {
    let mut placement = Placement::new();
    for name in models.keys() {
        let stay = last.get(name).into_iter().flatten().filter(|node| nodes.contains_key(*node));
        placement.insert(name.clone(), stay.cloned().collect());
    }
    let mut load = load(&placement);
    for (name, held) in &mut placement {
        let wanted = models.get(name).map_or(0, |model| model.replicas);
        while held.len() > count(wanted) {
            let Some(node) = held.iter().max_by_key(|node| load.get(*node)).cloned() else { break };
            held.remove(&node);
            load.entry(node).and_modify(|models| *models = models.saturating_sub(1));
        }
    }
    for (name, held) in &mut placement {
        let wanted = models.get(name).map_or(0, |model| model.replicas);
        while held.len() < count(wanted) {
            let free = nodes.values().filter(|node| !held.contains(&node.name));
            let fullness =
                |node: &&NodeSupply| (load.get(&node.name).copied(), Reverse(node.memory_bytes));
            let Some(node) = free.min_by_key(fullness) else { break };
            held.insert(node.name.clone());
            *load.entry(node.name.clone()).or_default() += 1;
        }
    }
    placement
}

/// Models that want more replicas than there are nodes.
pub(super) fn shortages(models: &Models, nodes: &Nodes) -> Vec<((Kind, Name), Problem)> {
    let short = models.values().filter(|model| count(model.replicas) > nodes.len());
    short
        .map(|model| {
            let problem = Problem {
                path: "spec.replicas".to_owned(),
                reason: Reason::NotEnoughNodes,
                message: format!("{} replicas, {} nodes", model.replicas, nodes.len()),
            };
            ((Kind::Model, model.name().clone()), problem)
        })
        .collect()
}

/// Replicas on each node that has any.
fn load(placement: &Placement) -> BTreeMap<String, usize> {
    let mut load = BTreeMap::new();
    for node in placement.values().flatten() {
        *load.entry(node.clone()).or_default() += 1;
    }
    load
}

/// A `u32` always fits where Realm runs; where it did not, no list could be that long either.
fn count(replicas: u32) -> usize {
    usize::try_from(replicas).unwrap_or(usize::MAX)
}
