//! The report: every desired item and how far it is.

use realm_core::{
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
    Failed(&'a Failure),
}

impl<R: Residents + 'static> Converger<R> {
    pub(super) fn report(&self) -> Report {
        let models = self.desired.models.iter().map(|model| {
            let key = Key::Model(model.name.clone());
            let held = match self.facts.get(&key) {
                Some(Fact::Model(held)) => Some(held),
                _ => None,
            };
            ModelReport {
                name: model.name.clone(),
                phase: self.state(&key).into(),
                stage: held.map(|held| held.stage),
                kv_blocks: held.and_then(|held| held.kv_blocks),
                facts: held.map(|held| held.facts.clone()),
            }
        });
        let tenants = self.desired.tenants.iter().map(|tenant| {
            let key = Key::Tenant(tenant.name.clone());
            let program = match self.facts.get(&key) {
                Some(Fact::Tenant(digest)) => *digest,
                _ => None,
            };
            TenantReport { name: tenant.name.clone(), phase: self.state(&key).into(), program }
        });
        let pipelines = self.desired.pipelines.iter().map(|pipeline| {
            let key = Key::Pipeline(pipeline.name.clone());
            PipelineReport { name: pipeline.name.clone(), phase: self.state(&key).into() }
        });
        Report {
            generation: self.desired.generation,
            models: models.collect(),
            tenants: tenants.collect(),
            pipelines: pipelines.collect(),
        }
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
        self.retries.get(key).map_or(State::Pending, |retry| State::Failed(&retry.failure))
    }
}

impl From<State<'_>> for ModelPhase {
    fn from(state: State<'_>) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::UnderWay(phase) => phase,
            State::Ready => Self::Ready,
            State::Failed(failure) => Self::Failed(failure.clone()),
        }
    }
}

impl From<State<'_>> for Phase {
    fn from(state: State<'_>) -> Self {
        match state {
            State::Pending | State::UnderWay(_) => Self::Pending,
            State::Ready => Self::Ready,
            State::Failed(failure) => Self::Failed(failure.clone()),
        }
    }
}
