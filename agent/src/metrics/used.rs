//! Who has used how much: of each loaded model, and of its own programs.
//!
//! What tenants used adds up, with that of tenants that are gone, to what the engines did. A tenant
//! has five series for each model that it calls itself and for each pipeline that comes to a model.

use std::{collections::HashSet, sync::Arc};

use realm_core::{
    auth::Roster,
    books::{Books, EngineTime, Used, Way},
    name::TenantName,
};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};
use realm_runtime::{ProgramSpent, Runtime};
use tokio::sync::watch;

use super::Engines;

/// The `tenant` and the `pipeline` of what those used that are gone.
const GONE: &str = "-";

/// Nanoseconds of one second.
const PER_SECOND: f64 = 1e9;

/// A number of what was used.
type Read = fn(Used) -> f64;

const COUNTERS: [(&str, &str, Read); 5] = [
    ("realm_engine_tenant_prompt_tokens_total", "Prompt tokens of the tenant taken in.", |used| {
        used.prompt_tokens as f64
    }),
    (
        "realm_engine_tenant_cached_tokens_total",
        "Prompt tokens found in the cache, the tenant's own or its share group's.",
        |used| used.cached_tokens as f64,
    ),
    ("realm_engine_tenant_generated_tokens_total", "Tokens generated for the tenant.", |used| {
        used.generated_tokens as f64
    }),
    (
        "realm_engine_tenant_device_seconds_total",
        "The tenant's part of the time of the steps that it was in.",
        |used| used.device_ns as f64 / PER_SECOND,
    ),
    (
        "realm_engine_tenant_kv_block_seconds_total",
        "How long the tenant's sequences held KV blocks, counted for each block.",
        |used| used.block_ns as f64 / PER_SECOND,
    ),
];

/// A part of an engine's time.
type ReadTime = fn(EngineTime) -> u64;

/// What an engine does with its time.
const TIMES: [(&str, ReadTime); 3] = [
    ("computing", |time| time.computing_ns),
    ("idle", |time| time.idle_ns),
    ("overhead", |time| time.overhead_ns),
];

/// Lets Prometheus see who has used how much of each loaded model, and what that adds up to.
pub(super) fn register(
    engines: &Engines,
    roster: &watch::Receiver<Arc<Roster>>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    for (name, help, read) in COUNTERS {
        let labels = &["model", "tenant", "pipeline"];
        let family = Family { name, help, kind: FamilyKind::Counter, labels };
        let (engines, roster) = (engines.clone(), roster.clone());
        metrics.register(family, move || samples(&engines, &roster, read))?;
    }
    let times = Family {
        name: "realm_engine_seconds_total",
        help: "Time that the model has been loaded for, by what its engine did.",
        kind: FamilyKind::Counter,
        labels: &["model", "state"],
    };
    let of_times = engines.clone();
    metrics.register(times, move || {
        let of_model = |(model, books): (_, Books)| {
            TIMES.map(|(state, read)| {
                let seconds = read(books.time) as f64 / PER_SECOND;
                Sample::new([format!("{model}"), state.to_owned()], seconds)
            })
        };
        of_times.books().into_iter().flat_map(of_model).collect()
    })?;
    let blocks = Family {
        name: "realm_engine_kv_block_seconds_total",
        help: "How long sequences held KV blocks, counted for each block.",
        kind: FamilyKind::Counter,
        labels: &["model"],
    };
    let of_blocks = engines.clone();
    metrics.register(blocks, move || {
        let of_model = |(model, books): (_, Books)| {
            Sample::new([format!("{model}")], books.block_ns as f64 / PER_SECOND)
        };
        of_blocks.books().into_iter().map(of_model).collect()
    })
}

/// Of tenants that still have a key by name, and of all others together: who was removed while a
/// call of theirs came in is forgotten by their engine, and may be back in it once.
fn samples(engines: &Engines, roster: &watch::Receiver<Arc<Roster>>, read: Read) -> Vec<Sample> {
    let roster = roster.borrow().clone();
    let known: HashSet<&TenantName> = roster.tenants().collect();
    let mut samples = Vec::new();
    for (model, mut books) in engines.books() {
        books.retain(|tenant| known.contains(tenant));
        for (tenant, of_tenant) in books.tenants() {
            samples.extend(of_tenant.rows().map(|(way, used)| {
                let labels = [model.to_string(), tenant.to_string(), way.label().to_owned()];
                Sample::new(labels, read(used))
            }));
        }
        if books.gone() != Used::default() {
            let labels = [model.to_string(), GONE.to_owned(), GONE.to_owned()];
            samples.push(Sample::new(labels, read(books.gone())));
        }
    }
    samples
}

/// What a tenant's programs have spent of something.
type ReadSpent = fn(ProgramSpent) -> u64;

const PROGRAMS: [(&str, &str, ReadSpent); 4] = [
    (
        "realm_program_fuel_total",
        "Units of fuel that the tenant's programs have burnt, booked as calls end.",
        |spent| spent.fuel,
    ),
    (
        "realm_program_host_calls_total",
        "Calls of the host by the tenant's programs, booked as calls end.",
        |spent| spent.host_calls,
    ),
    (
        "realm_program_hook_overruns_total",
        "Tokens that went on without the tenant's hooks, which took too long, booked as calls end.",
        |spent| spent.hook_overruns,
    ),
    (
        "realm_program_instance_waits_total",
        "Runs of the tenant's program that waited for one of its instances, booked as calls end.",
        |spent| spent.instance_waits,
    ),
];

/// Lets Prometheus see what each tenant's programs have spent.
pub(super) fn register_programs(
    runtime: &Arc<Runtime>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    for (name, help, read) in PROGRAMS {
        let labels = &["tenant", "pipeline"];
        let family = Family { name, help, kind: FamilyKind::Counter, labels };
        let runtime = runtime.clone();
        metrics.register(family, move || {
            let mut samples = Vec::new();
            for (tenant, of_tenant) in runtime.spent() {
                // Zero before the first call: what a rate begins from.
                let none = of_tenant.is_empty().then_some((&Way::Direct, ProgramSpent::default()));
                samples.extend(of_tenant.rows().chain(none).map(|(way, spent)| {
                    let labels = [tenant.to_string(), way.label().to_owned()];
                    Sample::new(labels, read(spent) as f64)
                }));
            }
            samples
        })?;
    }
    let waiting = Family {
        name: "realm_program_runs_waiting",
        help: "Calls of the tenant that wait for one of its program's instances.",
        kind: FamilyKind::Gauge,
        labels: &["tenant"],
    };
    let runtime = runtime.clone();
    metrics.register(waiting, move || {
        let waiting = runtime.waiting().into_iter();
        waiting.map(|(tenant, calls)| Sample::new([tenant.to_string()], f64::from(calls))).collect()
    })
}
