//! Tenants.

use std::collections::BTreeMap;

use realm_crds::{
    Tenant, TenantSpec,
    model::{CONTEXT_MAX, KV_BLOCKS_MAX},
    tenant::{
        API_KEYS_MAX, ApiKeySource, CALLS_MAX, CONFIG_ENTRIES_MAX, CONFIG_KEY_LEN_MAX,
        CONFIG_VALUE_LEN_MAX, Cache, DEADLINE_MS_MAX, Limits as RawLimits, MODELS_MAX, ModelRef,
        PER_MINUTE_MAX, PROGRAM_COUNT_MAX, PROGRAM_INSTANCES_MAX, PROGRAM_MEMORY_BYTES_MAX,
        PROGRAM_MEMORY_BYTES_MIN, PROGRAM_OUTPUT_BYTES_MAX, Program as RawProgram,
        ProgramLimits as RawProgramLimits, TOKEN_DEADLINE_MS_MAX, TOKEN_FUEL_MAX, WEIGHT_MAX,
    },
};

use super::{
    Site,
    artifact::{RawArtifact, Use, artifact},
    field,
};
use crate::{
    desired::{HostedProgram, Limits, LimitsMode, Priority, Program, ProgramLimits},
    name::Name,
    problem::{Findings, Problem, Reason},
};

/// A tenant that can be planned. Only [`tenant`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidTenant {
    pub(crate) name: Name,
    pub(crate) weight: u32,
    pub(crate) priority: Priority,
    pub(crate) suspended: bool,
    pub(crate) limits: Limits,
    pub(crate) limits_mode: LimitsMode,
    pub(crate) share_group: Option<Name>,
    /// In the order of the spec.
    pub(crate) models: Vec<Name>,
    pub(crate) program: HostedProgram,
    /// Secrets with keys, in the order of the spec.
    pub(crate) secrets: Vec<Name>,
}

impl ValidTenant {
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Whether the tenant's calls are refused for now.
    pub const fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Its part of what tenants of its class have together, against theirs.
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Its class.
    pub const fn priority(&self) -> Priority {
        self.priority
    }

    /// What the tenant may spend.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What becomes of calls beyond its limits per minute.
    pub const fn limits_mode(&self) -> LimitsMode {
        self.limits_mode
    }

    /// The models that the tenant asks for.
    pub fn models(&self) -> &[Name] {
        &self.models
    }

    /// The Secrets that hold the tenant's keys.
    pub fn secrets(&self) -> &[Name] {
        &self.secrets
    }
}

/// Proves `raw`, or lists what is wrong with it.
pub fn tenant(raw: &Tenant, site: Site) -> Result<ValidTenant, Vec<Problem>> {
    let TenantSpec {
        weight,
        priority,
        suspended,
        limits,
        limits_mode,
        cache,
        models,
        program,
        api_keys,
    } = &raw.spec;
    let mut findings = Findings::default();
    field::range("spec.weight", *weight, (1, WEIGHT_MAX), &mut findings);
    let limits = read_limits(limits, &mut findings);
    let (code, config) = match program {
        None => (Some(Program::BuiltIn), BTreeMap::new()),
        Some(program) => (read_program(program, site, &mut findings), program.config.clone()),
    };
    let valid = match field::name(&raw.metadata, &mut findings) {
        None => None,
        Some(name) => {
            let share_group = read_group(cache.as_ref(), &name, &mut findings);
            let models = read_models(models, &name, &mut findings);
            let secrets = read_secrets(api_keys, &name, &mut findings);
            code.map(|code| ValidTenant {
                name,
                weight: *weight,
                priority: *priority,
                suspended: *suspended,
                limits,
                limits_mode: *limits_mode,
                share_group,
                models,
                program: HostedProgram { code, config },
                secrets,
            })
        }
    };
    findings.prove(valid)
}

fn read_limits(raw: &RawLimits, findings: &mut Findings) -> Limits {
    let RawLimits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls,
        context,
        output_tokens,
        kv_blocks,
        program,
    } = raw;
    for (field, value, max) in [
        ("requestsPerMinute", *requests_per_minute, PER_MINUTE_MAX),
        ("inputTokensPerMinute", *input_tokens_per_minute, PER_MINUTE_MAX),
        ("outputTokensPerMinute", *output_tokens_per_minute, PER_MINUTE_MAX),
        ("calls", *calls, CALLS_MAX),
        ("context", *context, CONTEXT_MAX),
        ("kvBlocks", *kv_blocks, KV_BLOCKS_MAX),
    ] {
        field::range(&format!("spec.limits.{field}"), value, (1, max), findings);
    }
    if let Some(value) = output_tokens {
        field::range("spec.limits.outputTokens", *value, (1, CONTEXT_MAX), findings);
    }
    Limits {
        requests_per_minute: *requests_per_minute,
        input_tokens_per_minute: *input_tokens_per_minute,
        output_tokens_per_minute: *output_tokens_per_minute,
        calls_max: *calls,
        context_max: *context,
        output_tokens_max: output_tokens.unwrap_or(*context),
        kv_blocks_max: *kv_blocks,
        program: read_program_limits(program, findings),
    }
}

fn read_program_limits(raw: &RawProgramLimits, findings: &mut Findings) -> ProgramLimits {
    let RawProgramLimits {
        memory_bytes,
        fuel,
        host_calls,
        output_bytes,
        deadline_ms,
        token_fuel,
        token_deadline_ms,
        instances,
        memory64,
    } = raw;
    let memory = (PROGRAM_MEMORY_BYTES_MIN, PROGRAM_MEMORY_BYTES_MAX);
    for (field, value, bounds) in [
        ("memoryBytes", *memory_bytes, memory),
        ("fuel", *fuel, (1, PROGRAM_COUNT_MAX)),
        ("hostCalls", *host_calls, (1, PROGRAM_COUNT_MAX)),
        ("outputBytes", *output_bytes, (1, PROGRAM_OUTPUT_BYTES_MAX)),
        ("deadlineMs", *deadline_ms, (1, DEADLINE_MS_MAX)),
        ("tokenFuel", *token_fuel, (1, TOKEN_FUEL_MAX)),
        ("tokenDeadlineMs", *token_deadline_ms, (1, TOKEN_DEADLINE_MS_MAX)),
        ("instances", u64::from(*instances), (1, u64::from(PROGRAM_INSTANCES_MAX))),
    ] {
        field::range(&format!("spec.limits.program.{field}"), value, bounds, findings);
    }
    ProgramLimits {
        memory_bytes_max: *memory_bytes,
        fuel_max: *fuel,
        host_calls_max: *host_calls,
        output_bytes_max: *output_bytes,
        deadline_ms: *deadline_ms,
        token_fuel_max: *token_fuel,
        token_deadline_ms: *token_deadline_ms,
        instances_max: *instances,
        memory64: *memory64,
    }
}

fn read_program(raw: &RawProgram, site: Site, findings: &mut Findings) -> Option<Program> {
    let RawProgram { sources, sha256, config } = raw;
    let path = "spec.program.config";
    if field::count(path, config.len(), (0, CONFIG_ENTRIES_MAX), findings) {
        for (key, value) in config {
            field::length(path, key, (1, CONFIG_KEY_LEN_MAX), findings);
            field::length(&format!("{path}[{key}]"), value, (0, CONFIG_VALUE_LEN_MAX), findings);
        }
    }
    if !sources.is_empty() {
        let (of, sha256) = (Use::Program, sha256.as_deref());
        let raw = RawArtifact { of, path: "spec.program", sources, sha256, parts: &[] };
        return artifact(&raw, site, findings).map(Program::Component);
    }
    if sha256.is_some() {
        let message = "sha256 without sources: the built-in program has its own digest";
        findings.add("spec.program.sha256", Reason::InvalidValue, message);
    }
    Some(Program::BuiltIn)
}

/// A group is of the tenant's own namespace, and no other can be spelled.
fn read_group(raw: Option<&Cache>, own: &Name, findings: &mut Findings) -> Option<Name> {
    let Cache { share_group } = raw?;
    let path = "spec.cache.shareGroup";
    let group = field::reference(path, ("", share_group.as_deref()?), own, findings)?;
    if !group.is_label() {
        let message =
            format!("`{}` is not a DNS label: at most 63 of a-z, 0-9 and inner -", group.name());
        findings.add(path, Reason::InvalidValue, message);
        return None;
    }
    Some(group)
}

fn read_models(raw: &[ModelRef], own: &Name, findings: &mut Findings) -> Vec<Name> {
    let path = |i: usize| format!("spec.models[{i}]");
    if !field::count("spec.models", raw.len(), (0, MODELS_MAX), findings) {
        return Vec::new();
    }
    let mut models = Vec::new();
    for (i, ModelRef { name, namespace }) in raw.iter().enumerate() {
        let Some(model) = field::reference(&path(i), (namespace, name), own, findings) else {
            continue;
        };
        if models.contains(&model) {
            findings.add(path(i), Reason::Duplicate, format!("`{model}` is there already"));
        }
        models.push(model);
    }
    models
}

fn read_secrets(raw: &[ApiKeySource], own: &Name, findings: &mut Findings) -> Vec<Name> {
    if !field::count("spec.apiKeys", raw.len(), (0, API_KEYS_MAX), findings) {
        return Vec::new();
    }
    let path = |i: usize| format!("spec.apiKeys[{i}].secretName");
    let names = raw.iter().map(|ApiKeySource { secret_name }| secret_name.as_str());
    field::unique(names.clone(), path, findings);
    names
        .enumerate()
        .filter_map(|(i, name)| field::reference(&path(i), ("", name), own, findings))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tenant in `spec`, or its problems as `path reason`.
    fn check(spec: &str) -> Result<ValidTenant, Vec<String>> {
        let yaml = format!(
            "{{apiVersion: realm.dev/v1alpha1, kind: Tenant, metadata: {{name: t, namespace: n}}, spec: {{{spec}}}}}"
        );
        tenant(&serde_saphyr::from_str(&yaml).unwrap(), Site::OneMachine).map_err(|problems| {
            problems.iter().map(|p| format!("{} {}", p.path, p.reason.as_str())).collect()
        })
    }

    #[test]
    fn an_empty_spec_is_a_tenant_with_every_default() {
        let tenant = check("").unwrap();
        assert_eq!((tenant.weight, tenant.suspended), (100, false));
        assert_eq!((tenant.limits.requests_per_minute, tenant.limits.calls_max), (600, 16));
        assert_eq!(tenant.limits.program.memory_bytes_max, 64 * 1024 * 1024);
        assert_eq!(tenant.program.code, Program::BuiltIn);
    }

    #[test]
    fn a_tenant_may_come_before_others_and_have_its_limits_counted_only() {
        let tenant = check("priority: High, limitsMode: Shadow").unwrap();
        assert_eq!((tenant.priority, tenant.limits_mode), (Priority::High, LimitsMode::Shadow));
        let tenant = check("").unwrap();
        assert_eq!((tenant.priority, tenant.limits_mode), (Priority::Normal, LimitsMode::Enforce));
    }

    #[test]
    fn one_limit_can_be_set_without_the_others() {
        let tenant = check("limits: {calls: 2, program: {fuel: 7}}").unwrap();
        assert_eq!((tenant.limits.calls_max, tenant.limits.kv_blocks_max), (2, 1024));
        assert_eq!((tenant.limits.context_max, tenant.limits.output_tokens_max), (8192, 8192));
        let curt = check("limits: {outputTokens: 9}").unwrap().limits;
        assert_eq!((curt.context_max, curt.output_tokens_max), (8192, 9));
        assert_eq!(
            (tenant.limits.program.fuel_max, tenant.limits.program.host_calls_max),
            (7, 100_000)
        );
        assert!(!tenant.limits.program.memory64);
        assert!(check("limits: {program: {memory64: true}}").unwrap().limits.program.memory64);
    }

    #[test]
    fn references_are_full_names_in_the_order_of_the_spec() {
        let spec = "models: [{name: b}, {name: a, namespace: other}], apiKeys: [{secretName: z.keys}, {secretName: a}]";
        let tenant = check(spec).unwrap();
        let show = |names: &[Name]| names.iter().map(Name::to_string).collect::<Vec<_>>();
        assert_eq!(show(&tenant.models), ["n/b", "other/a"]);
        assert_eq!(show(tenant.secrets()), ["n/z.keys", "n/a"]);
    }

    #[test]
    fn a_share_group_is_of_the_tenants_own_namespace() {
        let tenant = check("cache: {shareGroup: support}").unwrap();
        assert_eq!(tenant.share_group.unwrap().to_string(), "n/support");
        assert_eq!(check("cache: {}").unwrap().share_group, None);
        for bad in ["other/support", "''", "Support", "a.b"] {
            let problems = check(&format!("cache: {{shareGroup: {bad}}}")).unwrap_err();
            assert_eq!(problems, ["spec.cache.shareGroup InvalidValue"], "{bad}");
        }
    }

    #[test]
    fn the_built_in_program_can_be_configured() {
        let tenant = check("program: {config: {system: Be brief.}}").unwrap();
        assert_eq!(tenant.program.code, Program::BuiltIn);
        assert_eq!(tenant.program.config.get("system").unwrap(), "Be brief.");
        let problems = check(&format!("program: {{sha256: {}}}", "a".repeat(64))).unwrap_err();
        assert_eq!(problems, ["spec.program.sha256 InvalidValue"]);
    }

    #[test]
    fn a_limit_beyond_what_a_program_can_be_given_is_refused() {
        let problems = check("limits: {program: {memoryBytes: 1073741825, outputBytes: 67108865}}")
            .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.limits.program.memoryBytes OutOfRange",
                "spec.limits.program.outputBytes OutOfRange",
            ]
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = check(
            "weight: 0, limits: {calls: 0, program: {memoryBytes: 1, deadlineMs: 0}}, \
             program: {sources: ['https://example.org/p.wasm']}, \
             models: [{name: a}, {name: a, namespace: n}, {name: 'B!'}], \
             apiKeys: [{secretName: k}, {secretName: k}, {secretName: ''}]",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.weight OutOfRange",
                "spec.limits.calls OutOfRange",
                "spec.limits.program.memoryBytes OutOfRange",
                "spec.limits.program.deadlineMs OutOfRange",
                "spec.program.sha256 DigestRequired",
                "spec.models[1] Duplicate",
                "spec.models[2] InvalidValue",
                "spec.apiKeys[1].secretName Duplicate",
                "spec.apiKeys[2].secretName InvalidValue",
            ]
        );
    }

    #[test]
    fn the_problems_of_one_object_are_bounded() {
        let models = vec!["{name: a}"; 64].join(",");
        let keys = vec!["{secretName: a}"; 64].join(",");
        let problems = check(&format!("models: [{models}], apiKeys: [{keys}]")).unwrap_err();
        assert_eq!(problems.len(), 64);
    }
}
