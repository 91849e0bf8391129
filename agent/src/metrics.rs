//! What Prometheus sees of an agent besides its door, read when it asks.
//!
//! Here are the loaded engines, then how each tenant is served by them (`tenants`), who has used how
//! much of them and of its own programs (`used`), what the node holds (`node`), and the link to the
//! operator (`link`).

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use realm_core::{
    books::Books,
    engine::{Engine, EngineInfo, EngineLoad, Ledger, TenantLoad, Wait},
    name::{ModelName, TenantName},
    uses::{TenantUse, Uses},
};
use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};

use crate::Agent;

mod link;
mod node;
mod tenants;
mod used;

pub(crate) use self::{link::register as register_link, node::register as register_node};

/// A number of a loaded model.
type Read = fn(&EngineLoad, &EngineInfo) -> f64;

/// With `realm_engine_kv_blocks`, what the Gateway API's inference extension asks of a model
/// server: calls queued and running, the use of the KV cache, and its block size and number.
const GAUGES: [(&str, &str, Read); 7] = [
    ("realm_engine_sequences_queued", "Sequences that wait for their first step.", |load, _| {
        load.sequences_queued.into()
    }),
    ("realm_engine_sequences_running", "Sequences in the batch.", |load, _| {
        load.sequences_running.into()
    }),
    (
        "realm_engine_kv_used_ratio",
        "Part of the KV blocks held by running sequences.",
        |load, _| f64::from(load.kv_blocks_used) / f64::from(load.kv_blocks_total.max(1)),
    ),
    ("realm_engine_kv_blocks_used", "KV blocks held by running sequences.", |load, _| {
        load.kv_blocks_used.into()
    }),
    (
        "realm_engine_kv_blocks_cached",
        "KV blocks that hold finished prefixes and can be taken at once.",
        |load, _| load.kv_blocks_cached.into(),
    ),
    ("realm_engine_kv_blocks", "KV blocks there are.", |load, _| load.kv_blocks_total.into()),
    ("realm_engine_kv_block_tokens", "Tokens in one KV block.", |_, info| info.block_tokens.into()),
];

const COUNTERS: [(&str, &str, Read); 3] = [
    ("realm_engine_prompt_tokens_total", "Prompt tokens taken in.", |load, _| {
        load.prompt_tokens_total as f64
    }),
    ("realm_engine_cached_tokens_total", "Prompt tokens found in the cache.", |load, _| {
        load.cached_tokens_total as f64
    }),
    ("realm_engine_generated_tokens_total", "Tokens generated.", |load, _| {
        load.generated_tokens_total as f64
    }),
];

/// The loaded engines by model, and what all loads have counted.
#[derive(Clone, Default)]
pub(crate) struct Engines(Arc<RwLock<Loads>>);

struct Loads {
    open: BTreeMap<ModelName, Arc<dyn Engine>>,
    /// Of engines that were taken away, while calls may still run in them.
    ended: Vec<Arc<dyn Ledger>>,
    uses: Uses,
}

impl Default for Loads {
    fn default() -> Self {
        // Small enough to be a number in JSON, and another one in each process.
        let first_epoch = RandomState::new().hash_one("uses") >> 12;
        Self { open: BTreeMap::new(), ended: Vec::new(), uses: Uses::new(first_epoch) }
    }
}

impl Loads {
    /// Keeps the books of an engine that was taken away, and adds up those of earlier ones, since
    /// not everywhere does somebody ask for the sums: what is kept is a row of each tenant, and the
    /// books of engines that somebody still holds.
    fn end(&mut self, engine: Option<&Arc<dyn Engine>>) {
        self.add_up();
        self.ended.extend(engine.map(|engine| engine.ledger()));
    }

    /// Turns books that are complete into the rows of their tenants.
    fn add_up(&mut self) {
        let Self { open: _, ended, uses } = self;
        ended.retain(|ledger| {
            // Nobody adds to what nobody else holds.
            let is_open = Arc::strong_count(ledger) > 1;
            if !is_open {
                uses.end(&ledger.books());
            }
            is_open
        });
    }
}

impl Engines {
    pub(crate) fn put(&self, name: ModelName, engine: Arc<dyn Engine>) {
        let mut loads = self.write();
        let old = loads.open.insert(name, engine);
        loads.end(old.as_ref());
    }

    pub(crate) fn remove(&self, name: &ModelName) {
        let mut loads = self.write();
        let old = loads.open.remove(name);
        loads.end(old.as_ref());
    }

    /// What each tenant has used since the agent started, with the fuel that its programs have
    /// burnt since they came. That is read while no tenant can be forgotten: one that goes between
    /// the two would have all its fuel once more, in a row of a new epoch.
    pub(crate) fn uses(&self, fuel: impl FnOnce() -> BTreeMap<TenantName, u64>) -> Vec<TenantUse> {
        let mut loads = self.write();
        loads.add_up();
        let Loads { open, ended, uses } = &mut *loads;
        let books = open.values().map(|engine| engine.books());
        let books: Vec<Books> = books.chain(ended.iter().map(|ledger| ledger.books())).collect();
        uses.look(&books, &fuel())
    }

    fn read(&self) -> RwLockReadGuard<'_, Loads> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Loads> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How busy each loaded model is.
    pub(crate) fn loads(&self) -> Vec<(ModelName, EngineLoad)> {
        let engines = &self.read().open;
        engines.iter().map(|(name, engine)| (name.clone(), engine.load())).collect()
    }

    /// The books of each loaded model.
    fn books(&self) -> Vec<(ModelName, Books)> {
        let engines = &self.read().open;
        engines.iter().map(|(name, engine)| (name.clone(), engine.books())).collect()
    }

    /// Whose calls are kept waiting at some model, and by what; a tenant may be there several times.
    pub(crate) fn take_waits(&self) -> Vec<(TenantName, Wait)> {
        self.read().open.values().flat_map(|engine| engine.take_waits()).collect()
    }

    /// How each tenant is served by each loaded model.
    fn tenants(&self) -> Vec<(ModelName, TenantName, TenantLoad)> {
        let engines = &self.read().open;
        let of_engine = |(model, engine): (&ModelName, &Arc<dyn Engine>)| {
            let model = model.clone();
            let tenants = engine.tenants().into_iter();
            tenants.map(move |(tenant, load)| (model.clone(), tenant, load))
        };
        engines.iter().flat_map(of_engine).collect()
    }

    /// Drops what every engine counts of a tenant that is gone.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        let Loads { open, ended, uses } = &mut *self.write();
        for engine in open.values() {
            engine.forget(tenant);
        }
        for ledger in ended {
            ledger.forget(tenant);
        }
        uses.forget(tenant);
    }

    /// Takes the engine of that name away if it has failed.
    pub(crate) fn take_failed(&self, name: &ModelName) -> Option<Arc<dyn Engine>> {
        let mut loads = self.write();
        loads.open.get(name).filter(|engine| engine.load().failed)?;
        let failed = loads.open.remove(name);
        loads.end(failed.as_ref());
        failed
    }

    /// Lets Prometheus see each loaded model as one series of each family.
    fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
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
        let engines = &self.read().open;
        let sample = |(name, engine): (&ModelName, &Arc<dyn Engine>)| {
            Sample::new([name.to_string()], read(&engine.load(), engine.info()))
        };
        engines.iter().map(sample).collect()
    }
}

/// Lets Prometheus see what this agent computes and for whom.
pub(crate) fn register(agent: &Agent, metrics: &Metrics) -> Result<(), MetricsError> {
    let build = Family {
        name: "realm_build_info",
        help: "1, under the version of the program.",
        kind: FamilyKind::Gauge,
        labels: &["version"],
    };
    metrics.register(build, || vec![Sample::new([env!("CARGO_PKG_VERSION").to_owned()], 1.0)])?;
    agent.engines.register(metrics)?;
    tenants::register(&agent.engines, &agent.roster(), metrics)?;
    tenants::register_shadowed(agent.limiter(), metrics)?;
    tenants::register_rights(&agent.engines, &agent.roster(), metrics)?;
    used::register(&agent.engines, &agent.roster(), metrics)?;
    used::register_programs(&agent.runtime, metrics)
}

#[cfg(test)]
mod tests {
    use realm_core::{
        auth::Caller,
        books::{Used, Way},
        engine::{ChatMessage, Generation, TextError, TokenStream},
        refusal::Refusal,
    };

    use super::*;

    /// Books that nobody adds to any more, once the engine is gone.
    struct Written(Books);

    impl Ledger for Written {
        fn books(&self) -> Books {
            self.0.clone()
        }

        fn forget(&self, _: &TenantName) {}
    }

    /// An engine that has failed after it generated 3 tokens for one tenant.
    pub(super) struct Loaded {
        info: EngineInfo,
        ledger: Arc<Written>,
    }

    impl Engine for Loaded {
        fn info(&self) -> &EngineInfo {
            &self.info
        }

        fn tokenize(&self, _: &str, _: bool) -> Result<Vec<u32>, TextError> {
            Err(TextError::NoChatTemplate)
        }

        fn detokenize(&self, _: &[u32]) -> Result<Vec<u8>, TextError> {
            Err(TextError::NoChatTemplate)
        }

        fn tokenize_chat(&self, _: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
            Err(TextError::NoChatTemplate)
        }

        fn generate(&self, _: &Caller, _: Generation) -> Result<TokenStream, Refusal> {
            Err(Refusal::Internal)
        }

        fn draw_seed(&self) -> u64 {
            0
        }

        fn load(&self) -> EngineLoad {
            EngineLoad { failed: true, ..EngineLoad::default() }
        }

        fn books(&self) -> Books {
            self.ledger.books()
        }

        fn ledger(&self) -> Arc<dyn Ledger> {
            self.ledger.clone()
        }

        fn tenants(&self) -> Vec<(TenantName, TenantLoad)> {
            vec![(tenant(), TenantLoad::default())]
        }
    }

    pub(super) fn model() -> ModelName {
        ModelName::new("default", "m").unwrap()
    }

    fn tenant() -> TenantName {
        TenantName::new("default", "a").unwrap()
    }

    pub(super) fn loaded() -> Arc<Loaded> {
        let mut books = Books::default();
        books.add(&tenant(), &Way::Direct, Used { generated_tokens: 3, ..Used::default() });
        let info = EngineInfo {
            model: model(),
            architecture: "llama".to_owned(),
            context: 1,
            vocabulary: 1,
            block_tokens: 1,
            has_chat_template: false,
        };
        Arc::new(Loaded { info, ledger: Arc::new(Written(books)) })
    }

    #[test]
    fn books_of_engines_that_went_do_not_pile_up_where_nobody_asks_for_the_sums() {
        let engines = Engines::default();
        for _ in 0..5 {
            engines.put(model(), loaded());
            engines.put(model(), loaded());
            engines.remove(&model());
            engines.put(model(), loaded());
            assert!(engines.take_failed(&model()).is_some());
            assert!(engines.read().ended.len() <= 1, "the last engine's books alone");
        }
        let uses = engines.uses(BTreeMap::new);
        assert_eq!(uses.iter().map(|it| it.used.generated_tokens).collect::<Vec<_>>(), [45]);
    }

    #[test]
    fn books_that_somebody_may_still_add_to_are_kept() {
        let engines = Engines::default();
        let held = loaded();
        engines.put(model(), held.clone());
        for _ in 0..3 {
            engines.remove(&model());
            engines.put(model(), loaded());
        }
        assert_eq!(engines.read().ended.len(), 1, "the one that is held alone");
        drop(held);
        engines.put(model(), loaded());
        let uses = engines.uses(BTreeMap::new);
        assert_eq!(engines.read().ended.len(), 0);
        assert_eq!(uses.iter().map(|it| it.used.generated_tokens).sum::<u64>(), 15);
    }

    #[test]
    fn fuel_is_read_while_no_tenant_can_be_forgotten() {
        let engines = Engines::default();
        let burnt = || {
            assert!(engines.0.try_read().is_err(), "whoever forgets a tenant waits for this");
            BTreeMap::from([(tenant(), 5)])
        };
        assert_eq!(engines.uses(burnt).len(), 1);
    }
}
