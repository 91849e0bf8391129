//! The orderly end: not ready, no new calls, running ones finish, then everything is cut.

use std::time::Duration;

use tokio::time::timeout;

use crate::door::Door;

/// How long connections may take to say that they were cut: a close frame and the peer's answer
/// within the session's own two waits.
const CUT_WAIT: Duration = Duration::from_secs(5);

/// Returns once every connection has ended.
pub(crate) async fn drain(door: &Door) {
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
