//! Adapters: a model each of its own to those who call it, and a part of another's memory.

use std::sync::Arc;

use realm_core::{
    desired::DesiredModel,
    engine::Engine,
    name::ModelName,
    report::{Failure, ModelFacts, ModelPhase},
};
use realm_engine::EngineHandle;
use realm_runtime::Awaited;
use tokio::task::spawn_blocking;

use super::{panicked, unloaded};
use crate::{Agent, beside::Adapters, devices};

impl Agent {
    /// Loads an adapter beside its model, which has been loaded.
    pub(super) async fn load_adapter(
        &self,
        model: &DesiredModel,
        base: &ModelName,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        let stored = self.fetch_model(model, progress).await?;
        progress(ModelPhase::Loading);
        self.runtime.await_model(model.name.clone(), Awaited::Loading);
        let Some(engine) = self.beside.model(base) else {
            let message = format!("`{base}` is not loaded here");
            return Err(Failure { reason: "ModelMissing", message });
        };
        let (device, name) = (self.device.clone(), model.name.clone());
        let (beside, sha256) = (engine.clone(), stored.sha256);
        let loaded = spawn_blocking(move || devices::load_adapter(&device, &beside, &stored, name))
            .await
            .map_err(|panic| panicked(&panic))?;
        let (adapted, mut facts) = loaded.map_err(|error| unloaded(&error))?;
        facts.sha256 = Some(sha256);
        self.serve_adapter((base, &engine), &model.name, Arc::new(adapted))?;
        Ok(facts)
    }

    /// Lets calls use an adapter, in place of whatever was served by its name, unless its model has
    /// been replaced meanwhile.
    fn serve_adapter(
        &self,
        base: (&ModelName, &Arc<EngineHandle>),
        name: &ModelName,
        adapted: Arc<dyn Engine>,
    ) -> Result<(), Failure> {
        let serve = |adapted| self.runtime.put_model(name.clone(), adapted);
        if !self.beside.put_adapter(base, (name.clone(), adapted), serve) {
            let message = format!("`{}` has been loaded anew meanwhile", base.0);
            return Err(Failure { reason: "ModelReplaced", message });
        }
        // It may have been a model of its own before.
        self.engines.remove(name);
        self.part(self.beside.remove_model(name), "ModelRemoved");
        Ok(())
    }

    /// Lets no more calls use adapters whose model is gone.
    pub(super) fn part(&self, adapters: Adapters, reason: &'static str) {
        for (name, adapted) in adapters {
            self.runtime.lose_model(&name, &adapted, reason);
        }
    }
}
