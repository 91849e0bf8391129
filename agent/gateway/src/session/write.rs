//! The writing half of a socket.

use std::time::Duration;

use futures_util::{Sink, SinkExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Writes what comes through `inbox`, and pings in between, until a close frame is written or
/// the socket breaks.
pub(super) async fn write<S>(sink: &mut S, mut inbox: mpsc::Receiver<Message>, ping_every: Duration)
where
    S: Sink<Message> + Unpin,
{
    let mut pings = interval_at(Instant::now() + ping_every, ping_every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = inbox.recv() => message,
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(message) = message else { return };
        match write_waiting(sink, message, &mut inbox).await {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
    }
}

/// Writes `message` and what has come since, then flushes once. Says whether that was the end.
async fn write_waiting<S>(
    sink: &mut S,
    mut message: Message,
    inbox: &mut mpsc::Receiver<Message>,
) -> Result<bool, S::Error>
where
    S: Sink<Message> + Unpin,
{
    loop {
        let is_last = message.is_close();
        sink.feed(message).await?;
        message = match inbox.try_recv() {
            Ok(next) if !is_last => next,
            _ => return sink.flush().await.map(|()| is_last),
        };
    }
}
