//! What is known of a model besides its spec: what it takes, and where it has failed.
//!
//! A model of which nothing is known is given to one node that reads the header of its file, and
//! to another where that fails, each once.

use std::collections::{BTreeMap, BTreeSet};

use realm_crds::model::Prefetch;

use super::{
    estimate::Estimate,
    node::{ModelHeld, Node, admitted},
    place::{Placement, Seats},
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
    /// The first generation whose answers are of blocks as they are now.
    kv_since: u64,
    pub(super) estimate: Option<Estimate>,
    /// Whether the estimate is that of a whole file whose digest was right.
    is_verified: bool,
    /// What the header alone had said, where the whole file says otherwise.
    pub(super) claimed: Option<Estimate>,
    /// Who reads the header.
    pub(super) inspector: Option<String>,
    /// Nodes that have tried and failed. Each is tried once before one is tried twice.
    pub(super) failed_on: BTreeSet<String>,
}

impl Study {
    pub(super) const fn new(since: u64) -> Self {
        Self {
            since,
            kv_since: 0,
            estimate: None,
            is_verified: false,
            claimed: None,
            inspector: None,
            failed_on: BTreeSet::new(),
        }
    }

    /// As [`Self::new`], of a model whose cache holds its numbers in another way from then on.
    pub(super) fn of_kv(since: u64) -> Self {
        Self { kv_since: since, ..Self::new(since) }
    }

    /// Learns from what `node` says of `model`.
    pub(super) fn learn(
        &mut self,
        model: &ValidModel,
        node: &str,
        generation: u64,
        held: &ModelHeld,
    ) {
        let is_present_form = self.kv_since <= generation
            && match (model.artifact.sha256, held.sha256) {
                (Some(wanted), Some(found)) => wanted == found,
                _ => self.since <= generation,
            };
        if is_present_form && let Some(estimate) = held.estimate {
            self.take(estimate, held.sha256.is_some());
        }
        if held.stage == Some(Stage::Load) {
            self.failed_on.remove(node);
        } else if held.is_failed && self.since <= generation {
            self.failed_on.insert(node.to_owned());
        }
    }
}

impl Study {
    /// A whole file knows best; before there is one, its header decides where the model goes,
    /// though nothing vouches for it.
    fn take(&mut self, estimate: Estimate, is_verified: bool) {
        if is_verified && !self.is_verified {
            let claimed = self.estimate.filter(|claimed| *claimed != estimate);
            // Where no header came first, what an earlier leader has seen is what is known.
            self.claimed = claimed.or(self.claimed);
        }
        if is_verified || !self.is_verified {
            self.estimate = Some(estimate);
            self.is_verified = is_verified;
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
    let nothing = Seats::new();
    let mut given = BTreeMap::<String, usize>::new();
    for (name, model) in models {
        let Some(study) = studies.get_mut(name) else { continue };
        let seats = placement.get(name).unwrap_or(&nothing);
        let is_told = will_tell(name, seats, nodes, wanted.get(name).copied().unwrap_or(0));
        study.inspector = if study.estimate.is_some() || is_told || !is_of_interest(model) {
            None
        } else {
            inspector(model, nodes, seats, study, &given)
        };
        if let Some(node) = &study.inspector {
            *given.entry(node.clone()).or_default() += 1;
        }
    }
}

/// Whether those that have seats will tell: one that has loaded the model does, and where all are
/// still to be heard of one of them may. One that is still to load it may take hours.
fn will_tell(model: &Name, seats: &Seats, nodes: &BTreeMap<String, Node>, wanted: u32) -> bool {
    let known = seats.keys().filter_map(|node| nodes.get(node));
    let mut heard = known.filter(|node| node.is_connected && node.heard.is_some()).peekable();
    let is_awaited = heard.peek().is_none()
        && !seats.is_empty()
        && u32::try_from(seats.len()).is_ok_and(|seats| wanted <= seats);
    is_awaited || heard.any(|node| node.has_loaded(model))
}

/// Whether anybody will want to know what the model takes.
fn is_of_interest(model: &ValidModel) -> bool {
    model.replicas != Replicas::Fixed(0) || model.prefetch != Prefetch::None
}

/// The node that inspects already, while it can and has not failed; else, of those that have no
/// seat to load it in, the one that has been given least to inspect. Where all have failed it stays
/// with the one that tries now.
fn inspector(
    model: &ValidModel,
    nodes: &BTreeMap<String, Node>,
    seats: &Seats,
    study: &Study,
    given: &BTreeMap<String, usize>,
) -> Option<String> {
    let can = |node: &Node| {
        let supply = node.serving().filter(|_| node.heard.is_some());
        supply.is_some_and(|supply| admitted(model, supply).is_some())
    };
    let candidates = nodes.iter().filter(|(name, node)| can(node) && !seats.contains_key(*name));
    let candidates = candidates.map(|(name, _)| name);
    let rank = |name: &&String| {
        let is_present = study.inspector.as_ref() == Some(*name);
        (study.failed_on.contains(*name), !is_present, given.get(*name).copied().unwrap_or(0))
    };
    candidates.min_by_key(rank).cloned()
}
