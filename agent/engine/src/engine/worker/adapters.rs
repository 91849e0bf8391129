//! Adapters that somebody wants loaded, for as long as that somebody, or a sequence, is there.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Weak, mpsc::SyncSender},
};

use super::{Interest, Worker};
use crate::{
    adapter::{AdapterError, AdapterId, AdapterWork},
    budget::{MemoryBudget, Reservation},
    gguf::Gguf,
};

/// An adapter on its way to the thread.
pub(in crate::engine) struct Adapt {
    pub(in crate::engine) id: AdapterId,
    pub(in crate::engine) file: Gguf,
    pub(in crate::engine) budget: MemoryBudget,
    /// Gone when nobody wants it any more.
    pub(in crate::engine) wanted: Weak<Interest>,
    pub(in crate::engine) reply: SyncSender<Result<AdapterWork, AdapterError>>,
}

/// The adapters that the thread keeps, and what they compute in while there are any.
#[derive(Default)]
pub(super) struct Adapters {
    loaded: Vec<Loaded>,
    step: Option<Reservation>,
}

struct Loaded {
    id: AdapterId,
    wanted: Weak<Interest>,
    /// Given back with the memory that it promised.
    _reservation: Reservation,
}

impl Worker {
    /// Loads an adapter between two steps: what the file holds is in memory by then, and is copied.
    pub(super) fn adapt(&mut self, adapt: Adapt) {
        let Adapt { id, file, budget, wanted, reply } = adapt;
        let told = self.load_adapter(id, &file, &budget).map(|(work, reservation)| {
            self.adapters.loaded.push(Loaded { id, wanted, _reservation: reservation });
            work
        });
        if told.is_err() {
            self.forget_adapter(id);
        }
        // Who does not wait for it any more does not want it either.
        let _ = reply.try_send(told);
    }

    fn load_adapter(
        &mut self,
        id: AdapterId,
        file: &Gguf,
        budget: &MemoryBudget,
    ) -> Result<(AdapterWork, Reservation), AdapterError> {
        let executor = self.executor.as_mut().ok_or(AdapterError::Gone)?;
        let promise = |needed: u64| {
            let too_large = || AdapterError::TooLarge { needed, left: budget.left() };
            budget.reserve(needed).ok_or_else(too_large)
        };
        let reservation = promise(executor.adapter_bytes(file))?;
        if self.adapters.step.is_none() {
            self.adapters.step = Some(promise(executor.adapter_step_bytes())?);
        }
        // Whatever a file makes of it, the model's own sequences go on.
        let loaded = catch_unwind(AssertUnwindSafe(|| executor.adapt(id, file)));
        Ok((loaded.unwrap_or(Err(AdapterError::Panicked))?, reservation))
    }

    /// Forgets those that nobody wants any more, and no sequence has.
    pub(super) fn drop_adapters(&mut self) {
        let is_unwanted = |adapter: &mut Loaded| adapter.wanted.strong_count() == 0;
        let unwanted: Vec<_> = self.adapters.loaded.extract_if(.., is_unwanted).collect();
        for adapter in unwanted {
            self.forget_adapter(adapter.id);
        }
    }

    fn forget_adapter(&mut self, id: AdapterId) {
        if let Some(executor) = &mut self.executor {
            executor.forget_adapter(id);
        }
        if self.adapters.loaded.is_empty() {
            self.adapters.step = None;
        }
    }
}
