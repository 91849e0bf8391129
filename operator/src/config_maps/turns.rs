//! Whose turn it is to have an entry read: one of each node's at a time, and so many of all
//! together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Entries that are read or sent at once: each is there as text, as bytes and in pieces, four
/// megabytes together, and a hundred agents that all ask for the same one have it within seconds.
const READS_AT_ONCE: usize = 4;

/// The turns of all nodes. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Of the nodes that have or want one. What nobody holds any more is swept when another comes.
    own: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// A node's turn, for as long as it is held.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(READS_AT_ONCE)), own: Arc::default() }
    }
}

impl Turns {
    /// Waits for the turn of `node`: for its own one before this to be over, and then, behind one of
    /// each other node at most, for a place. An agent asks for one thing at a time, so only one that
    /// was cut off waits for itself, until it has been noticed that nobody reads any more.
    ///
    /// `None` if there are no places any more, which never is.
    pub(crate) async fn take(&self, node: &str) -> Option<Turn> {
        // In this order: what waits for its own node keeps no place meanwhile.
        let own = self.own(node).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _own: own, _all: all })
    }

    fn own(&self, node: &str) -> Arc<Semaphore> {
        let mut nodes = self.nodes();
        nodes.retain(|_, own| own.strong_count() > 0);
        if let Some(own) = nodes.get(node).and_then(Weak::upgrade) {
            return own;
        }
        let own = Arc::new(Semaphore::new(1));
        nodes.insert(node.to_owned(), Arc::downgrade(&own));
        own
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Weak<Semaphore>>> {
        // Each change is one insertion or removal.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn no_node_has_more_than_one_turn_however_often_it_asks() {
        let turns = Turns::default();
        let first = turns.take("greedy").now_or_never().flatten().unwrap();
        let mut more: Vec<_> = (0..9).map(|_| Box::pin(turns.take("greedy"))).collect();
        assert!(more.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let others: Vec<_> = (1..READS_AT_ONCE)
            .map(|n| turns.take(&format!("node-{n}")).now_or_never().flatten().unwrap())
            .collect();
        drop((first, more));
        let again = turns.take("greedy").now_or_never().flatten();
        assert!(again.is_some(), "its first one is over");
        let late = turns.take("late").now_or_never();
        assert!(late.is_none(), "there are only so many");
        drop((again, others));
        assert!(turns.take("late").now_or_never().flatten().is_some());
        assert_eq!(turns.nodes().len(), 1, "of others there is nothing left");
    }
}
