//! What the node holds of what it should hold, by its own report.

use realm_core::report::{ModelPhase, Phase, Report};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};
use tokio::sync::watch;

/// What a report says, as samples of one family.
type Read = fn(&Report) -> Vec<Sample>;

const FAMILIES: [(&str, &str, &[&str], Read); 7] = [
    (
        "realm_agent_generation",
        "The generation of the state that the node makes true.",
        &[],
        |report| vec![Sample::new([], report.generation as f64)],
    ),
    (
        "realm_agent_model_state",
        "1 for the state that a desired model of this node is in, and 0 for the others.",
        &["model", "state"],
        model_states,
    ),
    (
        "realm_agent_model_failed",
        "1 for each model whose newest form does not work here, by the reason.",
        &["model", "reason"],
        failed_models,
    ),
    (
        "realm_agent_model_fetched_bytes",
        "Bytes of a model's file that are here, while it is fetched.",
        &["model"],
        fetched,
    ),
    ("realm_agent_tenants", "Tenants of this node by how far they are.", &["state"], |report| {
        count(report.tenants.iter().map(|tenant| &tenant.phase))
    }),
    (
        "realm_agent_tenant_failed",
        "1 for each tenant whose newest form does not work here, by the reason.",
        &["tenant", "reason"],
        failed_tenants,
    ),
    (
        "realm_agent_pipelines",
        "Pipelines of this node by how far they are.",
        &["state"],
        |report| count(report.pipelines.iter().map(|pipeline| &pipeline.phase)),
    ),
];

/// The states of a model; a report names one of them.
const MODEL_STATES: [&str; 5] = ["pending", "fetching", "loading", "ready", "failed"];

/// The states of tenants and pipelines.
const STATES: [&str; 3] = ["pending", "ready", "failed"];

/// Lets Prometheus see how far the node is with everything it should hold.
pub(crate) fn register(
    report: &watch::Receiver<Report>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    for (name, help, labels, read) in FAMILIES {
        let report = report.clone();
        let family = Family { name, help, kind: FamilyKind::Gauge, labels };
        metrics.register(family, move || read(&report.borrow()))?;
    }
    Ok(())
}

fn model_states(report: &Report) -> Vec<Sample> {
    let mut samples = Vec::new();
    for model in &report.models {
        let now = match model.phase {
            ModelPhase::Pending => "pending",
            ModelPhase::Fetching { .. } => "fetching",
            ModelPhase::Loading => "loading",
            ModelPhase::Ready => "ready",
            ModelPhase::Failed(_) => "failed",
        };
        samples.extend(MODEL_STATES.map(|state| {
            let is_now = f64::from(u8::from(state == now));
            Sample::new([model.name.to_string(), state.to_owned()], is_now)
        }));
    }
    samples
}

fn fetched(report: &Report) -> Vec<Sample> {
    let fetching = report.models.iter().filter_map(|model| match model.phase {
        ModelPhase::Fetching { bytes_done, .. } => {
            Some(Sample::new([model.name.to_string()], bytes_done as f64))
        }
        _ => None,
    });
    fetching.collect()
}

fn failed_models(report: &Report) -> Vec<Sample> {
    let failed = report.models.iter().filter_map(|model| match &model.phase {
        ModelPhase::Failed(failure) => {
            Some(Sample::new([model.name.to_string(), failure.reason.to_owned()], 1.0))
        }
        _ => None,
    });
    failed.collect()
}

fn failed_tenants(report: &Report) -> Vec<Sample> {
    let failed = report.tenants.iter().filter_map(|tenant| match &tenant.phase {
        Phase::Failed(failure) => {
            Some(Sample::new([tenant.name.to_string(), failure.reason.to_owned()], 1.0))
        }
        Phase::Pending | Phase::Ready => None,
    });
    failed.collect()
}

fn count<'a>(phases: impl Iterator<Item = &'a Phase>) -> Vec<Sample> {
    let mut counts = [0_u32; STATES.len()];
    for phase in phases {
        let [pending, ready, failed] = &mut counts;
        *match phase {
            Phase::Pending => pending,
            Phase::Ready => ready,
            Phase::Failed(_) => failed,
        } += 1;
    }
    let samples = STATES.into_iter().zip(counts);
    samples.map(|(state, count)| Sample::new([state.to_owned()], f64::from(count))).collect()
}

#[cfg(test)]
mod tests {
    use realm_core::{
        name::{ModelName, TenantName},
        report::{Failure, ModelReport, TenantReport},
    };

    use super::*;

    #[test]
    fn a_model_is_in_one_of_its_states_and_what_is_counted_is_counted_from_zero() {
        let name = ModelName::parse("default/tiny").unwrap();
        let phase = ModelPhase::Fetching { bytes_done: 7, bytes_total: None };
        let model = ModelReport { name, phase, stage: None, kv_blocks: None, facts: None };
        let name = TenantName::parse("default/acme").unwrap();
        let tenant = TenantReport { name, phase: Phase::Ready, program: None };
        let report =
            Report { generation: 3, models: vec![model], tenants: vec![tenant], pipelines: vec![] };
        let labels = |state: &str| ["default/tiny".to_owned(), state.to_owned()];
        let states = MODEL_STATES
            .map(|state| Sample::new(labels(state), f64::from(u8::from(state == "fetching"))));
        assert_eq!(model_states(&report), states);
        assert_eq!(fetched(&report), [Sample::new(["default/tiny".to_owned()], 7.0)]);
        assert_eq!(failed_tenants(&report), []);
        assert_eq!(failed_models(&report), []);
        let counts = [("pending", 0.0), ("ready", 1.0), ("failed", 0.0)];
        let counts = counts.map(|(state, count)| Sample::new([state.to_owned()], count));
        assert_eq!(count(report.tenants.iter().map(|tenant| &tenant.phase)), counts);
    }

    #[test]
    fn a_model_that_fails_is_told_with_its_reason() {
        let name = ModelName::parse("default/tiny").unwrap();
        let failure = Failure { reason: "SourceNotFound", message: "why".to_owned() };
        let phase = ModelPhase::Failed(failure);
        let model = ModelReport { name, phase, stage: None, kv_blocks: None, facts: None };
        let report = Report { models: vec![model], ..Report::default() };
        let labels = ["default/tiny".to_owned(), "SourceNotFound".to_owned()];
        assert_eq!(failed_models(&report), [Sample::new(labels, 1.0)]);
    }

    #[test]
    fn a_tenant_that_fails_is_told_with_its_reason() {
        let name = TenantName::parse("default/acme").unwrap();
        let failure = Failure { reason: "ProgramUnhealthy", message: "why".to_owned() };
        let tenant = TenantReport { name, phase: Phase::Failed(failure), program: None };
        let report = Report { tenants: vec![tenant], ..Report::default() };
        let labels = ["default/acme".to_owned(), "ProgramUnhealthy".to_owned()];
        assert_eq!(failed_tenants(&report), [Sample::new(labels, 1.0)]);
    }
}
