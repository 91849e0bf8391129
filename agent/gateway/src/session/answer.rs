//! The task of one call: its reply, piece by piece, into its session's outbox.

use std::sync::Arc;

use realm_core::{
    engine, limit,
    refusal::Refusal,
    reply::{self, Chunk, ChunkBody, Done, ReplyEvent},
};
use realm_proto::ws::{Finish, Piece, Progress, Quota, ReplyFrame, Usage};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::calls::Registered;
use crate::{door::Door, frame, running::Running, scored, whole::Whole};

/// A call that was started, and where its frames go.
pub(super) struct Answer {
    pub(super) door: Arc<Door>,
    pub(super) outbox: mpsc::Sender<Message>,
    pub(super) running: Running,
    pub(super) registered: Registered,
    pub(super) stream: bool,
}

/// Why a call ends before its reply does.
enum Stop {
    Cancelled,
    Refused(Refusal),
    /// The socket is gone and nobody is left to be told.
    Gone,
}

impl Answer {
    pub(super) async fn run(mut self) {
        let outcome = if self.stream { self.stream().await } else { self.gather().await };
        let id = self.registered.id();
        let complete = outcome.and_then(|(data, finish, usage)| {
            let (id, quota) = (id.clone(), quota(self.door.quota(self.running.caller())));
            let complete = ReplyFrame::Complete { id, data, finish, usage, quota };
            frame::encode_output(complete).map_err(Stop::Refused)
        });
        let last = match complete {
            Ok(complete) => complete,
            Err(Stop::Cancelled) => frame::encode_reply(ReplyFrame::Cancelled { id }),
            Err(Stop::Refused(refusal)) => {
                self.running.fail(refusal.clone());
                frame::encode_reply(ReplyFrame::Error { id, error: frame::error_body(&refusal) })
            }
            Err(Stop::Gone) => return,
        };
        // The call has ended before its client hears so: its place and its id are free for
        // whatever the client asks next.
        let Self { door: _, outbox, running, registered, stream: _ } = self;
        drop((running, registered));
        drop(outbox.send(last).await);
    }

    async fn stream(&mut self) -> Result<(Value, Finish, Usage), Stop> {
        let mut index = 0;
        loop {
            match self.next().await? {
                ReplyEvent::Chunk(chunk) => {
                    let id = self.registered.id();
                    let (data, progress) = piece(chunk);
                    let piece = ReplyFrame::Streaming { id, index, data, progress };
                    let message = frame::encode_output(piece).map_err(Stop::Refused)?;
                    self.deliver(message).await?;
                    index += 1;
                }
                ReplyEvent::Done(Done { data, finish: how, usage: spent }) => {
                    let data = if data.is_null() { json!({}) } else { data };
                    return Ok((data, finish(how), usage(spent)));
                }
                ReplyEvent::Failed(refusal) => return Err(Stop::Refused(refusal)),
            }
        }
    }

    async fn gather(&mut self) -> Result<(Value, Finish, Usage), Stop> {
        let program = self.running.caller().rights().limits.program;
        let mut whole = Whole::new(program.output_bytes_max);
        loop {
            match self.next().await? {
                ReplyEvent::Chunk(chunk) => whole.push(chunk).map_err(Stop::Refused)?,
                ReplyEvent::Done(Done { data, finish: how, usage: spent }) => {
                    return Ok((whole.into_data(data), finish(how), usage(spent)));
                }
                ReplyEvent::Failed(refusal) => return Err(Stop::Refused(refusal)),
            }
        }
    }

    async fn next(&mut self) -> Result<ReplyEvent, Stop> {
        let Self { door, running, registered, .. } = self;
        unless_stopped(registered.cancel(), &door.cut, running.next()).await
    }

    /// Puts a frame into the outbox, for as long as a reader may stall.
    async fn deliver(&self, message: Message) -> Result<(), Stop> {
        let sending = self.outbox.send_timeout(message, self.door.limits.stall_max);
        match unless_stopped(self.registered.cancel(), &self.door.cut, sending).await? {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => Err(Stop::Refused(Refusal::SlowReader)),
            Err(SendTimeoutError::Closed(_)) => Err(Stop::Gone),
        }
    }
}

async fn unless_stopped<T>(
    cancel: &CancellationToken,
    cut: &CancellationToken,
    future: impl Future<Output = T>,
) -> Result<T, Stop> {
    tokio::select! {
        // A client that cancelled must not wait for the pieces still to come.
        biased;
        () = cancel.cancelled() => Err(Stop::Cancelled),
        () = cut.cancelled() => Err(Stop::Refused(Refusal::Moved)),
        value = future => Ok(value),
    }
}

fn piece(chunk: Chunk) -> (Piece, Option<Progress>) {
    let Chunk { step, body, logprobs, progress } = chunk;
    let step = step.map(|step| (*step).to_owned());
    let (text, value) = match body {
        ChunkBody::Text(text) => (Some(text), None),
        ChunkBody::Json(value) => (None, Some(value)),
    };
    let logprobs = logprobs.into_iter().map(scored::frame).collect();
    let piece = Piece { step, text, value, logprobs };
    let progress =
        progress.map(|reply::Progress { first, tokens, seed }| Progress { first, tokens, seed });
    (piece, progress)
}

const fn finish(finish: engine::Finish) -> Finish {
    match finish {
        engine::Finish::Stop => Finish::Stop,
        engine::Finish::Length => Finish::Length,
    }
}

const fn usage(usage: engine::Usage) -> Usage {
    let engine::Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}

const fn quota(quota: limit::Quota) -> Quota {
    let limit::Quota { requests, input_tokens, output_tokens } = quota;
    Quota { requests, input_tokens, output_tokens }
}
