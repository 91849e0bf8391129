//! Pipelines: what a `Pipeline` asks of the fleet, and what its status says.

mod build;

pub(crate) use build::findings;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_crds::{Pipeline, PipelineStatus};
use realm_plan::{Demand, Kind, Problem, validate};

use crate::{
    context::Context, controller::Served, fleet::standing::Standing, status::apply::Kinded,
};

impl Kinded for Pipeline {
    type Status = PipelineStatus;

    fn status(&self) -> Option<&PipelineStatus> {
        self.status.as_ref()
    }

    fn conditions(status: &PipelineStatus) -> &[Condition] {
        &status.conditions
    }

    fn conditions_mut(status: &mut PipelineStatus) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Served for Pipeline {
    const KIND: Kind = Kind::Pipeline;

    fn validate(&self) -> Result<Demand, Vec<Problem>> {
        validate::pipeline(self).map(Demand::Pipeline)
    }

    fn build(&self, standing: &Standing, _: &Context, now: Timestamp) -> PipelineStatus {
        build::status(self, standing, now)
    }

    /// Its status says only which models are served, as theirs do.
    fn was_held(&self) -> bool {
        false
    }
}
