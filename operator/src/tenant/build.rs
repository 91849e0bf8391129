//! The status of a tenant, from what the fleet says of it. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_crds::{Tenant, TenantStatus};
use realm_plan::{Problem, Reason, counted, shares::Applied};
use realm_proto::link::versions::Versions;

use super::{promptly, within};
use crate::{
    fleet::standing::{Standing, Standings, Tally, TenantStanding},
    link::report::Failure,
    status::conditions::{
        Finding, KEYS_EXPIRED, MODEL_NOT_SERVED, NO_AGENT_IS_CONNECTED, NO_AGENTS, NO_DOOR,
        NO_KEYS, PREPARING, Truth, conditions, held_back, models_missing, progress,
    },
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
    let before = before.unwrap_or_default();
    let findings = findings(of_tenant, standing, before);
    let findings = held_back(findings, standing.refused.as_ref());
    TenantStatus {
        observed_generation: Some(standing.generation),
        conditions: conditions(findings, before, standing.generation, now),
        keys: of_tenant.keys,
        program_sha256: of_tenant.program.map(|digest| digest.to_string()),
        totals: of_tenant.totals.as_deref().cloned(),
    }
}

/// What holds of a tenant, condition by condition, where these were its conditions `before`.
pub(crate) fn findings(
    tenant: &TenantStanding,
    standing: &Standing,
    before: &[Condition],
) -> Vec<Finding> {
    let Standing { problems, is_answered, is_young, .. } = standing;
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
    let granted = Finding::problems("ModelsGranted", &of(&OF_MODELS)).unwrap_or_else(|| {
        Finding::new("ModelsGranted", Truth::True, "Granted", "every model is granted")
    });
    let program = program(tenant, *is_answered);
    let models = models(tenant);
    let limits = limits(tenant);
    let is_wrong = invalid.is_some()
        || granted.status == Truth::False
        || (keys.status == Truth::False && !lacks_keys(&keys))
        || tenant.tally.failed > 0;
    let parts = [&granted, &keys, &program, &models, &limits];
    let ready = invalid.unwrap_or_else(|| ready(parts, tenant.is_suspended));
    // What may yet come to a young one.
    let is_late = match &*ready.reason {
        NO_KEYS | KEYS_EXPIRED | NO_AGENTS | NO_DOOR => true,
        MODEL_NOT_SERVED => !tenant.is_model_coming,
        _ => false,
    };
    let is_stuck = is_wrong || (is_late && !*is_young);
    let progress = progress(&ready, is_stuck);
    let mut findings = vec![keys, granted, program, models, limits];
    findings.extend(within::finding(tenant, before));
    findings.extend(promptly::finding(tenant, before));
    findings.push(ready);
    findings.extend(progress);
    findings
}

fn keys(tenant: &TenantStanding, problems: &[&Problem]) -> Finding {
    if let Some(finding) = Finding::problems("KeysValid", problems) {
        return finding;
    }
    if tenant.keys == 0 {
        let message = "nobody can call: the Secrets of spec.apiKeys hold no key that is not \
                       disabled; `realm api-key create` makes one";
        return Finding::new("KeysValid", Truth::False, NO_KEYS, message);
    }
    let open = tenant.keys.saturating_sub(tenant.keys_expired);
    if open == 0 {
        let expired = counted(tenant.keys_expired, "key");
        let message = format!(
            "nobody can call: of the Secrets of spec.apiKeys, {expired} expired and none opens a \
             door; `realm api-key create` makes one"
        );
        return Finding::new("KeysValid", Truth::False, KEYS_EXPIRED, message);
    }
    let message = format!("the doors open to {}", counted(open, "key"));
    Finding::new("KeysValid", Truth::True, "Valid", message)
}

/// Whether nothing is wrong with the keys but that there is none to call by.
fn lacks_keys(keys: &Finding) -> bool {
    [NO_KEYS, KEYS_EXPIRED].contains(&&*keys.reason)
}

/// Whether a node had the tenant when this was written.
pub(super) fn was_held(status: Option<&TenantStatus>) -> bool {
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let mut of_program = conditions.filter(|condition| condition.type_ == "ProgramReady");
    of_program.any(|condition| condition.reason != NO_AGENTS)
}

fn program(tenant: &TenantStanding, is_answered: bool) -> Finding {
    let TenantStanding { doors, tally, hosts, unspoken, .. } = tenant;
    let Tally { ready, pending, failed, failure } = tally;
    // What such an agent serves is its own ledger, whatever became of the tenant since.
    let unspoken = unspoken.as_ref().map_or_else(String::new, |(node, said)| {
        let ours = Versions::OURS;
        format!("; the agent of {node} speaks the link's version {said} and this operator {ours}")
    });
    if let Some((node, Failure { reason, message })) = failure {
        let nodes = counted(*failed, "node");
        let message = format!("on {nodes}; {node}: {message}{unspoken}");
        return Finding::new("ProgramReady", Truth::False, reason.clone(), message);
    }
    let nodes = format!("on {ready} of {} nodes", ready.saturating_add(*pending));
    let message = format!("{nodes}{unspoken}");
    match (*ready, *pending) {
        (0, 0) if doors.is_none() => {
            let message = format!("{NO_AGENT_IS_CONNECTED}{unspoken}");
            Finding::new("ProgramReady", Truth::Unknown, NO_AGENTS, message)
        }
        (0, 0) if !is_answered => {
            let message = format!("no agent has answered yet{unspoken}");
            Finding::new("ProgramReady", Truth::False, PREPARING, message)
        }
        (0, 0) => {
            let message =
                format!("no agent is a door, and none is to load one of its models{unspoken}");
            Finding::new("ProgramReady", Truth::Unknown, NO_AGENTS, message)
        }
        (_, 0) if *hosts == 0 => {
            let handed_on = "to hand its calls on: none loads one of its models";
            let message = format!("{nodes}, {handed_on}{unspoken}");
            Finding::new("ProgramReady", Truth::True, "Ready", message)
        }
        (_, 0) => Finding::new("ProgramReady", Truth::True, "Ready", message),
        _ => Finding::new("ProgramReady", Truth::False, PREPARING, message),
    }
}

/// One model is enough: a tenant may ask for more than it calls.
fn models(tenant: &TenantStanding) -> Finding {
    if tenant.models_missing.is_empty() {
        let message = "one of its models at least takes calls, or it asks for none";
        return Finding::new("ModelsReady", Truth::True, "Serving", message);
    }
    models_missing(&tenant.models_missing)
}

fn limits(tenant: &TenantStanding) -> Finding {
    let nobody = |reason: &str| {
        let message = "there is no door to enforce them";
        Finding::new("LimitsApplied", Truth::Unknown, reason, message)
    };
    let doors = match tenant.doors {
        None => return nobody(NO_AGENTS),
        Some(0) => return nobody(NO_DOOR),
        Some(doors) => doors,
    };
    let (reason, message) = match (&tenant.applied.largest, doors) {
        (Some((node, hundredths)), _) => {
            ("Sliced", sliced(&tenant.applied, doors, node, *hundredths))
        }
        (None, 1) => ("Whole", "one door enforces the limits whole".to_owned()),
        (None, _) => {
            let message = format!("each of {doors} doors holds one part in {doors}, rounded up");
            ("SharedByDoors", message)
        }
    };
    Finding::new("LimitsApplied", Truth::True, reason, message)
}

/// Who has which part of limits that follow use.
fn sliced(applied: &Applied, doors: u32, largest: &str, hundredths: u32) -> String {
    let Applied { sliced, largest: _, older } = applied;
    let sliced = counted(*sliced, "door");
    let older = if *older == 0 {
        String::new()
    } else {
        let older = counted(*older, "door");
        format!("; {older} of an older release, one part in {doors} each")
    };
    format!("{sliced} with slices by use, the largest that of {largest}, {hundredths} %{older}")
}

/// Ready when all of its parts are; else what the first that is not says. A tenant that somebody
/// has suspended is as it should be, and says so: it needs no key until it is resumed.
fn ready(parts: [&Finding; 5], is_suspended: bool) -> Finding {
    let is_in_order = |part: &Finding| part.is_true() || (is_suspended && lacks_keys(part));
    match parts.into_iter().find(|part| !is_in_order(part)) {
        Some(Finding { status, reason, message, .. }) => {
            Finding::new("Ready", *status, reason.clone(), message.clone())
        }
        None if is_suspended => {
            let message = "calls are refused for as long as spec.suspended is true";
            Finding::new("Ready", Truth::True, "Suspended", message)
        }
        None => Finding::new("Ready", Truth::True, "Serving", "calls are served"),
    }
}

#[cfg(test)]
mod tests;
