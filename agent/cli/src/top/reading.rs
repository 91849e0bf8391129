//! What one look at the metrics of all addresses says of tenants, and of them at models. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::samples::Sample;

/// A model and a tenant, by their full names.
pub(crate) type Pair = (String, String);

/// One look at each agent, by the address of its metrics. They are kept apart, since each has its own
/// queues and quotas: who waits does so behind those that run beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(super) agents: BTreeMap<String, OfAgent>,
}

/// What one agent says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OfAgent {
    pub(super) pairs: BTreeMap<Pair, AtModel>,
    pub(super) tenants: BTreeMap<String, OfTenant>,
    /// Why the newest form of each of these models does not work.
    pub(super) failed_models: BTreeMap<String, BTreeSet<String>>,
}

/// A tenant at a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct AtModel {
    pub(super) running: f64,
    pub(super) queued: f64,
    pub(super) kv_used: f64,
    pub(super) kv_cached: f64,
    /// Since the model was loaded.
    pub(super) device_seconds: f64,
    pub(super) generated: f64,
}

/// What a tenant is entitled to, and what became of its calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OfTenant {
    pub(super) weight: f64,
    pub(super) class: Class,
    /// KV blocks that it may hold at each model of an agent.
    pub(super) kv_limit: f64,
    /// Calls that a limit refused since the agent started, by the code.
    pub(super) refused: BTreeMap<String, f64>,
    /// Why what it has in its newest form does not work.
    pub(super) failures: BTreeSet<String>,
    /// Calls that wait for one of its program's instances.
    pub(super) held_back: f64,
}

/// A class of tenants, each served before those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Low,
    #[default]
    Normal,
    High,
}

impl Class {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Codes of refusals that come of a tenant's limits, and of no places that are free.
const LIMITS: [&str; 4] = ["too_many_requests", "too_many_tokens", "too_many_calls", "busy"];

/// What stands behind the code of a limit that would have refused.
pub(crate) const SHADOWED: &str = " (shadow)";

impl Reading {
    /// Why what a tenant has in its newest form does not work, at any agent.
    pub(crate) fn failures(&self, tenant: &str) -> BTreeSet<String> {
        let of_tenant = self.agents.values().filter_map(|agent| agent.tenants.get(tenant));
        of_tenant.flat_map(|it| it.failures.iter().cloned()).collect()
    }

    /// Why a model's newest form does not work, at any agent.
    pub(crate) fn model_failures(&self, model: &str) -> BTreeSet<String> {
        let of_model = self.agents.values().filter_map(|agent| agent.failed_models.get(model));
        of_model.flatten().cloned().collect()
    }

    /// Calls of a tenant that wait for one of its program's instances, at whichever agent.
    pub(crate) fn held_back(&self, tenant: &str) -> f64 {
        let of_tenant = self.agents.values().filter_map(|agent| agent.tenants.get(tenant));
        of_tenant.map(|it| it.held_back).sum()
    }

    /// Adds what the agent at `address` says; `false` where that is no agent, or one that does not
    /// say what tenants are entitled to.
    pub(crate) fn add<'a>(
        &mut self,
        address: &str,
        samples: impl Iterator<Item = Sample<'a>>,
    ) -> bool {
        let mut of_agent = OfAgent::default();
        let (mut is_agent, mut is_served, mut has_weights) = (false, false, false);
        for sample in samples {
            is_agent |= sample.name == "realm_agent_generation";
            has_weights |= sample.name == "realm_agent_tenant_weight";
            of_agent.add_of_model(&sample);
            // Those that are gone are nobody's row.
            let Some(tenant) = sample.label("tenant").filter(|tenant| *tenant != "-") else {
                continue;
            };
            let had_steps = sample.name == "realm_engine_tenant_queue_seconds_count";
            is_served |= had_steps && sample.value > 0.0;
            match sample.label("model") {
                Some(model) => of_agent.add_at_model((model, tenant), &sample),
                None => of_agent.add_of_tenant(tenant, &sample),
            }
        }
        self.agents.insert(address.to_owned(), of_agent);
        // Weights are told from a tenant's first call on. One that has just come may not have its
        // own in a look that has its sequence, but has it long before its first step.
        is_agent && (has_weights || !is_served)
    }
}

impl OfAgent {
    fn add_at_model(&mut self, (model, tenant): (&str, &str), sample: &Sample<'_>) {
        let pair = self.pairs.entry((model.to_owned(), tenant.to_owned())).or_default();
        let number = match sample.name {
            "realm_engine_tenant_sequences_running" => &mut pair.running,
            "realm_engine_tenant_sequences_queued" => &mut pair.queued,
            "realm_engine_tenant_kv_blocks_used" => &mut pair.kv_used,
            "realm_engine_tenant_kv_blocks_cached" => &mut pair.kv_cached,
            "realm_engine_tenant_device_seconds_total" => &mut pair.device_seconds,
            "realm_engine_tenant_generated_tokens_total" => &mut pair.generated,
            _ => return,
        };
        *number += sample.value;
    }

    fn add_of_model(&mut self, sample: &Sample<'_>) {
        if sample.name != "realm_agent_model_failed" || sample.value <= 0.0 {
            return;
        }
        if let (Some(model), Some(reason)) = (sample.label("model"), sample.label("reason")) {
            self.failed_models.entry(model.to_owned()).or_default().insert(reason.to_owned());
        }
    }

    fn add_of_tenant(&mut self, tenant: &str, sample: &Sample<'_>) {
        let of_tenant = self.tenants.entry(tenant.to_owned()).or_default();
        match sample.name {
            "realm_agent_tenant_weight" => {
                of_tenant.weight = sample.value;
                of_tenant.class = match sample.label("priority") {
                    Some("low") => Class::Low,
                    Some("high") => Class::High,
                    _ => Class::Normal,
                };
            }
            "realm_agent_tenant_kv_blocks_limit" => of_tenant.kv_limit = sample.value,
            "realm_gateway_requests_total" | "realm_gateway_tenant_shadowed_total" => {
                let code = sample.label("code").filter(|code| LIMITS.contains(code));
                let Some(code) = code else { return };
                let is_shadow = sample.name == "realm_gateway_tenant_shadowed_total";
                let code = if is_shadow { format!("{code}{SHADOWED}") } else { code.to_owned() };
                *of_tenant.refused.entry(code).or_default() += sample.value;
            }
            "realm_program_runs_waiting" => of_tenant.held_back = sample.value,
            "realm_agent_tenant_failed" if sample.value > 0.0 => {
                of_tenant.failures.extend(sample.label("reason").map(str::to_owned));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::samples;

    /// A look at agents that say these, each after its generation.
    pub(crate) fn reading(texts: &[&str]) -> Reading {
        let mut reading = Reading::default();
        for (agent, text) in texts.iter().enumerate() {
            let text = format!("realm_agent_generation 1\n{text}");
            assert!(reading.add(&format!("agent-{agent}"), samples::parse(&text)));
        }
        reading
    }

    const TEXT: &str = r#"
realm_agent_tenant_weight{tenant="d/a",priority="high"} 200
realm_agent_tenant_kv_blocks_limit{tenant="d/a"} 64
realm_engine_tenant_sequences_running{model="d/m",tenant="d/a"} 2
realm_engine_tenant_device_seconds_total{model="d/m",tenant="d/a",pipeline="-"} 1.5
realm_engine_tenant_device_seconds_total{model="d/m",tenant="d/a",pipeline="d/p"} 0.5
realm_engine_tenant_device_seconds_total{model="d/m",tenant="-",pipeline="-"} 9
realm_gateway_requests_total{tenant="d/a",function="chat",code="too_many_calls"} 3
realm_gateway_requests_total{tenant="d/a",function="chat",code="ok"} 30
realm_gateway_tenant_shadowed_total{tenant="d/a",code="too_many_tokens"} 1
realm_agent_tenant_failed{tenant="d/a",reason="ProgramUnhealthy"} 1
realm_agent_model_failed{model="d/lost",reason="SourceNotFound"} 1
realm_program_runs_waiting{tenant="d/a"} 2
"#;

    #[test]
    fn what_each_agent_says_of_a_tenant_is_found_and_kept_apart() {
        let read = reading(&[TEXT, TEXT]);
        assert_eq!(read.agents.len(), 2);
        for OfAgent { pairs, tenants, .. } in read.agents.values() {
            assert_eq!(pairs.len(), 1, "those that are gone have no row");
            let at_model = pairs[&("d/m".to_owned(), "d/a".to_owned())];
            assert_eq!((at_model.running, at_model.device_seconds), (2.0, 2.0));
            let of_tenant = &tenants["d/a"];
            assert_eq!((of_tenant.weight, of_tenant.kv_limit), (200.0, 64.0));
            assert_eq!(of_tenant.class, Class::High);
            let refused: Vec<_> = of_tenant.refused.iter().map(|(c, n)| (c.as_str(), *n)).collect();
            assert_eq!(refused, [("too_many_calls", 3.0), ("too_many_tokens (shadow)", 1.0)]);
        }
        assert_eq!(read.failures("d/a"), ["ProgramUnhealthy".to_owned()].into());
        assert!(read.failures("d/b").is_empty());
        assert_eq!(read.model_failures("d/lost"), ["SourceNotFound".to_owned()].into());
        assert!(read.model_failures("d/m").is_empty());
        assert_eq!((read.held_back("d/a"), read.held_back("d/b")), (4.0, 0.0));
    }

    #[test]
    fn an_address_that_is_given_twice_counts_once() {
        let mut read = reading(&[TEXT]);
        let text = format!("realm_agent_generation 1\n{TEXT}");
        assert!(read.add("agent-0", samples::parse(&text)));
        assert_eq!(read, reading(&[TEXT]));
    }

    #[test]
    fn what_is_no_agent_or_an_older_one_is_found_out() {
        let is_known = |text: &str| Reading::default().add("there", samples::parse(text));
        assert!(!is_known("go_goroutines 7\n"));
        let idle = "realm_agent_generation 3\n";
        assert!(is_known(idle), "nobody has called it yet");
        let served = format!(
            "{idle}realm_engine_tenant_queue_seconds_count{{model=\"d/m\",tenant=\"d/a\"}} 1\n"
        );
        assert!(!is_known(&served), "an older agent says who is served, and not by what weight");
        let weight = "realm_agent_tenant_weight{tenant=\"d/a\",priority=\"normal\"} 100\n";
        assert!(is_known(&format!("{served}{weight}")));
    }
}
