//! How objects stand: how many have which condition, and which models are served.

use std::collections::BTreeMap;

use realm_plan::Kind;

use super::scene::{Family, Row};
use crate::{
    fleet::standing::{Snapshot, Standing, Standings},
    model, pipeline,
    status::conditions::{Finding, OF_USE, SERVED_PROMPTLY, Truth, WITHIN_LIMITS},
    tenant,
};

static OBJECTS: Family = Family::gauge(
    "realm_operator_objects",
    "Objects by the status of each of their conditions.",
    &["kind", "condition", "status"],
);
static MODEL_READY: Family =
    Family::gauge("realm_operator_model_ready", "Whether the model is Ready, 0 or 1.", &["model"]);
static MODEL_WANTED: Family = Family::gauge(
    "realm_operator_model_replicas_wanted",
    "Agents that should load the model, by the last plan.",
    &["model"],
);
static MODEL_SERVING: Family = Family::gauge(
    "realm_operator_model_replicas_serving",
    "Agents that serve the model.",
    &["model"],
);

pub(super) static FAMILIES: [&Family; 4] = [&OBJECTS, &MODEL_READY, &MODEL_WANTED, &MODEL_SERVING];

/// The conditions of each kind. All are told, so that a count which falls to nothing is a zero and
/// no gap.
const CONDITIONS: [(Kind, &[&str]); 3] = [
    (Kind::Model, &["Fetched", "Verified", "Fits", "Loaded", "Ready", "Reconciling", "Stalled"]),
    (
        Kind::Tenant,
        &[
            "KeysValid",
            "ModelsGranted",
            "ProgramReady",
            "ModelsReady",
            "LimitsApplied",
            WITHIN_LIMITS,
            SERVED_PROMPTLY,
            "Ready",
            "Reconciling",
            "Stalled",
        ],
    ),
    (Kind::Pipeline, &["Valid", "ModelsReady", "Ready", "Reconciling", "Stalled"]),
];

type Counts = BTreeMap<(Kind, &'static str, &'static str), u32>;

pub(super) fn rows(snapshot: &Snapshot, rows: &mut Vec<Row>) {
    let mut counts = zeros();
    for (kind, name, standing) in snapshot.standings() {
        let findings = findings(standing);
        if let Standings::Model(of_model) = &standing.nodes {
            let is_ready = findings.iter().any(|f| f.type_ == "Ready" && f.is_true());
            let mut tell =
                |family, value: f64| rows.push(Row::new(family, [name.to_string()], value));
            tell(&MODEL_READY, f64::from(u8::from(is_ready)));
            tell(&MODEL_WANTED, of_model.replicas.into());
            tell(&MODEL_SERVING, model::serving(of_model).into());
        }
        for finding in findings {
            *counts.entry((kind, finding.type_, finding.status.as_str())).or_default() += 1;
        }
    }
    for ((kind, condition, status), count) in counts {
        let labels = [kind.as_str(), condition, status].map(str::to_owned);
        rows.push(Row::new(&OBJECTS, labels, count.into()));
    }
}

fn zeros() -> Counts {
    let mut counts = Counts::new();
    for (kind, conditions) in CONDITIONS {
        for condition in conditions {
            for status in [Truth::True, Truth::False, Truth::Unknown] {
                counts.insert((kind, condition, status.as_str()), 0);
            }
        }
    }
    counts
}

/// What the status of the object says.
fn findings(standing: &Standing) -> Vec<Finding> {
    let Standing { problems, is_young, .. } = standing;
    match &standing.nodes {
        Standings::Model(of_model) => model::findings(of_model, problems, *is_young),
        Standings::Tenant(of_tenant) => {
            let mut findings = tenant::findings(of_tenant, standing, &[]);
            for type_ in OF_USE {
                // A new leader does not know it yet; statuses say what the last one left there.
                if findings.iter().all(|finding| finding.type_ != type_) {
                    findings.push(Finding::new(type_, Truth::Unknown, "", ""));
                }
            }
            findings
        }
        Standings::Pipeline(of_pipeline) => pipeline::findings(of_pipeline, problems, *is_young),
        Standings::Secret => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::standing::TenantStanding;

    #[test]
    fn what_a_new_leader_does_not_know_of_tenants_is_counted_as_unknown() {
        let standing = Standing {
            generation: 1,
            is_answered: true,
            is_young: false,
            refused: None,
            problems: Vec::new(),
            nodes: Standings::Tenant(TenantStanding { doors: Some(1), ..<_>::default() }),
        };
        let mut told = Vec::new();
        for finding in findings(&standing) {
            if OF_USE.contains(&finding.type_) {
                told.push((finding.type_, finding.status));
            }
        }
        assert_eq!(told, OF_USE.map(|type_| (type_, Truth::Unknown)));
    }

    #[test]
    fn a_count_that_is_nothing_is_told_as_zero() {
        let mut told = Vec::new();
        rows(&Snapshot::default(), &mut told);
        assert_eq!(told.len(), (7 + 10 + 5) * 3);
    }
}
