//! Why a model has fewer replicas than it should have.

use std::collections::BTreeMap;

use super::{
    Problems,
    estimate::Bytes,
    node::admitted,
    place::{Board, Placement, Scene, Seats, may_stay, wanted},
};
use crate::{
    desired::Accelerator,
    name::{Kind, Name},
    problem::{Problem, Reason},
    validate::ValidModel,
    words::counted,
};

/// What keeps models from having all their replicas, each with its numbers.
pub(super) fn shortages(scene: Scene<'_>, placement: &Placement) -> Problems {
    let nothing = Seats::new();
    let mut problems = Problems::new();
    let mut board = None;
    for (name, model) in scene.placed() {
        let seats = placement.get(name).unwrap_or(&nothing);
        let staying = seats.keys().filter(|node| may_stay(scene, model, node)).count();
        if wanted(scene, name) <= staying {
            continue;
        }
        let board = board.get_or_insert_with(|| Board::new(scene, placement));
        if let Some(problem) = why(scene, board, model, seats) {
            problems.insert((Kind::Model, name.clone()), vec![problem]);
        }
    }
    for (adapter, base) in scene.adapters() {
        let of_base = problems.get(&(Kind::Model, base.clone()));
        let problem = of_base.map_or_else(
            || crowded_out(scene, placement, (adapter, base)).into_iter().collect(),
            |of_base| beside(base, of_base),
        );
        if !problem.is_empty() {
            problems.insert((Kind::Model, adapter.clone()), problem);
        }
    }
    problems
}

/// What an adapter lacks because its model does.
fn beside(base: &Name, of_base: &[Problem]) -> Vec<Problem> {
    let of_adapter = of_base.iter().map(|Problem { path: _, reason, message }| {
        problem("spec.adapterOf", *reason, format!("its model `{base}`: {message}"))
    });
    of_adapter.collect()
}

/// An adapter that has no room on a node that its model is on.
fn crowded_out(
    scene: Scene<'_>,
    placement: &Placement,
    (adapter, base): (&Name, &Name),
) -> Option<Problem> {
    let estimate = scene.studies.get(adapter)?.estimate?;
    let (own, of) = (placement.get(adapter), scene.models.get(base)?);
    let is_there = |node: &String| own.is_some_and(|seats| seats.contains_key(node));
    let mut seats = placement.get(base).into_iter().flat_map(BTreeMap::keys);
    let node = seats.find(|node| !is_there(node) && may_stay(scene, of, node))?;
    let needed = Bytes(estimate.bytes(0));
    let message = format!(
        "it needs {needed} beside `{base}`, which node {node} has not left; fewer kvBlocks of that \
         model leave more"
    );
    Some(problem("spec", Reason::DoesNotFit, message))
}

/// `None` while the model is being inspected, and before there is any node: it is on its way, not in
/// trouble.
fn why(scene: Scene<'_>, board: &Board<'_>, model: &ValidModel, seats: &Seats) -> Option<Problem> {
    let wanted = wanted(scene, model.name());
    let admit = scene.nodes.iter().filter(|(name, node)| match &node.supply {
        Some(supply) => admitted(model, supply).is_some(),
        None => seats.contains_key(*name),
    });
    let could = |(name, node): &(&String, &super::Node)| {
        node.serving().is_some() || seats.contains_key(*name)
    };
    let (total, admitting) = (scene.nodes.len(), admit.clone().count());
    let usable = admit.filter(could).count();
    if total == 0 {
        return None;
    }
    if admitting == 0 {
        let message = format!("no node of {total} has {}", asked(model));
        return Some(problem("spec.placement", Reason::NoNodeAdmits, message));
    }
    if usable < wanted {
        let message = format!("{}, {}", counted(wanted, "replica"), counted(usable, "node"));
        return Some(problem("spec.replicas", Reason::NotEnoughNodes, message));
    }
    let estimate = scene.studies.get(model.name()).and_then(|study| study.estimate)?;
    let (free, node) = board.roomiest(model, seats)?;
    let needed = estimate.explain(estimate.kv_blocks_min(model));
    let message =
        format!("a replica needs {needed}; the largest free is {} on node {node}", Bytes(free));
    Some(problem("spec", Reason::DoesNotFit, message))
}

fn problem(path: &str, reason: Reason, message: String) -> Problem {
    Problem { path: path.to_owned(), reason, message }
}

/// What a model asks of a node, for people.
fn asked(model: &ValidModel) -> String {
    let accelerator = match model.accelerator {
        Accelerator::Any => "anything that computes",
        Accelerator::Cpu => "the accelerator Cpu",
        Accelerator::Cuda => "the accelerator Cuda",
        Accelerator::WebGpu => "the accelerator WebGpu",
    };
    let labels = model.node_selector.iter().map(|(name, value)| format!("{name}={value}"));
    match labels.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => accelerator.to_owned(),
        labels => format!("{accelerator} and the labels {labels}"),
    }
}
