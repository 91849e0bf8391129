//! The calls that run on one socket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Ids = HashMap<String, CancellationToken>;

/// Dropping it cancels every call.
#[derive(Debug, Default)]
pub(super) struct Calls {
    ids: Arc<Mutex<Ids>>,
    /// Those that run, and those that only have their last frame to deliver.
    tasks: JoinSet<()>,
}

/// A running call's id. Dropping it makes the id free again.
#[derive(Debug)]
pub(super) struct Registered {
    ids: Arc<Mutex<Ids>>,
    id: String,
    cancel: CancellationToken,
}

impl Calls {
    pub(super) fn register(&self, id: String) -> Registered {
        let cancel = CancellationToken::new();
        lock(&self.ids).insert(id.clone(), cancel.clone());
        Registered { ids: self.ids.clone(), id, cancel }
    }

    pub(super) fn is_running(&self, id: &str) -> bool {
        lock(&self.ids).contains_key(id)
    }

    pub(super) fn running(&self) -> u32 {
        u32::try_from(lock(&self.ids).len()).unwrap_or(u32::MAX)
    }

    pub(super) fn cancel(&self, id: &str) {
        if let Some(cancel) = lock(&self.ids).get(id) {
            cancel.cancel();
        }
    }

    pub(super) fn spawn(&mut self, call: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(call);
    }

    /// Whether every call has ended and delivered its last frame.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) async fn one_ended(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await
            && error.is_panic()
        {
            tracing::error!(%error, "answering a call");
        }
    }

    pub(super) async fn all_ended(&mut self) {
        while !self.is_idle() {
            self.one_ended().await;
        }
    }

    /// Waits while as many ended calls as may run have last frames their client does not take.
    pub(super) async fn make_room(&mut self, running_max: u32) {
        let running_max = usize::try_from(running_max).unwrap_or(usize::MAX);
        while self.tasks.len() >= running_max.saturating_mul(2) {
            self.one_ended().await;
        }
    }
}

impl Registered {
    pub(super) fn id(&self) -> String {
        self.id.clone()
    }

    pub(super) const fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.ids).remove(&self.id);
    }
}

fn lock(ids: &Mutex<Ids>) -> MutexGuard<'_, Ids> {
    ids.lock().unwrap_or_else(PoisonError::into_inner)
}
