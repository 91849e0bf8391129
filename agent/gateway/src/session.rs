//! One socket from its first frame to its close: who it is, what it asks, when it ends.
//!
//! The session's task owns both halves of the socket. Each running call has a task of its own
//! that writes into the session's outbox; what the outbox cannot take holds the calls up, never
//! the other way round.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, Stream, StreamExt as _};
use realm_core::{
    auth::{Credential, Roster},
    books::Way,
    call::{self, Call, CallId, Deadline},
    name::TenantName,
    refusal::Refusal,
    trace::{Parent, Scope},
};
use realm_proto::ws::{
    CallFrame, ClientFrame, ConnectionFrame, ReplyFrame, Resume, SUBPROTOCOL, close,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    config::Limits,
    door::Door,
    frame::{self, FrameError},
    own::VERSION,
    places::Place,
    running::Running,
    trace::Arrival,
    ws::Entrance,
};

mod answer;
mod calls;
mod entrance;
mod write;

#[cfg(test)]
mod tests;

use answer::Answer;
use calls::Calls;
use entrance::Passed;

/// Frames that wait for the socket. One for each call of a full socket: more would only hide
/// from a call that its client is slow.
const OUTBOX_FRAMES_MAX: usize = 64;

/// How long a close frame and what is queued before it may take, and the peer's own close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// What is read and thrown away after our close frame, so that the peer gets to see it: closing
/// with unread bytes makes the kernel reset the connection.
const LINGER_BYTES_MAX: u64 = 8 << 20;

/// Longest a client may ask a call to last; a tenant's own limit is shorter.
const DEADLINE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer closed, or the socket is of no use any more.
    Gone,
    /// We close, and say why.
    Close { code: u16, reason: &'static str },
}

impl End {
    const fn close(code: u16, reason: &'static str) -> Self {
        Self::Close { code, reason }
    }

    /// Close code 1001.
    const GOING_AWAY: Self = Self::close(1001, "the server is going away");
}

/// Serves `socket` until either side ends it. `known` is called once its client is; `parent` is of
/// the calls that name none of their own.
pub(crate) async fn run<S>(
    door: Arc<Door>,
    socket: WebSocketStream<S>,
    entrance: Entrance,
    parent: Option<Parent>,
    known: impl FnOnce(),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    {
        let (outbox, inbox) = mpsc::channel(OUTBOX_FRAMES_MAX);
        let mut writing = pin!(write::write(&mut sink, inbox, door.limits.ping_every));
        let end = tokio::select! {
            end = converse(&door, &mut stream, &outbox, entrance, parent, known) => end,
            () = &mut writing => End::Gone,
        };
        if let End::Close { code, reason } = end {
            let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
            let closing = async { tokio::join!(outbox.send(Message::Close(Some(frame))), writing) };
            // A peer that does not even take the close frame is left to find out.
            drop(timeout(CLOSE_WAIT, closing).await);
        }
    }
    let mut socket = sink.reunite(stream).expect("these are the halves of one socket");
    // Answers the peer's close frame, if that is what ended the session.
    drop(timeout(CLOSE_WAIT, socket.flush()).await);
    linger(socket.into_inner()).await;
}

async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let reading = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    drop(timeout(CLOSE_WAIT, reading).await);
}

async fn converse(
    door: &Arc<Door>,
    stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
    outbox: &mpsc::Sender<Message>,
    entrance: Entrance,
    parent: Option<Parent>,
    known: impl FnOnce(),
) -> End {
    let Passed { credential, tenant, place } =
        match entrance::pass(door, stream, outbox, entrance).await {
            Ok(passed) => passed,
            Err(end) => return end,
        };
    known();
    let session = Session {
        door: door.clone(),
        outbox: outbox.clone(),
        credential,
        tenant,
        parent,
        _place: place,
        calls: Calls::default(),
        roster: door.roster(),
        is_going: false,
        heard_at: Instant::now(),
    };
    session.run(stream).await
}

/// A socket whose client is known.
struct Session {
    door: Arc<Door>,
    outbox: mpsc::Sender<Message>,
    /// Verified anew for every call.
    credential: Credential,
    tenant: String,
    /// Of calls that name none.
    parent: Option<Parent>,
    /// Among the tenant's sockets.
    _place: Place<TenantName>,
    calls: Calls,
    roster: watch::Receiver<Arc<Roster>>,
    /// Whether the client was told that the server goes away.
    is_going: bool,
    heard_at: Instant,
}

impl Session {
    async fn run(
        mut self,
        stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
    ) -> End {
        let ready = ConnectionFrame::Ready {
            protocol: SUBPROTOCOL.to_owned(),
            tenant: self.tenant.clone(),
            version: VERSION.to_owned(),
        };
        if let Err(end) = self.say(ready).await {
            return end;
        }
        let door = self.door.clone();
        let mut follows_roster = true;
        loop {
            let silent_until = self.heard_at + door.limits.silence_max;
            let step = tokio::select! {
                message = timeout_at(silent_until, stream.next()) => match message {
                    Ok(Some(message)) => self.hear(message).await,
                    Ok(None) | Err(_) => Err(End::Gone),
                },
                changed = self.roster.changed(), if follows_roster => {
                    follows_roster = changed.is_ok();
                    self.check_key().await
                }
                () = door.drain.cancelled(), if !self.is_going => self.go_away().await,
                () = door.cut.cancelled() => Err(self.cut().await),
                () = self.calls.one_ended(), if !self.calls.is_idle() => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
            if self.is_going && self.calls.is_idle() {
                return End::GOING_AWAY;
            }
        }
    }

    /// Takes one message from the client.
    async fn hear(&mut self, message: Result<Message, WsError>) -> Result<(), End> {
        self.heard_at = Instant::now();
        let decoded = match message {
            Ok(Message::Text(text)) => frame::decode(&text),
            Ok(Message::Binary(_)) => Err(FrameError::Binary),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => return Ok(()),
            Ok(Message::Close(_)) => return Err(End::Gone),
            Err(error) => return Err(self.unreadable(&error).await),
        };
        match decoded {
            Ok(ClientFrame::Call(call)) => self.begin(call).await,
            Ok(ClientFrame::Cancel { id }) => {
                // One that is not running may have ended while the cancel was on its way.
                self.calls.cancel(&id);
                Ok(())
            }
            Ok(ClientFrame::Auth { .. }) => {
                self.refuse(&Refusal::Invalid("this socket is authenticated already".into())).await
            }
            Err(error) => {
                self.door.metrics().frame_refused();
                self.refuse(&error.into()).await
            }
        }
    }

    async fn unreadable(&self, error: &WsError) -> End {
        match error {
            WsError::Capacity(_) => {
                let bytes_max = self.door.limits.message_bytes_max;
                self.door.metrics().frame_refused();
                let end = End::close(1009, "the message is too large");
                self.refuse(&Refusal::TooLarge { bytes_max }).await.err().unwrap_or(end)
            }
            WsError::Utf8(_) => End::close(1007, "the text is not UTF-8"),
            WsError::Protocol(_) => End::close(1002, "these bytes are not WebSocket"),
            _ => End::Gone,
        }
    }

    async fn begin(&mut self, frame: CallFrame) -> Result<(), End> {
        if self.calls.is_running(&frame.id) {
            // An error frame of the call itself would end the running one for the client.
            let message = format!("a call with the id `{}` is running", frame.id);
            return self.refuse(&Refusal::Invalid(message)).await;
        }
        let Limits { calls_per_socket_max, stall_max, .. } = self.door.limits;
        if timeout(stall_max, self.calls.make_room(calls_per_socket_max)).await.is_err() {
            return Err(End::Gone);
        }
        let stream = frame.stream;
        let id = frame.id.clone();
        match self.start(frame) {
            Ok(running) => {
                let registered = self.calls.register(id);
                let answer = Answer {
                    door: self.door.clone(),
                    outbox: self.outbox.clone(),
                    running,
                    registered,
                    stream,
                };
                self.calls.spawn(answer.run());
                Ok(())
            }
            Err(refusal) => {
                let error = frame::error_body(&refusal);
                self.send(frame::encode_reply(ReplyFrame::Error { id, error })).await?;
                if refusal == Refusal::Unauthenticated { Err(KEY_IS_GONE) } else { Ok(()) }
            }
        }
    }

    fn start(&self, frame: CallFrame) -> Result<Running, Refusal> {
        let calls_max = self.door.limits.calls_per_socket_max;
        let function = frame.function.clone();
        let arrival = Arrival::by_socket(parent(&frame).or_else(|| self.parent.clone()));
        let checked = if self.calls.running() >= calls_max {
            Err(Refusal::TooManyCalls { calls_max })
        } else {
            call(frame)
        };
        let call = checked
            .inspect_err(|refusal| self.door.count_refusal(&self.tenant, &function, refusal))?;
        self.door.start(self.credential, call, &arrival)
    }

    /// Ends the session when its key has stopped working.
    async fn check_key(&self) -> Result<(), End> {
        match self.door.verify(self.credential) {
            Err(refusal @ Refusal::Unauthenticated) => {
                self.refuse(&refusal).await?;
                Err(KEY_IS_GONE)
            }
            // A suspended tenant may come back; until then each of its calls is refused.
            Err(_) | Ok(_) => Ok(()),
        }
    }

    async fn go_away(&mut self) -> Result<(), End> {
        self.is_going = true;
        let grace_ms = u64::try_from(self.door.grace.as_millis()).unwrap_or(u64::MAX);
        self.say(ConnectionFrame::GoingAway { grace_ms, resume: true }).await
    }

    /// The grace is over: the calls end themselves, which takes as long as their last frames.
    async fn cut(&mut self) -> End {
        drop(timeout(CLOSE_WAIT, self.calls.all_ended()).await);
        End::GOING_AWAY
    }

    async fn say(&self, frame: ConnectionFrame) -> Result<(), End> {
        self.send(frame::encode_connection(frame)).await
    }

    async fn refuse(&self, refusal: &Refusal) -> Result<(), End> {
        self.send(frame::encode_refusal(refusal)).await
    }

    /// A client that goes on asking and takes no answers is not worth a place: while this waits,
    /// nobody hears what else happens.
    async fn send(&self, message: Message) -> Result<(), End> {
        let sending = self.outbox.send_timeout(message, self.door.limits.stall_max);
        sending.await.map_err(|_| End::Gone)
    }
}

const KEY_IS_GONE: End = End::close(close::UNAUTHENTICATED, "the API key is not good any more");

/// The span that a call says it belongs to.
fn parent(frame: &CallFrame) -> Option<Parent> {
    Parent::parse(frame.traceparent.as_deref()?, frame.tracestate.as_deref())
}

/// What a frame asks for, checked as far as the door can.
fn call(frame: CallFrame) -> Result<Call, Refusal> {
    let CallFrame {
        id,
        function,
        params,
        stream,
        deadline_ms,
        resumable,
        resume,
        // The door makes its trace of them.
        traceparent: _,
        tracestate: _,
    } = frame;
    if function.is_empty() {
        return Err(Refusal::Invalid("`function` is empty".into()));
    }
    if resume.is_some() && !stream {
        // What it answers is the rest of a stream.
        return Err(Refusal::Invalid("a call that is resumed must be streamed".into()));
    }
    let resume = resume
        .map(|Resume { tokens, text_bytes, seed }| call::Resume::new(tokens, text_bytes, seed));
    Ok(Call {
        id: CallId(id),
        function,
        params: params.into(),
        deadline: deadline(deadline_ms)?,
        // What is gathered here is not told piece by piece.
        resumable: resumable && stream,
        resume: resume.transpose()?,
        way: Way::Direct,
        trace: Scope::OFF,
    })
}

fn deadline(deadline_ms: Option<u64>) -> Result<Option<Deadline>, Refusal> {
    let Some(deadline_ms) = deadline_ms else { return Ok(None) };
    if !(1..=DEADLINE_MS_MAX).contains(&deadline_ms) {
        let message = format!("`deadline_ms` is {deadline_ms}; 1 to {DEADLINE_MS_MAX} are allowed");
        return Err(Refusal::Invalid(message));
    }
    Ok(Some(Deadline::after(std::time::Instant::now(), deadline_ms)))
}
