//! Places for hooks that are asked about a generation which has not begun.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Generations that one tenant's hooks are asked about at once: as many as may then have them in one
/// engine, for behind each there is an instance with as much memory as its tenant's programs may
/// have. Whoever waits is a call of the tenant's own, so there are as many as it has calls.
const ASKED_AT_ONCE_MAX: usize = 4;

/// The places of one tenant. Whoever waits is served in order.
///
/// They are apart from the engine's places for generations with hooks, since a generation may come to
/// have none: it waits for a moment, and is never refused because others have theirs.
#[derive(Clone, Debug)]
pub(crate) struct Asks(Arc<Semaphore>);

impl Default for Asks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX)))
    }
}

/// A place, from before an instance comes up until it is gone or has an engine's.
#[derive(Debug)]
pub(crate) struct Asked {
    _place: OwnedSemaphorePermit,
}

impl Asks {
    /// Waits for a place.
    pub(crate) async fn take(&self) -> Result<Asked, AcquireError> {
        Ok(Asked { _place: self.0.clone().acquire_owned().await? })
    }
}
