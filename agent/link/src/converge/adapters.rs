//! Adapters: each is loaded beside its model, and gone with it.

use realm_core::{
    desired::{DesiredModel, Stage},
    name::ModelName,
    report::Failure,
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
pub(super) const fn base(model: &DesiredModel) -> Option<&ModelName> {
    match model.stage {
        Stage::Load => model.base.as_ref(),
        Stage::Inspect | Stage::Prefetch => None,
    }
}

impl<R> Converger<R> {
    /// Whether nothing keeps a step waiting but its own turn: an adapter waits for its model, in the
    /// newest form of that. Where this fails, one that is loaded will do.
    pub(super) fn is_based(&self, step: &Step) -> bool {
        let Some(base) = base_of(step) else { return true };
        let key = Key::Model(base.clone());
        let is_newest = match (self.holding.get(&key), self.goal.get(&key)) {
            (Some(Held::Known(held)), Some(wanted)) => held == wanted,
            _ => false,
        };
        self.has_loaded(&key) && (is_newest || self.retries.contains_key(&key))
    }

    fn has_loaded(&self, key: &Key) -> bool {
        matches!(self.facts.get(key), Some(Fact::Model(held)) if held.stage == Stage::Load)
    }

    /// Why an adapter that is to be loaded is not tried: what its model has failed for.
    pub(super) fn missing_base(&self, key: &Key) -> Option<Failure> {
        let Some(Spec::Model(model)) = self.goal.get(key) else { return None };
        let base = base(model)?;
        let key = Key::Model(base.clone());
        let is_missing = !self.has_loaded(&key) && !self.running.contains_key(&key);
        let retry = self.retries.get(&key).filter(|_| is_missing)?;
        let Failure { reason, message } = &retry.failure;
        let message =
            format!("`{base}`, which it is an adapter of, is not loaded: {reason}: {message}");
        Some(Failure { reason: "ModelMissing", message })
    }

    /// Knows no more of the adapters of a model that is not the one that they were loaded beside:
    /// they are put again once it is loaded.
    pub(super) fn unsettle_adapters(&mut self, of: &Key) {
        let Key::Model(model) = of else { return };
        // Why one failed beside another model is no reason to wait.
        self.retries.retain(|_, retry| base_of(&retry.step) != Some(model));
        let is_beside =
            |fact: &Fact| matches!(fact, Fact::Model(held) if held.base.as_ref() == Some(model));
        // Whatever is tried in its place: what was loaded beside that model is gone.
        for (key, _) in self.facts.extract_if(.., |_, fact| is_beside(fact)) {
            self.holding.insert(key, Held::Unknown);
        }
        // One that is under way may be beside the one that goes.
        let running = self.running.values_mut().filter(|it| base_of(&it.step) == Some(model));
        for running in running {
            running.is_unsettled = true;
            running.abort.abort();
        }
    }
}
