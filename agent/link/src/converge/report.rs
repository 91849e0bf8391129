//! The report: every item that is desired or held, and how far it is.

use std::borrow::Cow;

use realm_core::{
    desired::Desired,
    name::{ModelName, TenantName},
    report::{Failure, ModelPhase, ModelReport, Phase, PipelineReport, Report, TenantReport},
    residents::Residents,
};

use super::{Converger, Fact, Step};
use crate::diff::{Held, Key};

/// How far an item is.
enum State<'a> {
    Pending,
    UnderWay(ModelPhase),
    Ready,
    Failed(Cow<'a, Failure>),
}

impl<R: Residents + 'static> Converger<R> {
    /// Every item that is desired, in that order, and then those that are not and are not gone yet.
    pub(super) fn report(&self) -> Report {
        let Desired { generation, models, tenants, pipelines, .. } = &*self.desired;
        let mut report = Report { generation: *generation, ..Report::default() };
        let models = models.iter().map(|model| Key::Model(model.name.clone()));
        let tenants = tenants.iter().map(|tenant| Key::Tenant(tenant.name.clone()));
        let pipelines = pipelines.iter().map(|pipeline| Key::Pipeline(pipeline.name.clone()));
        let going = self.holding.keys().filter(|key| !self.goal.contains_key(key)).cloned();
        for key in models.chain(tenants).chain(pipelines).chain(going) {
            let phase = self.state(&key);
            match &key {
                Key::Model(name) => report.models.push(self.model(name, phase.into())),
                Key::Tenant(name) => report.tenants.push(self.tenant(name, phase.into())),
                Key::Pipeline(name) => {
                    let (name, phase) = (name.clone(), phase.into());
                    report.pipelines.push(PipelineReport { name, phase });
                }
            }
        }
        report
    }

    fn model(&self, name: &ModelName, phase: ModelPhase) -> ModelReport {
        let held = match self.facts.get(&Key::Model(name.clone())) {
            Some(Fact::Model(held)) => Some(held),
            _ => None,
        };
        ModelReport {
            name: name.clone(),
            phase,
            stage: held.map(|held| held.stage),
            kv_blocks: held.and_then(|held| held.kv_blocks),
            facts: held.map(|held| held.facts.clone()),
        }
    }

    fn tenant(&self, name: &TenantName, phase: Phase) -> TenantReport {
        let program = match self.facts.get(&Key::Tenant(name.clone())) {
            Some(Fact::Tenant(digest)) => *digest,
            _ => None,
        };
        TenantReport { name: name.clone(), phase, program }
    }

    /// A retry keeps showing why it is one until it gets somewhere.
    fn state(&self, key: &Key) -> State<'_> {
        let spec = self.goal.get(key);
        if let Some(Held::Known(held)) = self.holding.get(key)
            && spec == Some(held)
        {
            return State::Ready;
        }
        if let Some(running) = self.running.get(key)
            && let Step::Put(put) = &running.step
            && spec == Some(put)
        {
            let phase = running.phase.borrow().clone();
            if phase != ModelPhase::Pending {
                return State::UnderWay(phase);
            }
        }
        let failure = self.retries.get(key).map(|retry| Cow::Borrowed(&retry.failure));
        let failure = failure.or_else(|| self.missing_base(key).map(Cow::Owned));
        failure.map_or(State::Pending, State::Failed)
    }
}

impl From<State<'_>> for ModelPhase {
    fn from(state: State<'_>) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::UnderWay(phase) => phase,
            State::Ready => Self::Ready,
            State::Failed(failure) => Self::Failed(failure.into_owned()),
        }
    }
}

impl From<State<'_>> for Phase {
    fn from(state: State<'_>) -> Self {
        match state {
            State::Pending | State::UnderWay(_) => Self::Pending,
            State::Ready => Self::Ready,
            State::Failed(failure) => Self::Failed(failure.into_owned()),
        }
    }
}
