//! One connection to a door, for one call after another.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame},
};

use super::{DoorError, Refusal, Socket};
use crate::manifests::one_line;

/// How long a door may be silent: it pings three times within this.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// The close code for a key that is none.
const UNAUTHENTICATED_CLOSE: u16 = 4401;

/// The code of the refusal of a key.
const UNAUTHENTICATED: &str = "unauthenticated";

/// A connection as one tenant. Dropping it cancels its call.
pub(crate) struct Session {
    socket: WebSocketStream<Box<dyn Socket>>,
    address: String,
    tenant: String,
    /// Calls so far, for their ids.
    calls: u64,
}

/// What is asked of a door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) function: &'a str,
    pub(crate) params: &'a Value,
    /// Whether pieces come with the ids of their tokens.
    pub(crate) resumable: bool,
}

/// A piece of a call's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: Instant,
    /// Counts a call's pieces from 0.
    pub(crate) index: u64,
    /// The pipeline step it belongs to.
    pub(crate) step: Option<String>,
    /// Tokens that it brings, where the call is resumable.
    pub(crate) tokens: usize,
}

/// The end of a call that was served.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) at: Instant,
    pub(crate) data: Value,
    pub(crate) usage: Usage,
    pub(crate) quota: Option<Quota>,
}

/// What a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) cached_tokens: u32,
    pub(crate) completion_tokens: u32,
}

/// What is left of the tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Quota {
    pub(crate) output_tokens: u32,
}

/// As much of a frame as a caller of one function needs; more is passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    /// Of a frame about the connection.
    #[serde(rename = "type")]
    kind: String,
    tenant: String,
    id: Option<String>,
    status: String,
    index: u64,
    data: Value,
    progress: Option<Progress>,
    usage: Usage,
    quota: Option<Quota>,
    error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    tokens: Vec<u32>,
}

impl Session {
    /// Waits until the door says who it takes the client for.
    pub(super) async fn greet(
        socket: WebSocketStream<Box<dyn Socket>>,
        address: String,
    ) -> Result<Self, DoorError> {
        let mut session = Self { socket, address, tenant: String::new(), calls: 0 };
        loop {
            let Frame { kind, tenant, error, .. } = session.next().await?;
            match error {
                Some(Refusal { code, .. }) if code == UNAUTHENTICATED => {
                    return Err(DoorError::Unauthenticated);
                }
                Some(refusal) => return Err(refusal.into_error()),
                None if kind == "ready" => {
                    session.tenant = one_line(&tenant);
                    return Ok(session);
                }
                // Of a younger protocol.
                None => {}
            }
        }
    }

    /// As [`Self::greet`], of a door that has not seen the key yet.
    pub(super) async fn introduce(
        mut socket: WebSocketStream<Box<dyn Socket>>,
        address: String,
        key: &str,
    ) -> Result<Self, DoorError> {
        let auth = json!({ "type": "auth", "api_key": key });
        socket.send(Message::text(auth.to_string())).await.map_err(lost)?;
        Self::greet(socket, address).await
    }

    /// Whom the door takes this client for.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Calls a function and waits for its end; `heard` is given every piece on the way.
    pub(crate) async fn call(
        &mut self,
        call: &Call<'_>,
        mut heard: impl FnMut(Piece),
    ) -> Result<Done, DoorError> {
        let Call { function, params, resumable } = call;
        self.calls += 1;
        let id = self.calls.to_string();
        let frame = json!({
            "type": "call", "id": id, "function": function, "params": params,
            "resumable": resumable,
        });
        self.socket.send(Message::text(frame.to_string())).await.map_err(lost)?;
        loop {
            let frame = self.next().await?;
            if let Some(ended) = take(frame, &id, &mut heard) {
                return ended;
            }
        }
    }

    /// The next frame.
    async fn next(&mut self) -> Result<Frame, DoorError> {
        loop {
            let next = timeout(SILENCE_MAX, self.socket.next()).await;
            let silent =
                |_| DoorError::TimedOut { address: self.address.clone(), waited: SILENCE_MAX };
            match next.map_err(silent)? {
                Some(Ok(Message::Text(text))) => return frame(&text),
                Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(DoorError::Closed { why: "it said nothing".to_owned() }),
            }
        }
    }
}

fn frame(text: &str) -> Result<Frame, DoorError> {
    serde_json::from_str(text)
        .map_err(|_| DoorError::Closed { why: "it sent what is no frame".to_owned() })
}

/// What a frame ends the call with, if it does.
fn take(frame: Frame, id: &str, heard: &mut impl FnMut(Piece)) -> Option<Result<Done, DoorError>> {
    let at = Instant::now();
    let Frame { kind: _, tenant: _, id: of, status, index, data, progress, usage, quota, error } =
        frame;
    // Frames about the connection have no id; those of a call that nobody waits for any more do.
    if of.is_some_and(|of| of != id) {
        return None;
    }
    match (status.as_str(), error) {
        (_, Some(refusal)) => Some(Err(refusal.into_error())),
        ("complete", None) => Some(Ok(Done { at, data, usage, quota })),
        ("cancelled", None) => Some(Err(DoorError::Closed { why: "it was cancelled".to_owned() })),
        ("streaming", None) => {
            let step = data.get("step").and_then(Value::as_str).map(str::to_owned);
            let tokens = progress.map_or(0, |progress| progress.tokens.len());
            heard(Piece { at, index, step, tokens });
            None
        }
        // About the connection, or of a younger protocol.
        _ => None,
    }
}

fn closed(frame: Option<&CloseFrame>) -> DoorError {
    match frame {
        Some(frame) if u16::from(frame.code) == UNAUTHENTICATED_CLOSE => DoorError::Unauthenticated,
        Some(frame) => DoorError::Closed {
            why: format!("code {}, {}", u16::from(frame.code), one_line(frame.reason.as_str())),
        },
        None => DoorError::Closed { why: "without a reason".to_owned() },
    }
}

pub(super) fn lost(error: tungstenite::Error) -> DoorError {
    DoorError::Lost { source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_with_its_result_or_its_refusal() {
        let mut steps = Vec::new();
        let mut take = |text: &str| {
            take(frame(text).unwrap(), "1", &mut |piece: Piece| {
                steps.push((piece.step.unwrap(), piece.tokens));
            })
        };
        assert!(take(r#"{"type":"ready","protocol":"realm.v1"}"#).is_none());
        assert!(take(r#"{"type":"going_away","grace_ms":5}"#).is_none());
        let piece = r#"{"id":"1","status":"streaming","index":0,"data":{"step":"one","text":"a"},
            "progress":{"first":0,"tokens":[5,6]}}"#;
        assert!(take(piece).is_none());
        let done = take(
            r#"{"id":"1","status":"complete","data":{"outputs":{}},"finish":"stop",
            "usage":{"prompt_tokens":5,"cached_tokens":1,"completion_tokens":9},
            "quota":{"requests":1,"input_tokens":2,"output_tokens":3}}"#,
        );
        let Done { at: _, data, usage, quota } = done.unwrap().unwrap();
        assert_eq!(data, json!({"outputs": {}}));
        assert_eq!(usage, Usage { cached_tokens: 1, completion_tokens: 9 });
        assert_eq!(quota, Some(Quota { output_tokens: 3 }));
        let refused = take(
            r#"{"id":"1","status":"error","error":{"code":"busy","message":"full","retry_after_ms":1200}}"#,
        );
        assert_eq!(refused.unwrap().unwrap_err().to_string(), "busy: full; try again in 2 s");
        assert!(frame("{").is_err());
        assert_eq!(steps, [("one".to_owned(), 2)]);
    }

    #[test]
    fn the_end_of_a_call_that_nobody_waits_for_ends_no_other() {
        let old = frame(r#"{"id":"1","status":"error","error":{"code":"busy","message":"full"}}"#);
        assert!(take(old.unwrap(), "2", &mut |_| ()).is_none());
    }
}
