//! Tenants: what a `Tenant` asks of the fleet, and what its status says.

mod build;
mod promptly;
mod within;

pub(crate) use build::findings;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_crds::{Tenant, TenantStatus};
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

impl Kinded for Tenant {
    type Status = TenantStatus;

    fn status(&self) -> Option<&TenantStatus> {
        self.status.as_ref()
    }

    fn conditions(status: &TenantStatus) -> &[Condition] {
        &status.conditions
    }

    fn conditions_mut(status: &mut TenantStatus) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Served for Tenant {
    const KIND: Kind = Kind::Tenant;

    fn validate(&self) -> Result<Demand, Vec<Problem>> {
        validate::tenant(self, Site::Cluster).map(Demand::Tenant)
    }

    fn build(&self, standing: &Standing, _: &Context, now: Timestamp) -> TenantStatus {
        build::status(self, standing, now)
    }

    fn recalled(&self) -> Vec<Command> {
        let told = self.status.as_ref().and_then(|status| status.totals.clone());
        let totals = Name::of(&self.metadata).ok().zip(told);
        totals.map(|(tenant, told)| Command::Totals { tenant, told }).into_iter().collect()
    }

    fn was_held(&self) -> bool {
        build::was_held(self.status.as_ref())
    }
}
