//! How each tenant is served by each loaded model.
//!
//! A tenant has series for a model once it has called it on this node, and for as long as one of
//! its keys opens the door: 43 for each pair, the buckets of three histograms and what it has used
//! (`used`) among them, and two for what it is entitled to. A thousand tenants that use two models
//! each on two nodes are 160 thousand series, which one Prometheus takes; finer buckets, or a label
//! for the function besides, would be a million.

use std::{collections::HashSet, sync::Arc};

use realm_core::{
    auth::Roster,
    desired::{DesiredTenant, Priority},
    engine::{Distribution, TenantLoad},
    limit::{Limiter, Shadowed},
    name::TenantName,
};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample, SampleValue};
use tokio::sync::watch;

use super::Engines;

/// A number of one tenant at one model.
type Read = fn(TenantLoad) -> u64;

const GAUGES: [(&str, &str, Read); 4] = [
    (
        "realm_engine_tenant_sequences_queued",
        "Sequences of the tenant that wait for a step.",
        |load| load.sequences_queued.into(),
    ),
    ("realm_engine_tenant_sequences_running", "Sequences of the tenant in the batch.", |load| {
        load.sequences_running.into()
    }),
    (
        "realm_engine_tenant_kv_blocks_used",
        "KV blocks held by the tenant's running sequences.",
        |load| load.kv_blocks_used.into(),
    ),
    (
        "realm_engine_tenant_kv_blocks_cached",
        "KV blocks that hold the tenant's finished prefixes.",
        |load| load.kv_blocks_cached.into(),
    ),
];

/// Times of one tenant at one model.
type ReadTimes = fn(TenantLoad) -> Distribution;

const HISTOGRAMS: [(&str, &str, ReadTimes); 3] = [
    ("realm_engine_tenant_queue_seconds", "From a sequence's arrival to its first step.", |load| {
        load.queue
    }),
    (
        "realm_engine_tenant_first_token_seconds",
        "From a sequence's arrival to its first token.",
        |load| load.first_token,
    ),
    (
        "realm_engine_tenant_inter_token_seconds",
        "Between one token of a sequence and the next.",
        |load| load.inter_token,
    ),
];

const LABELS: &[&str] = &["model", "tenant"];

/// Lets Prometheus see how each tenant is served by each loaded model.
pub(super) fn register(
    engines: &Engines,
    roster: &watch::Receiver<Arc<Roster>>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    for (name, help, read) in GAUGES {
        let family = Family { name, help, kind: FamilyKind::Gauge, labels: LABELS };
        let (engines, roster) = (engines.clone(), roster.clone());
        metrics.register(family, move || samples(&engines, &roster, |load| number(read(load))))?;
    }
    for (name, help, read) in HISTOGRAMS {
        let family = Family { name, help, kind: FamilyKind::Histogram, labels: LABELS };
        let (engines, roster) = (engines.clone(), roster.clone());
        metrics.register(family, move || samples(&engines, &roster, |load| read(load).into()))?;
    }
    Ok(())
}

/// Lets Prometheus see what each tenant is entitled to that has called a model here.
pub(super) fn register_rights(
    engines: &Engines,
    roster: &watch::Receiver<Arc<Roster>>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    let weight = Family {
        name: "realm_agent_tenant_weight",
        help: "The tenant's part of every batch in proportion to others of its priority.",
        kind: FamilyKind::Gauge,
        labels: &["tenant", "priority"],
    };
    let (of_weight, seen) = (engines.clone(), roster.clone());
    metrics.register(weight, move || {
        rights(&of_weight, &seen, |tenant| {
            let priority = match tenant.priority {
                Priority::Low => "low",
                Priority::Normal => "normal",
                Priority::High => "high",
            };
            let labels = vec![tenant.name.to_string(), priority.to_owned()];
            Sample::new(labels, number(tenant.weight.into()))
        })
    })?;
    let blocks = Family {
        name: "realm_agent_tenant_kv_blocks_limit",
        help: "KV blocks that the tenant may hold at each model.",
        kind: FamilyKind::Gauge,
        labels: &["tenant"],
    };
    let (of_blocks, seen) = (engines.clone(), roster.clone());
    metrics.register(blocks, move || {
        rights(&of_blocks, &seen, |tenant| {
            let limit = number(tenant.limits.kv_blocks_max.into());
            Sample::new(vec![tenant.name.to_string()], limit)
        })
    })
}

/// A sample of each tenant that has a key and has called a loaded model.
fn rights(
    engines: &Engines,
    roster: &watch::Receiver<Arc<Roster>>,
    sample: impl Fn(&DesiredTenant) -> Sample,
) -> Vec<Sample> {
    let roster = roster.borrow().clone();
    let mut untold: HashSet<_> =
        engines.tenants().into_iter().map(|(_, tenant, _)| tenant).collect();
    let tenants = roster.rights().filter(|tenant| untold.remove(&tenant.name));
    tenants.map(|tenant| sample(tenant)).collect()
}

fn number(number: u64) -> SampleValue {
    SampleValue::Number(number as f64)
}

/// Of tenants that still have a key: who was removed while a call of theirs came in is forgotten
/// by their engine, and may be back in it once.
fn samples(
    engines: &Engines,
    roster: &watch::Receiver<Arc<Roster>>,
    read: impl Fn(TenantLoad) -> SampleValue,
) -> Vec<Sample> {
    let roster = roster.borrow().clone();
    let known: HashSet<_> = roster.tenants().collect();
    let loads = engines.tenants().into_iter().filter(|(_, tenant, _)| known.contains(tenant));
    loads
        .map(|(model, tenant, load)| {
            Sample::new([model.to_string(), tenant.to_string()], read(load))
        })
        .collect()
}

/// Lets Prometheus see what limits would have refused of the tenants whose limits are in shadow.
pub(super) fn register_shadowed(limiter: Limiter, metrics: &Metrics) -> Result<(), MetricsError> {
    let family = Family {
        name: "realm_gateway_tenant_shadowed_total",
        help: "Calls beyond a limit per minute that were let through in shadow.",
        kind: FamilyKind::Counter,
        labels: &["tenant", "code"],
    };
    metrics.register(family, move || {
        let of_tenant = |(tenant, Shadowed { requests, tokens })| {
            let tenant: TenantName = tenant;
            let codes = [("too_many_requests", requests), ("too_many_tokens", tokens)];
            codes.map(|(code, calls)| {
                Sample::new([tenant.to_string(), code.to_owned()], number(calls))
            })
        };
        let shadowed = limiter.shadowed().into_iter();
        shadowed.filter(|(_, calls)| *calls != Shadowed::default()).flat_map(of_tenant).collect()
    })
}

#[cfg(test)]
mod tests {
    use realm_core::auth::Credential;

    use super::*;
    use crate::{
        metrics::tests::{loaded, model},
        residents::tests::tenant,
    };

    #[test]
    fn what_a_tenant_is_entitled_to_is_told_from_its_first_call_of_a_loaded_model_on() {
        let mut quiet = DesiredTenant::clone(&tenant("quiet"));
        quiet.keys[0].sha256 = Credential::of("another key").digest();
        let mut caller = DesiredTenant::clone(&tenant("a"));
        let mut second = caller.keys[0].clone();
        (second.name, second.sha256) = ("phone".into(), Credential::of("a third key").digest());
        caller.keys.push(second);
        let roster = Roster::new([Arc::new(quiet), Arc::new(caller)]);
        let (_roster, roster) = watch::channel(Arc::new(roster));
        let engines = Engines::default();
        let told =
            || rights(&engines, &roster, |tenant| Sample::new([tenant.name.to_string()], 1.0));
        assert_eq!(told(), []);
        engines.put(model(), loaded());
        assert_eq!(told(), [Sample::new(["default/a".to_owned()], 1.0)]);
    }
}
