//! The numbers of the loaded engines, read when Prometheus asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use realm_core::{
    engine::{Engine, EngineLoad},
    name::ModelName,
};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};

type Read = fn(&EngineLoad) -> u64;

const GAUGES: [(&str, &str, Read); 5] = [
    ("realm_engine_sequences_queued", "Sequences that wait for their first step.", |load| {
        load.sequences_queued.into()
    }),
    ("realm_engine_sequences_running", "Sequences in the batch.", |load| {
        load.sequences_running.into()
    }),
    ("realm_engine_kv_blocks_used", "KV blocks held by running sequences.", |load| {
        load.kv_blocks_used.into()
    }),
    (
        "realm_engine_kv_blocks_cached",
        "KV blocks that hold finished prefixes and can be taken at once.",
        |load| load.kv_blocks_cached.into(),
    ),
    ("realm_engine_kv_blocks", "KV blocks there are.", |load| load.kv_blocks_total.into()),
];

const COUNTERS: [(&str, &str, Read); 3] = [
    ("realm_engine_prompt_tokens_total", "Prompt tokens taken in.", |load| {
        load.prompt_tokens_total
    }),
    (
        "realm_engine_cached_tokens_total",
        "Prompt tokens found in their own tenant's cache.",
        |load| load.cached_tokens_total,
    ),
    ("realm_engine_generated_tokens_total", "Tokens generated.", |load| {
        load.generated_tokens_total
    }),
];

/// The loaded engines by model.
#[derive(Clone, Default)]
pub(crate) struct Engines(Arc<RwLock<BTreeMap<ModelName, Arc<dyn Engine>>>>);

impl Engines {
    pub(crate) fn put(&self, name: ModelName, engine: Arc<dyn Engine>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, engine);
    }

    pub(crate) fn remove(&self, name: &ModelName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// How busy each loaded model is.
    pub(crate) fn loads(&self) -> Vec<(ModelName, EngineLoad)> {
        let engines = self.0.read().unwrap_or_else(PoisonError::into_inner);
        engines.iter().map(|(name, engine)| (name.clone(), engine.load())).collect()
    }

    /// Takes the engine of that name away if it has failed.
    pub(crate) fn take_failed(&self, name: &ModelName) -> Option<Arc<dyn Engine>> {
        let mut engines = self.0.write().unwrap_or_else(PoisonError::into_inner);
        engines.get(name).filter(|engine| engine.load().failed)?;
        engines.remove(name)
    }

    /// Lets Prometheus see each loaded model as one series of each family.
    pub(crate) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let gauges = GAUGES.into_iter().map(|family| (FamilyKind::Gauge, family));
        let counters = COUNTERS.into_iter().map(|family| (FamilyKind::Counter, family));
        for (kind, (name, help, read)) in gauges.chain(counters) {
            let engines = self.clone();
            let family = Family { name, help, kind, labels: &["model"] };
            metrics.register(family, move || engines.samples(read))?;
        }
        Ok(())
    }

    fn samples(&self, read: Read) -> Vec<Sample> {
        let engines = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let sample = |(name, engine): (&ModelName, &Arc<dyn Engine>)| Sample {
            labels: vec![name.to_string()],
            value: read(&engine.load()) as f64,
        };
        engines.iter().map(sample).collect()
    }
}
