//! Which adapters are loaded beside which model: the one owner of what holds them there.
//!
//! An adapter holds the model that it was loaded beside, weights and all. So it goes when that one
//! goes, or is replaced by another of its name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::{engine::Engine, name::ModelName};
use realm_engine::EngineHandle;

/// Adapters by name, as they are served.
pub(crate) type Adapters = BTreeMap<ModelName, Arc<dyn Engine>>;

/// The loaded models that adapters can be beside.
#[derive(Default)]
pub(crate) struct Beside(Mutex<BTreeMap<ModelName, Model>>);

struct Model {
    engine: Arc<EngineHandle>,
    adapters: Adapters,
}

impl Beside {
    /// Lets adapters be beside a model. Gives those that are beside the one before it.
    pub(crate) fn put_model(&self, name: ModelName, engine: Arc<EngineHandle>) -> Adapters {
        let model = Model { engine, adapters: Adapters::new() };
        self.lock().insert(name, model).map(|before| before.adapters).unwrap_or_default()
    }

    /// Forgets a model. Gives the adapters that are beside it.
    pub(crate) fn remove_model(&self, name: &ModelName) -> Adapters {
        self.lock().remove(name).map(|model| model.adapters).unwrap_or_default()
    }

    /// What serves a model that is no adapter.
    pub(crate) fn model(&self, name: &ModelName) -> Option<Arc<EngineHandle>> {
        self.lock().get(name).map(|model| model.engine.clone())
    }

    /// Notes an adapter that was loaded beside `engine`, and has it served; false if that is not
    /// what serves the model any more.
    pub(crate) fn put_adapter(
        &self,
        (base, engine): (&ModelName, &Arc<EngineHandle>),
        (name, adapted): (ModelName, Arc<dyn Engine>),
        serve: impl FnOnce(Arc<dyn Engine>),
    ) -> bool {
        let mut models = self.lock();
        let model = models.get(base).is_some_and(|model| Arc::ptr_eq(&model.engine, engine));
        if !model {
            return false;
        }
        for model in models.values_mut() {
            model.adapters.remove(&name);
        }
        if let Some(model) = models.get_mut(base) {
            model.adapters.insert(name, adapted.clone());
        }
        serve(adapted);
        true
    }

    pub(crate) fn remove_adapter(&self, name: &ModelName) {
        for model in self.lock().values_mut() {
            model.adapters.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelName, Model>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
