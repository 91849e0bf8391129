//! Values the unit tests start from.

use std::collections::BTreeMap;

use crate::{
    desired::{DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, ProgramLimits},
    name::TenantName,
};

/// A tenant without keys or models: 60 requests, 1000 input and 100 output tokens a minute.
pub(crate) fn tenant(name: &str) -> DesiredTenant {
    DesiredTenant {
        name: TenantName::new("default", name).expect("tests name tenants well"),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 60,
            input_tokens_per_minute: 1000,
            output_tokens_per_minute: 100,
            calls_max: 4,
            context_max: 2048,
            output_tokens_max: 2048,
            kv_blocks_max: 64,
            program: ProgramLimits {
                memory_bytes_max: 1 << 24,
                fuel_max: 1 << 30,
                host_calls_max: 1000,
                output_bytes_max: 1 << 20,
                deadline_ms: 60_000,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: Vec::new(),
        program: Some(HostedProgram::built_in()),
    }
}
