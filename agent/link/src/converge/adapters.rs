//! Adapters: each is loaded beside its model, and gone with it.

use realm_core::{
    desired::{DesiredModel, Stage},
    name::ModelName,
};

use super::{Converger, Fact};
use crate::diff::{Held, Key, Spec, Step};

/// The model that a step loads an adapter of.
fn base_of(step: &Step) -> Option<&ModelName> {
    match step {
        Step::Put(Spec::Model(model)) => base(model),
        Step::Put(Spec::Pipeline(_) | Spec::Tenant(_)) | Step::Remove(_) => None,
    }
}

/// What a model must be beside of once it is loaded. Its file alone is brought and read anywhere.
const fn base(model: &DesiredModel) -> Option<&ModelName> {
    match model.stage {
        Stage::Load => model.base.as_ref(),
        Stage::Inspect | Stage::Prefetch => None,
    }
}

impl<R> Converger<R> {
    /// Whether nothing keeps a step waiting but its own turn: an adapter waits for its model. One
    /// that is loaded will do while another form of it is on its way, or fails.
    pub(super) fn is_based(&self, step: &Step) -> bool {
        let Some(base) = base_of(step) else { return true };
        let held = self.facts.get(&Key::Model(base.clone()));
        matches!(held, Some(Fact::Model(held)) if held.stage == Stage::Load)
    }

    /// Knows no more of the adapters of a model that is not the one that they were loaded beside:
    /// they are put again once it is loaded.
    pub(super) fn unsettle_adapters(&mut self, of: &Key) {
        let Key::Model(model) = of else { return };
        // Why one failed beside another model is no reason to wait.
        self.retries.retain(|_, retry| base_of(&retry.step) != Some(model));
        let facts = &mut self.facts;
        for (key, held) in &mut self.holding {
            if matches!(held, Held::Known(Spec::Model(it)) if base(it) == Some(model)) {
                *held = Held::Unknown;
                facts.remove(key);
            }
        }
        // One that is under way is beside the one that goes.
        let running = self.running.values().filter(|it| base_of(&it.step) == Some(model));
        running.for_each(|running| running.abort.abort());
    }
}
