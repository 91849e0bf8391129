//! When a node that starts may be given calls.
//!
//! A node is ready once everything that calls use has been tried to its end, and stays so: a new
//! model that takes an hour to come must not take away a node that serves all the others. A model
//! whose file is only looked into or fetched ahead serves nobody here, and is not waited for. What
//! failed is for the report to tell.

use std::{collections::BTreeSet, sync::Arc};

use realm_core::{
    desired::{Desired, Stage},
    name::ModelName,
    report::{ModelPhase, Phase, Report},
};
use tokio::sync::watch;

use crate::diff::Key;

/// Says in `ready` that the node is, when it has tried what calls use of `generation`, or of a
/// later one. Ends then, or when a sender is gone.
pub async fn follow(
    generation: u64,
    mut desired: watch::Receiver<Arc<Desired>>,
    mut report: watch::Receiver<Report>,
    ready: watch::Sender<bool>,
) {
    let mut readiness = Readiness { generation, tried: BTreeSet::new() };
    loop {
        let ahead = ahead(&desired.borrow_and_update());
        let is_used = |key: &Key| !matches!(key, Key::Model(name) if ahead.contains(name));
        if readiness.take(&report.borrow_and_update(), is_used) {
            ready.send_replace(true);
            return;
        }
        let changed = tokio::select! {
            changed = desired.changed() => changed,
            changed = report.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Returns when every tenant of `generation`, or of a later one, has been tried: whose keys open
/// the door is known then, whatever becomes of the models. `false` when the report's sender is gone.
pub async fn until_tenants_tried(generation: u64, mut report: watch::Receiver<Report>) -> bool {
    let mut readiness = Readiness { generation, tried: BTreeSet::new() };
    let are_tried = |report: &Report| readiness.take(report, |key| matches!(key, Key::Tenant(_)));
    report.wait_for(are_tried).await.is_ok()
}

/// The models that no call uses here.
fn ahead(desired: &Desired) -> BTreeSet<ModelName> {
    let ahead = desired.models.iter().filter(|model| model.stage < Stage::Load);
    ahead.map(|model| model.name.clone()).collect()
}

/// What of the desired state has been tried.
struct Readiness {
    generation: u64,
    /// Ready or failed once, though it may be under way again.
    tried: BTreeSet<Key>,
}

impl Readiness {
    /// Takes note of a report; says whether all that `is_used` has been tried.
    fn take(&mut self, report: &Report, is_used: impl Fn(&Key) -> bool) -> bool {
        let mut items = items(report);
        items.retain(|(key, _)| is_used(key));
        self.tried.retain(|key| items.iter().any(|(item, _)| item == key));
        let ended = items.iter().filter(|(_, is_tried)| *is_tried);
        self.tried.extend(ended.map(|(key, _)| key.clone()));
        report.generation >= self.generation
            && items.iter().all(|(key, _)| self.tried.contains(key))
    }
}

/// Every item, and whether this report shows it tried.
fn items(report: &Report) -> Vec<(Key, bool)> {
    let Report { generation: _, models, tenants, pipelines } = report;
    let model_tried = |phase: &ModelPhase| match phase {
        ModelPhase::Pending | ModelPhase::Fetching { .. } | ModelPhase::Loading => false,
        ModelPhase::Ready | ModelPhase::Failed(_) => true,
    };
    let tried = |phase: &Phase| match phase {
        Phase::Pending => false,
        Phase::Ready | Phase::Failed(_) => true,
    };
    let models = models.iter().map(|m| (Key::Model(m.name.clone()), model_tried(&m.phase)));
    let tenants = tenants.iter().map(|t| (Key::Tenant(t.name.clone()), tried(&t.phase)));
    let pipelines = pipelines.iter().map(|p| (Key::Pipeline(p.name.clone()), tried(&p.phase)));
    models.chain(tenants).chain(pipelines).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use realm_core::{
        name::{ModelName, TenantName},
        report::{Failure, ModelReport, TenantReport},
    };

    use super::*;

    fn failed() -> Failure {
        Failure { reason: "DigestMismatch", message: String::new() }
    }

    /// A report of one model and one tenant.
    fn report(generation: u64, model: ModelPhase, tenant: Phase) -> Report {
        let name = ModelName::parse("default/tiny").unwrap();
        let models =
            vec![ModelReport { name, phase: model, stage: None, kv_blocks: None, facts: None }];
        let name = TenantName::parse("default/acme").unwrap();
        let tenants = vec![TenantReport { name, phase: tenant, program: None }];
        Report { generation, models, tenants, pipelines: Vec::new() }
    }

    fn is_ready(node: &mut Readiness, report: &Report) -> bool {
        node.take(report, |_| true)
    }

    fn readiness(generation: u64) -> Readiness {
        Readiness { generation, tried: BTreeSet::new() }
    }

    #[test]
    fn a_node_is_ready_when_everything_desired_has_been_tried_once() {
        let mut node = readiness(1);
        assert!(!is_ready(&mut node, &Report::default()), "nothing has been asked for yet");
        assert!(!is_ready(&mut node, &report(1, ModelPhase::Loading, Phase::Ready)));
        assert!(is_ready(&mut node, &report(1, ModelPhase::Ready, Phase::Ready)));
    }

    #[test]
    fn what_failed_once_holds_up_no_node_though_it_is_tried_again() {
        let mut node = readiness(1);
        assert!(!is_ready(&mut node, &report(1, ModelPhase::Failed(failed()), Phase::Pending)));
        let fetching = ModelPhase::Fetching { bytes_done: 1, bytes_total: None };
        assert!(is_ready(&mut node, &report(1, fetching, Phase::Failed(failed()))));
    }

    #[tokio::test]
    async fn every_key_is_known_while_models_are_still_loading() {
        let (reports, receiver) = watch::channel(Report::default());
        let mut known = Box::pin(until_tenants_tried(1, receiver));
        for phase in [Phase::Pending, Phase::Ready] {
            assert!((&mut known).now_or_never().is_none(), "before {phase:?}");
            reports.send_replace(report(1, ModelPhase::Loading, phase));
        }
        assert!(known.await);
    }

    #[test]
    fn a_node_with_nothing_to_hold_is_ready() {
        assert!(is_ready(&mut readiness(0), &Report::default()));
    }

    #[tokio::test]
    async fn a_node_that_was_ready_stays_so_while_a_new_model_comes() {
        let (reports, report_receiver) = watch::channel(report(1, ModelPhase::Ready, Phase::Ready));
        let (ready, is_ready) = watch::channel(false);
        let (_desired, desired) = watch::channel(Arc::new(Desired::default()));
        follow(1, desired, report_receiver, ready).await;
        reports.send_replace(report(2, ModelPhase::Loading, Phase::Ready));
        assert!(*is_ready.borrow());
    }

    #[tokio::test]
    async fn a_file_that_is_fetched_ahead_of_need_holds_up_nobody() {
        let name = ModelName::parse("default/tiny").unwrap();
        let model = |stage| {
            let mut model = crate::arbitrary::model("default/tiny");
            model.stage = stage;
            Arc::new(Desired { generation: 1, models: vec![model], ..Desired::default() })
        };
        let fetching = ModelPhase::Fetching { bytes_done: 1, bytes_total: None };
        let (_reports, report) = watch::channel(report(1, fetching, Phase::Ready));
        for stage in [Stage::Inspect, Stage::Prefetch, Stage::Load] {
            let is_ahead = stage < Stage::Load;
            assert_eq!(ahead(&model(stage)).contains(&name), is_ahead);
            let (desired_sender, desired) = watch::channel(model(stage));
            let (ready, is_ready) = watch::channel(false);
            let follow = follow(1, desired, report.clone(), ready);
            // Whoever still waits ends with the desired state.
            drop(desired_sender);
            follow.await;
            assert_eq!(*is_ready.borrow(), is_ahead, "{stage:?}");
        }
    }
}
