//! The status of a pipeline, from what the fleet says of it. Pure.

use jiff::Timestamp;
use realm_crds::{Pipeline, PipelineStatus};
use realm_plan::{Problem, counted};

use crate::{
    fleet::standing::{PipelineStanding, Standing, Standings, Tally},
    link::report::Failure,
    status::conditions::{
        Finding, PREPARING, Truth, conditions, held_back, models_missing, progress,
    },
};

pub(super) fn status(pipeline: &Pipeline, standing: &Standing, now: Timestamp) -> PipelineStatus {
    let Standings::Pipeline(of_pipeline) = &standing.nodes else {
        return PipelineStatus::default();
    };
    let before = pipeline.status.as_ref().map(|status| status.conditions.as_slice());
    let findings = findings(of_pipeline, &standing.problems, standing.is_young);
    let findings = held_back(findings, standing.refused.as_ref());
    PipelineStatus {
        observed_generation: Some(standing.generation),
        conditions: conditions(findings, before.unwrap_or_default(), standing.generation, now),
    }
}

/// What holds of a pipeline, condition by condition.
pub(crate) fn findings(
    pipeline: &PipelineStanding,
    problems: &[Problem],
    is_young: bool,
) -> Vec<Finding> {
    let problems: Vec<_> = problems.iter().collect();
    let valid = Finding::problems("Valid", &problems)
        .unwrap_or_else(|| Finding::new("Valid", Truth::True, "Valid", "every reference resolves"));
    let models = models(pipeline);
    let is_late = !models.is_true() && !pipeline.are_models_coming && !is_young;
    let is_stuck = !valid.is_true() || pipeline.tally.failed > 0 || is_late;
    let ready = match [&valid, &models].into_iter().find(|part| !part.is_true()) {
        Some(part) => Finding::new("Ready", part.status, part.reason.clone(), part.message.clone()),
        None => ready(&pipeline.tally),
    };
    let progress = progress(&ready, is_stuck);
    let mut findings = vec![valid, models, ready];
    findings.extend(progress);
    findings
}

/// What the nodes say of a pipeline with which nothing else is wrong, so that agents serve its
/// models.
fn ready(tally: &Tally) -> Finding {
    let Tally { ready, pending, failed, failure } = tally;
    if let Some((node, Failure { reason, message })) = failure {
        let message = format!("on {}; {node}: {message}", counted(*failed, "node"));
        return Finding::new("Ready", Truth::False, reason.clone(), message);
    }
    match (*ready, *pending) {
        (0, 0) => Finding::new("Ready", Truth::False, PREPARING, "no agent has it yet"),
        (_, 0) => Finding::new("Ready", Truth::True, "Serving", "calls are served"),
        (ready, pending) => {
            let message = format!("on {ready} of {} nodes", ready.saturating_add(pending));
            Finding::new("Ready", Truth::False, PREPARING, message)
        }
    }
}

fn models(pipeline: &PipelineStanding) -> Finding {
    if pipeline.models_missing.is_empty() {
        let message = "every model is served, or a call wakes it";
        return Finding::new("ModelsReady", Truth::True, "Serving", message);
    }
    models_missing(&pipeline.models_missing)
}

#[cfg(test)]
mod tests;
