//! Says when the folder may have changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::Notify, time};

/// How long the folder must be quiet: an editor writes a file in several steps within this.
const QUIET: Duration = Duration::from_millis(100);

/// The longest wait for quiet, so that a file that never rests delays no other.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);

/// When to look without having been told: some file systems tell nothing, and a folder that was
/// replaced is no longer the one that is watched.
const LOOK_ANYWAY_EVERY: Duration = Duration::from_secs(30);

/// The same where the system tells nothing at all.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A watched folder.
pub(crate) struct Watch {
    dir: PathBuf,
    touched: Arc<Notify>,
    /// `None` where the system has no watch to give; then the folder is looked at every second.
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches `dir`. Without a watch from the system, the error says why and the watch works on.
    pub(crate) fn new(dir: &Path) -> (Self, Option<notify::Error>) {
        let touched = Arc::new(Notify::new());
        let watcher = notify::recommended_watcher({
            let touched = touched.clone();
            move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| is_change(event.kind)) {
                    touched.notify_one();
                }
            }
        });
        let (watcher, error) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error)),
        };
        let mut watch = Self { dir: dir.to_owned(), touched, watcher };
        let error = error.or_else(|| watch.watch_again().err());
        (watch, error)
    }

    /// Waits until the folder may have changed and is quiet again.
    pub(crate) async fn changed(&mut self) {
        let every = if self.watcher.is_some() { LOOK_ANYWAY_EVERY } else { LOOK_EVERY };
        if time::timeout(every, self.touched.notified()).await.is_ok() {
            let quiet =
                async { while time::timeout(QUIET, self.touched.notified()).await.is_ok() {} };
            // When the wait is over the folder is read as it is, and again after its next change.
            let _ = time::timeout(QUIET_WAIT_MAX, quiet).await;
        }
        // A folder that is away now may be there the next time.
        let _ = self.watch_again();
    }

    /// Watches whatever is at the path now. Of a folder that is watched already nothing changes.
    fn watch_again(&mut self) -> notify::Result<()> {
        match &mut self.watcher {
            Some(watcher) => watcher.watch(&self.dir, RecursiveMode::NonRecursive),
            None => Ok(()),
        }
    }
}

/// Reading a file is an event too, and we do that ourselves.
const fn is_change(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
        || !matches!(kind, EventKind::Access(_))
}
