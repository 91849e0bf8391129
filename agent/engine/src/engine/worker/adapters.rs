//! Adapters that somebody wants loaded, for as long as that somebody, or a sequence, is there.

use std::sync::{Weak, mpsc::SyncSender};

use super::{Interest, Worker};
use crate::{
    adapter::{AdapterError, AdapterId},
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
    /// Is told how many thousands of operations it is more for one row.
    pub(in crate::engine) reply: SyncSender<Result<u64, AdapterError>>,
}

/// What the thread keeps of one.
pub(super) struct Loaded {
    id: AdapterId,
    wanted: Weak<Interest>,
    /// Given back with the memory that it promised.
    _reservation: Reservation,
}

impl Worker {
    /// Loads an adapter between two steps: it is small beside the model.
    pub(super) fn adapt(&mut self, adapt: Adapt) {
        let Adapt { id, file, budget, wanted, reply } = adapt;
        let Some(executor) = &mut self.executor else { return };
        let needed = executor.adapter_bytes(&file);
        let loaded = match budget.reserve(needed) {
            None => Err(AdapterError::TooLarge { needed, left: budget.left() }),
            Some(reservation) => executor.adapt(id, &file).map(|kops| (kops, reservation)),
        };
        let told = loaded.map(|(kops, reservation)| {
            self.adapters.push(Loaded { id, wanted, _reservation: reservation });
            kops
        });
        // Who does not wait for it any more does not want it either.
        let _ = reply.try_send(told);
    }

    /// Forgets those that nobody wants any more, and no sequence has.
    pub(super) fn drop_adapters(&mut self) {
        let Self { adapters, executor, .. } = self;
        adapters.retain(|adapter| {
            let is_wanted = adapter.wanted.strong_count() > 0;
            if !is_wanted && let Some(executor) = executor {
                executor.forget_adapter(adapter.id);
            }
            is_wanted
        });
    }
}
