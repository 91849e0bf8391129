//! The status of a model, from what the fleet says of it. Pure.

use jiff::Timestamp;
use realm_crds::{
    Model, ModelStatus,
    model::{ModelEstimate, ModelNode, ModelNodeState},
};
use realm_plan::{Estimate, Problem, Reason, counted, desired::Stage};

use crate::{
    fleet::standing::{ModelOnNode, ModelStanding, Standing, Standings},
    link::report::{Failure, ModelPhase},
    status::conditions::{
        Finding, NO_AGENT_IS_CONNECTED, NO_AGENTS, Truth, conditions, held_back, progress,
    },
};

/// Reasons that say a model has no room, which `Fits` tells of.
const NO_ROOM: [Reason; 3] = [Reason::DoesNotFit, Reason::NotEnoughNodes, Reason::NoNodeAdmits];

/// Nodes that a status names: a status with as many failures of them is far from the 1.5 MB that the
/// API server stores of an object.
const NODES_SHOWN_MAX: usize = 256;

/// Nodes that a message names as fetching; the rest are counted.
const FETCHING_NAMED_MAX: usize = 8;

pub(super) fn status(
    model: &Model,
    standing: &Standing,
    selector: &str,
    now: Timestamp,
) -> ModelStatus {
    let Standings::Model(of_model) = &standing.nodes else { return ModelStatus::default() };
    let before = model.status.as_ref().map(|status| status.conditions.as_slice());
    let findings = findings(of_model, &standing.problems, standing.is_young);
    let findings = held_back(findings, standing.refused.as_ref());
    let facts = of_model.facts.as_ref();
    ModelStatus {
        observed_generation: Some(standing.generation),
        conditions: conditions(findings, before.unwrap_or_default(), standing.generation, now),
        replicas: serving(of_model),
        selector: Some(selector.to_owned()),
        architecture: facts.map(|facts| facts.architecture.clone()),
        parameters: facts.map(|facts| facts.parameters),
        format: facts.map(|facts| facts.format.clone()),
        // An adapter has its model's.
        context: facts.map(|facts| facts.context).filter(|tokens| *tokens > 0),
        licence: facts.and_then(|facts| facts.licence.clone()),
        estimate: of_model.estimate.map(takes),
        claimed: of_model.claimed.map(takes),
        nodes: shown(of_model).map(|(name, on_node)| node(name, on_node)).collect(),
    }
}

/// The nodes that a status names: those that load the model before those that only keep its file.
fn shown(model: &ModelStanding) -> impl Iterator<Item = (&String, &ModelOnNode)> {
    let loads = |(_, on_node): &(&String, &ModelOnNode)| {
        on_node.is_to_load || on_node.stage == Some(Stage::Load)
    };
    let (first, rest) = (model.nodes.iter().filter(loads), model.nodes.iter());
    first.chain(rest.filter(move |node| !loads(node))).take(NODES_SHOWN_MAX)
}

const fn takes(estimate: Estimate) -> ModelEstimate {
    let Estimate {
        weights_bytes,
        kv_bytes_per_block,
        activation_bytes,
        context: _,
        kv_blocks_per_sequence: _,
    } = estimate;
    ModelEstimate { weights_bytes, kv_bytes_per_block, activation_bytes }
}

/// What the header had claimed when `status` was written. The context is that of the whole file,
/// for the other one nobody is told.
pub(super) fn claimed(status: &ModelStatus) -> Option<Estimate> {
    let ModelEstimate { weights_bytes, kv_bytes_per_block, activation_bytes } = status.claimed?;
    let context = status.context.unwrap_or(0);
    // A claim is compared and shown, and nothing is planned by it.
    let kv_blocks_per_sequence = None;
    Some(Estimate {
        weights_bytes,
        kv_bytes_per_block,
        activation_bytes,
        context,
        kv_blocks_per_sequence,
    })
}

/// Agents that serve the model now.
pub(crate) fn serving(model: &ModelStanding) -> u32 {
    let loaded = model.nodes.values().filter(|node| node.stage == Some(Stage::Load));
    u32::try_from(loaded.count()).unwrap_or(u32::MAX)
}

/// What holds of a model, condition by condition.
pub(crate) fn findings(
    model: &ModelStanding,
    problems: &[Problem],
    is_young: bool,
) -> Vec<Finding> {
    let (no_room, invalid): (Vec<_>, Vec<_>) =
        problems.iter().partition(|problem| NO_ROOM.contains(&problem.reason));
    let fits = Finding::problems("Fits", &no_room).unwrap_or_else(|| fits(model));
    let invalid = Finding::problems("Ready", &invalid);
    // The first agents are on their way; those that there were are gone.
    let is_deserted = lacks_agents(model) && !is_young;
    let is_stuck =
        invalid.is_some() || !no_room.is_empty() || failure(model).is_some() || is_deserted;
    let ready = invalid.unwrap_or_else(|| ready(model, &fits));
    let loaded = loaded(model);
    // What serves may be less, or older, than what is wanted.
    let lags = [&ready, &fits, &loaded].into_iter().find(|part| part.status == Truth::False);
    let progress = progress(lags.unwrap_or(&ready), is_stuck);
    let mut findings = vec![fetched(model), verified(model), fits, loaded, ready];
    findings.extend(progress);
    findings
}

/// Whether somebody wants the model, or a call would, and there is nobody to load it.
const fn lacks_agents(model: &ModelStanding) -> bool {
    !model.has_agents && (model.replicas > 0 || model.is_woken)
}

/// What is not known of a model for want of agents.
fn unknown(type_: &'static str) -> Finding {
    Finding::new(type_, Truth::Unknown, NO_AGENTS, NO_AGENT_IS_CONNECTED)
}

fn fits(model: &ModelStanding) -> Finding {
    match &model.estimate {
        _ if lacks_agents(model) => unknown("Fits"),
        Some(_) => {
            Finding::new("Fits", Truth::True, "Placed", "every replica has a node with room")
        }
        None => Finding::new(
            "Fits",
            Truth::Unknown,
            "NotInspected",
            "no agent has read the header of the file yet",
        ),
    }
}

/// Fetched when an agent has the whole file and none is fetching it.
fn fetched(model: &ModelStanding) -> Finding {
    if let Some((node, Failure { reason, message })) = failure(model)
        && model.facts.is_none()
    {
        return Finding::new("Fetched", Truth::False, reason, format!("{node}: {message}"));
    }
    let fetching = model.nodes.iter().filter_map(|(node, on_node)| match on_node.phase {
        ModelPhase::Fetching { bytes_done, bytes_total } => Some((node, bytes_done, bytes_total)),
        _ => None,
    });
    let total = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |b| b.to_string());
    let mut fetching: Vec<String> =
        fetching.map(|(node, done, of)| format!("{node}: {done} of {} bytes", total(of))).collect();
    if let Some(more) = fetching.len().checked_sub(FETCHING_NAMED_MAX).filter(|more| *more > 0) {
        fetching.truncate(FETCHING_NAMED_MAX);
        fetching.push(format!("and {more} more"));
    }
    let has_file = |node: &&ModelOnNode| node.stage >= Some(Stage::Prefetch);
    let have = model.nodes.values().filter(has_file).count();
    if !fetching.is_empty() {
        Finding::new("Fetched", Truth::False, "Fetching", fetching.join("; "))
    } else if have > 0 {
        let message = format!("the file is on {}", counted(have, "node"));
        Finding::new("Fetched", Truth::True, "Fetched", message)
    } else if let Some((node, Failure { reason, message })) = failure(model) {
        // Its header has been read; whether the rest came is not said.
        Finding::new("Fetched", Truth::Unknown, reason, format!("{node}: {message}"))
    } else if lacks_agents(model) {
        unknown("Fetched")
    } else {
        Finding::new("Fetched", Truth::Unknown, "NotStarted", "no agent fetches the file yet")
    }
}

fn verified(model: &ModelStanding) -> Finding {
    let mismatch = failure(model).filter(|(_, failure)| failure.reason == "DigestMismatch");
    if let Some((node, Failure { reason, message })) = mismatch {
        return Finding::new("Verified", Truth::False, reason, format!("{node}: {message}"));
    }
    let sha256 = model.facts.as_ref().and_then(|facts| facts.sha256);
    match (sha256, model.claimed.zip(model.estimate)) {
        (Some(sha256), Some((claimed, found))) => {
            let message = format!(
                "sha256 {sha256}; the header that a source sent ahead of it was of another file: \
                 {} bytes of weights, {} for a KV block and {} to compute in, not {}, {} and {}",
                claimed.weights_bytes,
                claimed.kv_bytes_per_block,
                claimed.activation_bytes,
                found.weights_bytes,
                found.kv_bytes_per_block,
                found.activation_bytes
            );
            Finding::new("Verified", Truth::True, "HeaderDiffered", message)
        }
        (Some(sha256), None) => {
            Finding::new("Verified", Truth::True, "DigestMatches", format!("sha256 {sha256}"))
        }
        (None, _) if lacks_agents(model) => unknown("Verified"),
        (None, _) => {
            Finding::new("Verified", Truth::Unknown, "NotRead", "no agent has the file yet")
        }
    }
}

/// Loaded when as many agents as are wanted serve it in its newest form.
fn loaded(model: &ModelStanding) -> Finding {
    let newest = |node: &&ModelOnNode| {
        node.stage == Some(Stage::Load) && matches!(node.phase, ModelPhase::Ready)
    };
    let newest = model.nodes.values().filter(newest).count();
    let (newest, wanted) = (u32::try_from(newest).unwrap_or(u32::MAX), model.replicas);
    let message = format!("{newest} of {wanted} agents have loaded it");
    if let Some((node, Failure { reason, message: why })) = failure(model) {
        let message = format!("{message}; {node}: {why}");
        return Finding::new("Loaded", Truth::False, reason, message);
    }
    if newest >= wanted {
        let reason = if wanted == 0 { "NoneWanted" } else { "Loaded" };
        Finding::new("Loaded", Truth::True, reason, message)
    } else {
        Finding::new("Loaded", Truth::False, "Loading", message)
    }
}

fn ready(model: &ModelStanding, fits: &Finding) -> Finding {
    let (serving, wanted) = (serving(model), model.replicas);
    if lacks_agents(model) {
        return Finding::new("Ready", Truth::False, NO_AGENTS, NO_AGENT_IS_CONNECTED);
    }
    if wanted == 0 {
        return Finding::new("Ready", Truth::True, "ScaledToZero", "no agent is wanted to load it");
    }
    let message = format!("{serving} of {wanted} agents serve it");
    if serving > 0 {
        return Finding::new("Ready", Truth::True, "Serving", message);
    }
    if fits.status == Truth::False {
        return Finding::new("Ready", Truth::False, fits.reason.clone(), fits.message.clone());
    }
    match failure(model) {
        Some((node, Failure { reason, message })) => {
            Finding::new("Ready", Truth::False, reason, format!("{node}: {message}"))
        }
        None => Finding::new("Ready", Truth::False, "Loading", message),
    }
}

/// One of the failures, with its node.
fn failure(model: &ModelStanding) -> Option<(&String, &Failure)> {
    model.nodes.iter().find_map(|(node, on_node)| match &on_node.phase {
        ModelPhase::Failed(failure) => Some((node, failure)),
        _ => None,
    })
}

fn node(name: &str, on_node: &ModelOnNode) -> ModelNode {
    let (state, progress, failure) = match &on_node.phase {
        ModelPhase::Pending => (ModelNodeState::Pending, None, None),
        ModelPhase::Fetching { bytes_done, bytes_total } => {
            (ModelNodeState::Fetching, Some((*bytes_done, *bytes_total)), None)
        }
        ModelPhase::Loading => (ModelNodeState::Loading, None, None),
        ModelPhase::Ready if on_node.stage == Some(Stage::Load) => {
            (ModelNodeState::Ready, None, None)
        }
        ModelPhase::Ready if on_node.stage == Some(Stage::Inspect) => {
            (ModelNodeState::Inspected, None, None)
        }
        ModelPhase::Ready => (ModelNodeState::Fetched, None, None),
        ModelPhase::Failed(failure) => (ModelNodeState::Failed, None, Some(failure)),
    };
    ModelNode {
        name: name.to_owned(),
        state,
        bytes_done: progress.map(|(done, _)| done),
        bytes_total: progress.and_then(|(_, total)| total),
        reason: failure.map(|failure| failure.reason.clone()),
        message: failure.map(|failure| failure.message.clone()),
    }
}

#[cfg(test)]
mod tests;
