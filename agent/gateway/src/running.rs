//! An admitted call as the door sees it: its reply and its figures.

use std::time::Instant;

use realm_core::{
    auth::Caller,
    refusal::Refusal,
    reply::{Reply, ReplyEvent},
};

use crate::{metrics::Meter, trace::CallSpan};

/// A call that was admitted. Dropping it cancels the call.
#[derive(Debug)]
pub(crate) struct Running {
    reply: Reply,
    meter: Meter,
    traced: CallSpan,
    caller: Caller,
}

impl Running {
    pub(crate) const fn new(reply: Reply, meter: Meter, traced: CallSpan, caller: Caller) -> Self {
        Self { reply, meter, traced, caller }
    }

    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The next step of the reply. Always ends with `Done` or `Failed`; not to be called after.
    pub(crate) async fn next(&mut self) -> ReplyEvent {
        match self.reply.recv().await {
            Some(ReplyEvent::Chunk(chunk)) => {
                let now = Instant::now();
                self.meter.piece(now);
                self.traced.piece(now);
                ReplyEvent::Chunk(chunk)
            }
            Some(ReplyEvent::Done(done)) => {
                self.meter.end("ok");
                self.traced.done(&done);
                ReplyEvent::Done(done)
            }
            Some(ReplyEvent::Failed(refusal)) => self.fail(refusal),
            None => {
                // Whoever runs calls ends every reply, a panicking program's too: this is a bug of
                // ours, and the client is told that the log has it.
                tracing::error!(tenant = %self.caller.tenant(), "a reply ended without an end");
                self.fail(Refusal::Internal)
            }
        }
    }

    /// Books how the call ended where the door, not the reply, ends it.
    pub(crate) fn fail(&mut self, refusal: Refusal) -> ReplyEvent {
        self.meter.end(refusal.code());
        self.traced.end(refusal.code());
        ReplyEvent::Failed(refusal)
    }

    /// Ends the call before its reply does, for one whose client has yet to be told so.
    pub(crate) fn cancel(&mut self, refusal: &Refusal) {
        self.meter.end(refusal.code());
        self.traced.end(refusal.code());
        self.reply.close();
        while self.reply.try_recv().is_ok() {}
    }
}
