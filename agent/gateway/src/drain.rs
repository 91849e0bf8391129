//! The orderly end, in order: not ready, no new calls, running ones finish or are resumed
//! elsewhere, then everything is cut.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::door::Door;

/// How long connections may take to say that they were cut: a close frame and the peer's answer
/// within the session's own two waits.
const CUT_WAIT: Duration = Duration::from_secs(5);

/// Returns once every connection has ended, at the latest after the settle time, the grace and
/// [`CUT_WAIT`].
pub(crate) async fn drain(door: &Door) {
    tracing::info!(settle = ?door.settle, "not ready any more");
    door.leave.cancel();
    // Whoever still believes in this address sends calls here, and those are served.
    if !door.settle.is_zero() {
        sleep(door.settle).await;
    }
    tracing::info!(connections = door.connections.len(), grace = ?door.grace, "draining");
    door.drain.cancel();
    door.connections.close();
    if timeout(door.grace, door.connections.wait()).await.is_err() {
        tracing::warn!(connections = door.connections.len(), "the grace is over");
        door.cut.cancel();
        drop(timeout(CUT_WAIT, door.connections.wait()).await);
    }
    tracing::info!("drained");
}
