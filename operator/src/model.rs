//! Models: what a `Model` asks of the fleet, and what its status says.

mod build;

pub(crate) use build::{findings, serving};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_crds::{Model, ModelStatus, model::ModelNodeState};
use realm_plan::{
    Demand, Kind, Name, Problem,
    validate::{self, Site},
};

use crate::{
    context::Context,
    controller::Served,
    fleet::{handle::Command, standing::Standing},
    status::apply::Kinded,
};

impl Kinded for Model {
    type Status = ModelStatus;

    fn status(&self) -> Option<&ModelStatus> {
        self.status.as_ref()
    }

    fn conditions(status: &ModelStatus) -> &[Condition] {
        &status.conditions
    }

    fn conditions_mut(status: &mut ModelStatus) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Served for Model {
    const KIND: Kind = Kind::Model;

    fn validate(&self) -> Result<Demand, Vec<Problem>> {
        validate::model(self, Site::Cluster).map(Demand::Model)
    }

    fn build(&self, standing: &Standing, context: &Context, now: Timestamp) -> ModelStatus {
        build::status(self, standing, &context.agent_selector, now)
    }

    fn recalled(&self) -> Vec<Command> {
        let Ok(name) = Name::of(&self.metadata) else { return Vec::new() };
        let Some(status) = &self.status else { return Vec::new() };
        let is_to_serve = |state| matches!(state, ModelNodeState::Ready | ModelNodeState::Loading);
        let nodes = status.nodes.iter().map(|node| Command::Recall {
            node: node.name.clone(),
            models: is_to_serve(node.state).then(|| name.clone()).into_iter().collect(),
        });
        // Of another spec it may be about another file.
        let is_of_spec = status.observed_generation == self.metadata.generation;
        let claimed = build::claimed(status).filter(|_| is_of_spec);
        let claimed = claimed.map(|claimed| Command::Claimed { model: name.clone(), claimed });
        nodes.chain(claimed).collect()
    }

    fn was_held(&self) -> bool {
        self.status.as_ref().is_some_and(|status| !status.nodes.is_empty())
    }
}
