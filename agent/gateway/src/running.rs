//! An admitted call as the door sees it: its reply, its figures, and its patience.

use std::time::{Duration, Instant};

use realm_core::{
    auth::Caller,
    refusal::Refusal,
    reply::{Reply, ReplyEvent},
};

use crate::metrics::Meter;

/// A call that was admitted. Dropping it cancels the call.
#[derive(Debug)]
pub(crate) struct Running {
    reply: Reply,
    meter: Meter,
    caller: Caller,
    stall_max: Duration,
    full_since: Option<Instant>,
    overflowed: bool,
}

impl Running {
    pub(crate) const fn new(
        reply: Reply,
        meter: Meter,
        caller: Caller,
        stall_max: Duration,
    ) -> Self {
        Self { reply, meter, caller, stall_max, full_since: None, overflowed: false }
    }

    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The next step of the reply. Always ends with `Done` or `Failed`; not to be called after.
    pub(crate) async fn next(&mut self) -> ReplyEvent {
        let waiting = self.reply.len();
        if self.is_stalled(waiting) {
            return self.fail(Refusal::SlowReader);
        }
        let event = self.reply.recv().await;
        let now = Instant::now();
        match event {
            Some(ReplyEvent::Chunk(chunk)) => {
                // Whoever writes the reply is not stopped by a full buffer once it was empty.
                self.overflowed &= waiting > 0;
                self.meter.piece(now);
                ReplyEvent::Chunk(chunk)
            }
            Some(ReplyEvent::Done(done)) => {
                self.meter.end("ok");
                ReplyEvent::Done(done)
            }
            Some(ReplyEvent::Failed(refusal)) => self.fail(refusal),
            // A writer that met a full buffer could not say so in it.
            None if self.overflowed => self.fail(Refusal::SlowReader),
            None => {
                tracing::debug!(tenant = %self.caller.tenant(), "a reply ended without an end");
                self.fail(Refusal::Internal)
            }
        }
    }

    /// Books how the call ended where the door, not the reply, ends it.
    pub(crate) fn fail(&mut self, refusal: Refusal) -> ReplyEvent {
        self.meter.end(refusal.code());
        ReplyEvent::Failed(refusal)
    }

    /// Ends the call before its reply does, for one whose client has yet to be told so.
    pub(crate) fn cancel(&mut self, refusal: &Refusal) {
        self.meter.end(refusal.code());
        self.reply.close();
        while self.reply.try_recv().is_ok() {}
    }

    /// Whether the reply has been full for longer than a reader may stall.
    fn is_stalled(&mut self, waiting: usize) -> bool {
        if waiting < self.reply.max_capacity() {
            self.full_since = None;
            return false;
        }
        self.overflowed = true;
        let since = *self.full_since.get_or_insert_with(Instant::now);
        since.elapsed() > self.stall_max
    }
}
