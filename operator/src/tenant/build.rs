//! The status of a tenant, from what the fleet says of it. Pure.

use jiff::Timestamp;
use realm_crds::{Tenant, TenantStatus};
use realm_plan::{Problem, Reason};
use realm_proto::link::versions::Versions;

use crate::{
    fleet::standing::{Standing, Standings, Tally, TenantStanding},
    link::report::Failure,
    status::conditions::{Finding, NO_AGENTS, PREPARING, Truth, conditions, held_back, progress},
};

/// Reasons that `KeysValid` tells of.
const OF_KEYS: [Reason; 5] = [
    Reason::UnknownSecret,
    Reason::SecretNotReadable,
    Reason::SecretTooLarge,
    Reason::InvalidKey,
    Reason::KeyNotUnique,
];

/// Reasons that `ModelsGranted` tells of.
const OF_MODELS: [Reason; 2] = [Reason::UnknownModel, Reason::ModelNotShared];

pub(super) fn status(tenant: &Tenant, standing: &Standing, now: Timestamp) -> TenantStatus {
    let Standings::Tenant(of_tenant) = &standing.nodes else { return TenantStatus::default() };
    let before = tenant.status.as_ref().map(|status| status.conditions.as_slice());
    let findings = findings(of_tenant, &standing.problems, standing.is_answered);
    let findings = held_back(findings, standing.refused.as_ref());
    TenantStatus {
        observed_generation: Some(standing.generation),
        conditions: conditions(findings, before.unwrap_or_default(), standing.generation, now),
        keys: of_tenant.keys,
        program_sha256: of_tenant.program.map(|digest| digest.to_string()),
    }
}

/// What holds of a tenant, condition by condition.
pub(crate) fn findings(
    tenant: &TenantStanding,
    problems: &[Problem],
    is_answered: bool,
) -> Vec<Finding> {
    let of = |reasons: &[Reason]| -> Vec<&Problem> {
        problems.iter().filter(|problem| reasons.contains(&problem.reason)).collect()
    };
    let others: Vec<_> = problems
        .iter()
        .filter(|problem| {
            !OF_KEYS.contains(&problem.reason) && !OF_MODELS.contains(&problem.reason)
        })
        .collect();
    let invalid = Finding::problems("Ready", &others);
    let keys = keys(tenant, &of(&OF_KEYS));
    let models = Finding::problems("ModelsGranted", &of(&OF_MODELS))
        .unwrap_or_else(|| Finding::new("ModelsGranted", Truth::True, "Granted", "every model is"));
    let program = program(tenant, is_answered);
    let is_stuck = invalid.is_some()
        || [&keys, &models].iter().any(|f| f.status == Truth::False)
        || tenant.tally.failed > 0;
    let ready = invalid.unwrap_or_else(|| ready([&keys, &models, &program]));
    let progress = progress(&ready, is_stuck);
    let mut findings = vec![keys, models, program, limits(tenant), ready];
    findings.extend(progress);
    findings
}

fn keys(tenant: &TenantStanding, problems: &[&Problem]) -> Finding {
    Finding::problems("KeysValid", problems).unwrap_or_else(|| {
        let message = format!("{} keys open the doors", tenant.keys);
        Finding::new("KeysValid", Truth::True, "Valid", message)
    })
}

/// Whether a node had the tenant when this was written.
pub(super) fn was_held(status: Option<&TenantStatus>) -> bool {
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let mut of_program = conditions.filter(|condition| condition.type_ == "ProgramReady");
    of_program.any(|condition| condition.reason != NO_AGENTS)
}

fn program(tenant: &TenantStanding, is_answered: bool) -> Finding {
    let TenantStanding { keys: _, doors: _, tally, program: _, unspoken } = tenant;
    let Tally { ready, pending, failed, failure } = tally;
    // What such an agent serves is its own ledger, whatever became of the tenant since.
    let unspoken = unspoken.as_ref().map_or_else(String::new, |(node, said)| {
        let ours = Versions::OURS;
        format!("; the agent of {node} speaks the link's version {said} and this operator {ours}")
    });
    if let Some((node, Failure { reason, message })) = failure {
        let message = format!("on {failed} nodes; {node}: {message}{unspoken}");
        return Finding::new("ProgramReady", Truth::False, reason.clone(), message);
    }
    let message = format!("on {ready} of {} nodes{unspoken}", ready.saturating_add(*pending));
    match (*ready, *pending) {
        (0, 0) if !is_answered => {
            let message = format!("no agent has answered yet{unspoken}");
            Finding::new("ProgramReady", Truth::False, PREPARING, message)
        }
        (0, 0) => {
            let message = format!("no agent is connected{unspoken}");
            Finding::new("ProgramReady", Truth::Unknown, NO_AGENTS, message)
        }
        (_, 0) => Finding::new("ProgramReady", Truth::True, "Ready", message),
        _ => Finding::new("ProgramReady", Truth::False, PREPARING, message),
    }
}

fn limits(tenant: &TenantStanding) -> Finding {
    let doors = tenant.doors;
    let message = match doors {
        0 | 1 => "one door enforces the limits whole".to_owned(),
        _ => format!("each of {doors} doors enforces one part in {doors}, rounded up"),
    };
    let reason = if doors > 1 { "SharedByDoors" } else { "Whole" };
    Finding::new("LimitsApplied", Truth::True, reason, message)
}

/// Ready when all of its parts are; else what the first that is not says.
fn ready(parts: [&Finding; 3]) -> Finding {
    match parts.into_iter().find(|part| !part.is_true()) {
        Some(Finding { status, reason, message, .. }) => {
            Finding::new("Ready", *status, reason.clone(), message.clone())
        }
        None => Finding::new("Ready", Truth::True, "Serving", "calls are served"),
    }
}

#[cfg(test)]
mod tests;
