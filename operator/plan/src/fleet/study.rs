//! What is known of a model besides its spec: what it takes, and where it has failed.
//!
//! A model of which nothing is known is given to one node that reads the header of its file, and
//! to another where that fails, each once.

use std::collections::{BTreeMap, BTreeSet};

use realm_crds::model::Prefetch;

use super::{
    estimate::Estimate,
    node::{ModelHeld, Node, admitted},
    place::Placement,
};
use crate::{
    desired::Stage,
    name::Name,
    validate::{Replicas, ValidModel},
};

/// What is known of one model in its present form.
#[derive(Clone, Debug)]
pub(super) struct Study {
    /// The first generation in which the model has its present form: what a node says of an older
    /// one is about another file, unless the digest says otherwise.
    since: u64,
    pub(super) estimate: Option<Estimate>,
    /// Who reads the header.
    pub(super) inspector: Option<String>,
    /// Nodes that have tried and failed. Each is tried once before one is tried twice.
    pub(super) failed_on: BTreeSet<String>,
}

impl Study {
    pub(super) const fn new(since: u64) -> Self {
        Self { since, estimate: None, inspector: None, failed_on: BTreeSet::new() }
    }

    /// Learns from what `node` says of `model`.
    pub(super) fn learn(
        &mut self,
        model: &ValidModel,
        node: &str,
        generation: u64,
        held: &ModelHeld,
    ) {
        let is_present_form = match (model.artifact.sha256, held.sha256) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => self.since <= generation,
        };
        if is_present_form && let Some(estimate) = held.estimate {
            self.estimate = Some(estimate);
        }
        if held.stage == Some(Stage::Load) {
            self.failed_on.remove(node);
        } else if held.is_failed && self.since <= generation {
            self.failed_on.insert(node.to_owned());
        }
    }
}

/// Says who reads the headers of models that nothing is known of.
pub(super) fn assign(
    models: &BTreeMap<Name, ValidModel>,
    nodes: &BTreeMap<String, Node>,
    placement: &Placement,
    wanted: &BTreeMap<Name, u32>,
    studies: &mut BTreeMap<Name, Study>,
) {
    let mut given = BTreeMap::<String, usize>::new();
    for (name, model) in models {
        let Some(study) = studies.get_mut(name) else { continue };
        let seats = placement.get(name);
        // One that loads it tells as much, and one that is awaited may.
        let is_told = seats.is_some_and(|seats| {
            let is_connected =
                |node: &String| nodes.get(node).is_some_and(|node| node.is_connected);
            seats.keys().any(is_connected) || !is_short(seats.len(), wanted.get(name))
        });
        study.inspector = if study.estimate.is_some() || is_told || !is_of_interest(model) {
            None
        } else {
            inspector(model, nodes, study, &given)
        };
        if let Some(node) = &study.inspector {
            *given.entry(node.clone()).or_default() += 1;
        }
    }
}

/// Whether a model that is to have replicas now, or may be woken to, has too few of them.
fn is_short(seats: usize, wanted: Option<&u32>) -> bool {
    let wanted = wanted.map_or(0, |wanted| usize::try_from(*wanted).unwrap_or(usize::MAX));
    seats == 0 || seats < wanted
}

/// Whether anybody will want to know what the model takes.
fn is_of_interest(model: &ValidModel) -> bool {
    model.replicas != Replicas::Fixed(0) || model.prefetch != Prefetch::None
}

/// The node that inspects already, while it can and has not failed; else the one that has given
/// least to inspect. Where all have failed it stays with the one that tries now.
fn inspector(
    model: &ValidModel,
    nodes: &BTreeMap<String, Node>,
    study: &Study,
    given: &BTreeMap<String, usize>,
) -> Option<String> {
    let can = |node: &Node| {
        let supply = node.serving().filter(|_| node.heard.is_some());
        supply.is_some_and(|supply| admitted(model, supply).is_some())
    };
    let candidates = nodes.iter().filter(|(_, node)| can(node)).map(|(name, _)| name);
    let rank = |name: &&String| {
        let is_present = study.inspector.as_ref() == Some(*name);
        (study.failed_on.contains(*name), !is_present, given.get(*name).copied().unwrap_or(0))
    };
    candidates.min_by_key(rank).cloned()
}
