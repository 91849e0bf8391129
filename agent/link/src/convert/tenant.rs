//! A tenant as protobuf and back: what it may do, what it may spend, and when its turn comes.

use realm_core::{
    desired::{DesiredTenant, Limits, LimitsMode, Priority},
    name::{GroupName, PipelineName, TenantName},
};
use realm_proto::link::v1 as proto;

use super::{
    ConvertError, all, grant_from, grant_to, key_from, key_to, limits_from, limits_to, named,
    program_from, program_to, required, unique,
};

/// `doors` share the tenant's limits out.
pub(super) fn tenant_to(tenant: &DesiredTenant, doors: u32) -> proto::Tenant {
    let DesiredTenant {
        name,
        weight,
        priority,
        suspended,
        limits,
        limits_mode,
        share_group,
        models,
        pipelines,
        keys,
        program,
    } = tenant;
    let priority = match priority {
        Priority::Low => proto::Priority::Low,
        Priority::Normal => proto::Priority::Normal,
        Priority::High => proto::Priority::High,
    };
    let limits_mode = match limits_mode {
        LimitsMode::Enforce => proto::LimitsMode::Enforce,
        LimitsMode::Shadow => proto::LimitsMode::Shadow,
    };
    proto::Tenant {
        name: name.as_str().to_owned(),
        weight: *weight,
        suspended: *suspended,
        limits: Some(limits_to(&of_one(limits, doors))),
        models: models.iter().map(grant_to).collect(),
        pipelines: pipelines
            .iter()
            .map(|(alias, pipeline)| (alias.clone(), pipeline.as_str().to_owned()))
            .collect(),
        keys: keys.iter().map(key_to).collect(),
        program: program.as_ref().map(program_to),
        priority: priority.into(),
        limits_mode: limits_mode.into(),
        share_group: share_group.as_ref().map(|group| group.name().to_owned()),
        shared_limits: (doors > 1).then(|| shared_limits_to(limits)),
    }
}

/// What an agent has that knows of no slices.
fn of_one(limits: &Limits, doors: u32) -> Limits {
    let doors = doors.max(1);
    Limits {
        requests_per_minute: limits.requests_per_minute.div_ceil(doors),
        input_tokens_per_minute: limits.input_tokens_per_minute.div_ceil(doors),
        output_tokens_per_minute: limits.output_tokens_per_minute.div_ceil(doors),
        calls_max: limits.calls_max.div_ceil(doors),
        ..*limits
    }
}

const fn shared_limits_to(limits: &Limits) -> proto::SharedLimits {
    proto::SharedLimits {
        requests_per_minute: limits.requests_per_minute,
        input_tokens_per_minute: limits.input_tokens_per_minute,
        output_tokens_per_minute: limits.output_tokens_per_minute,
        calls_max: limits.calls_max,
    }
}

/// The limits that doors share out; what is of one door where nothing is said of that.
fn shared_limits_from(limits: Limits, shared: Option<proto::SharedLimits>) -> Limits {
    let Some(shared) = shared else { return limits };
    let proto::SharedLimits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
    } = shared;
    Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls_max,
        ..limits
    }
}

pub(super) fn tenant_from(tenant: proto::Tenant) -> Result<DesiredTenant, ConvertError> {
    let proto::Tenant {
        name,
        weight,
        suspended,
        limits,
        models,
        pipelines,
        keys,
        program,
        priority,
        limits_mode,
        share_group,
        shared_limits,
    } = tenant;
    if weight == 0 {
        return Err(ConvertError::Missing { field: "tenant.weight" });
    }
    let name = named("tenant.name", &name, TenantName::parse)?;
    let group = |group: &str| GroupName::new(name.namespace(), group);
    let share_group =
        share_group.map(|text| named("tenant.share_group", &text, group)).transpose()?;
    let models = all(models, grant_from)?;
    unique("tenant.models.alias", models.iter().map(|grant| grant.alias.as_str()))?;
    let pipelines = pipelines
        .into_iter()
        .map(|(alias, name)| Ok((alias, named("tenant.pipelines", &name, PipelineName::parse)?)))
        .collect::<Result<_, _>>()?;
    Ok(DesiredTenant {
        name,
        weight,
        priority: priority_from(priority)?,
        suspended,
        limits: shared_limits_from(limits_from(required("tenant.limits", limits)?)?, shared_limits),
        limits_mode: limits_mode_from(limits_mode)?,
        share_group,
        models,
        pipelines,
        keys: all(keys, key_from)?,
        program: program.map(program_from).transpose()?,
    })
}

fn priority_from(value: i32) -> Result<Priority, ConvertError> {
    match proto::Priority::try_from(value) {
        Ok(proto::Priority::Low) => Ok(Priority::Low),
        Ok(proto::Priority::Unspecified | proto::Priority::Normal) => Ok(Priority::Normal),
        Ok(proto::Priority::High) => Ok(Priority::High),
        Err(prost::UnknownEnumValue(value)) => {
            Err(ConvertError::UnknownValue { field: "tenant.priority", value })
        }
    }
}

fn limits_mode_from(value: i32) -> Result<LimitsMode, ConvertError> {
    match proto::LimitsMode::try_from(value) {
        Ok(proto::LimitsMode::Unspecified | proto::LimitsMode::Enforce) => Ok(LimitsMode::Enforce),
        Ok(proto::LimitsMode::Shadow) => Ok(LimitsMode::Shadow),
        Err(prost::UnknownEnumValue(value)) => {
            Err(ConvertError::UnknownValue { field: "tenant.limits_mode", value })
        }
    }
}
