//! An answer as server-sent events.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream;
use http::header;
use realm_core::{
    refusal::Refusal,
    reply::{Chunk, ChunkBody, Done, ReplyEvent},
};
use serde_json::Value;
use tokio::sync::mpsc::{self, error::SendTimeoutError};

use super::{
    Problem,
    logprobs::Telling,
    request::Wanted,
    response::{Head, Said},
};
use crate::{door::Door, running::Running, whole::not_text};

/// Events that wait for the connection: enough to fill a packet, too few to hide a slow reader.
const EVENTS_MAX: usize = 16;

/// The end of every stream that was not broken.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Answers with a stream once the call has something to say: what is refused before that still
/// has a status of its own.
pub(super) async fn respond(
    door: Arc<Door>,
    mut running: Running,
    head: Head,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let first = tokio::select! {
        first = running.next() => first,
        () = door.cut.cancelled() => running.fail(Refusal::Moved),
    };
    if let ReplyEvent::Failed(refusal) = first {
        return Err(Problem::of_call(refusal, head.form));
    }
    let (events, mut waiting) = mpsc::channel(EVENTS_MAX);
    let response = head.headed((
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")],
        Body::from_stream(stream::poll_fn(move |cx| {
            waiting.poll_recv(cx).map(|event| event.map(Ok::<Bytes, Infallible>))
        })),
    ));
    let Wanted { usage: include_usage, logprobs } = wanted;
    let telling = Telling::new(head.form, logprobs);
    let pump = Pump { door, running, head, telling, include_usage, events };
    tokio::spawn(pump.run(first));
    Ok(response)
}

/// The task that writes one stream. A client that goes away drops the other end of `events`,
/// which ends the task and thereby cancels the call.
struct Pump {
    door: Arc<Door>,
    running: Running,
    head: Head,
    telling: Telling,
    include_usage: bool,
    events: mpsc::Sender<Bytes>,
}

/// The client is gone, or was told why nothing more comes.
struct Over;

impl Pump {
    async fn run(mut self, first: ReplyEvent) {
        // Whichever way it ended, there is nobody to tell any more.
        drop(self.write(first).await);
    }

    async fn write(&mut self, first: ReplyEvent) -> Result<(), Over> {
        if let Some(opening) = self.head.opening() {
            self.send(&opening).await?;
        }
        let mut event = first;
        loop {
            match event {
                ReplyEvent::Chunk(Chunk { body: ChunkBody::Text(text), logprobs, .. }) => {
                    let logprobs = self.telling.piece(logprobs);
                    self.send(&self.head.piece(Said { text: &text, logprobs })).await?;
                }
                ReplyEvent::Chunk(Chunk { body: ChunkBody::Json(_), .. }) => {
                    return self.give_up(not_text()).await;
                }
                ReplyEvent::Done(Done { data: _, finish, usage }) => {
                    self.send(&self.head.ending(finish)).await?;
                    if self.include_usage {
                        self.send(&self.head.cost(usage)).await?;
                    }
                    return self.events.send(Bytes::from_static(DONE)).await.map_err(|_| Over);
                }
                ReplyEvent::Failed(refusal) => return self.give_up(refusal).await,
            }
            event = self.next().await?;
        }
    }

    async fn next(&mut self) -> Result<ReplyEvent, Over> {
        tokio::select! {
            event = self.running.next() => Ok(event),
            () = self.events.closed() => Err(Over),
            () = self.door.cut.cancelled() => Ok(ReplyEvent::Failed(Refusal::Moved)),
        }
    }

    async fn send(&mut self, event: &Value) -> Result<(), Over> {
        let stall_max = self.door.limits.stall_max;
        match self.events.send_timeout(line(event), stall_max).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => self.give_up(Refusal::SlowReader).await,
            Err(SendTimeoutError::Closed(_)) => Err(Over),
        }
    }

    /// Ends the call, then the stream with what went wrong, whenever the client takes it.
    async fn give_up<T>(&mut self, refusal: Refusal) -> Result<T, Over> {
        self.running.cancel(&refusal);
        let problem = Problem::of_call(refusal, self.head.form).to_json();
        drop(self.events.send(line(&problem)).await);
        Err(Over)
    }
}

fn line(event: &Value) -> Bytes {
    format!("data: {event}\n\n").into()
}
