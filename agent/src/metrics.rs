//! The numbers of the loaded engines, read when Prometheus asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use realm_core::{
    engine::{Engine, EngineLoad},
    name::ModelName,
};

/// One family of numbers, with one series a model.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&EngineLoad) -> u64,
}

const FAMILIES: [Family; 8] = [
    Family {
        name: "realm_engine_sequences_queued",
        help: "Sequences that wait for their first step.",
        kind: MetricType::GAUGE,
        value: |load| load.sequences_queued.into(),
    },
    Family {
        name: "realm_engine_sequences_running",
        help: "Sequences in the batch.",
        kind: MetricType::GAUGE,
        value: |load| load.sequences_running.into(),
    },
    Family {
        name: "realm_engine_kv_blocks_used",
        help: "KV blocks held by running sequences.",
        kind: MetricType::GAUGE,
        value: |load| load.kv_blocks_used.into(),
    },
    Family {
        name: "realm_engine_kv_blocks_cached",
        help: "KV blocks that hold finished prefixes and can be taken at once.",
        kind: MetricType::GAUGE,
        value: |load| load.kv_blocks_cached.into(),
    },
    Family {
        name: "realm_engine_kv_blocks",
        help: "KV blocks there are.",
        kind: MetricType::GAUGE,
        value: |load| load.kv_blocks_total.into(),
    },
    Family {
        name: "realm_engine_prompt_tokens_total",
        help: "Prompt tokens taken in.",
        kind: MetricType::COUNTER,
        value: |load| load.prompt_tokens_total,
    },
    Family {
        name: "realm_engine_cached_tokens_total",
        help: "Prompt tokens found in their own tenant's cache.",
        kind: MetricType::COUNTER,
        value: |load| load.cached_tokens_total,
    },
    Family {
        name: "realm_engine_generated_tokens_total",
        help: "Tokens generated.",
        kind: MetricType::COUNTER,
        value: |load| load.generated_tokens_total,
    },
];

/// The loaded engines by model.
#[derive(Clone)]
pub(crate) struct Engines {
    engines: Arc<RwLock<BTreeMap<ModelName, Arc<dyn Engine>>>>,
    descriptions: Arc<[Desc]>,
}

impl Engines {
    pub(crate) fn new() -> Self {
        let description = |Family { name, help, .. }: &Family| {
            Desc::new((*name).to_owned(), (*help).to_owned(), vec!["model".to_owned()], HashMap::new())
                .expect("the families above are named well")
        };
        let descriptions = FAMILIES.iter().map(description).collect();
        Self { engines: Arc::default(), descriptions }
    }

    pub(crate) fn put(&self, name: ModelName, engine: Arc<dyn Engine>) {
        self.engines.write().unwrap_or_else(PoisonError::into_inner).insert(name, engine);
    }

    pub(crate) fn remove(&self, name: &ModelName) {
        self.engines.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn loads(&self) -> Vec<(ModelName, EngineLoad)> {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
        engines.iter().map(|(name, engine)| (name.clone(), engine.load())).collect()
    }
}

impl Collector for Engines {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let loads = self.loads();
        FAMILIES.iter().filter(|_| !loads.is_empty()).map(|family| gather(family, &loads)).collect()
    }
}

fn gather(family: &Family, loads: &[(ModelName, EngineLoad)]) -> MetricFamily {
    let series = |(model, load): &(ModelName, EngineLoad)| {
        let mut label = LabelPair::new();
        label.set_name("model".to_owned());
        label.set_value(model.to_string());
        let mut metric = Metric::from_label(vec![label]);
        #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
        let value = (family.value)(load) as f64;
        if family.kind == MetricType::COUNTER {
            let mut counter = Counter::new();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::new();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    };
    let mut gathered = MetricFamily::new();
    gathered.set_name(family.name.to_owned());
    gathered.set_help(family.help.to_owned());
    gathered.set_field_type(family.kind);
    gathered.set_metric(loads.iter().map(series).collect());
    gathered
}
