//! Hands calls on: one connection to each peer, made when it is first needed and again when it has
//! broken.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use realm_core::{
    auth::Caller, desired::Peer, engine::Usage, limit::Admitted, name::ModelName,
    reply::ReplyEvent, tenants::FunctionInfo, trace::Scope,
};
use realm_proto::peer::{MESSAGE_BYTES_MAX, v1 as proto, v1::peer_client::PeerClient};
use rustls::RootCertStore;
use tokio::{sync::watch, time};
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    CONNECTION_WINDOW_BYTES, ERROR_RESETS_MAX, PING_EVERY, PING_WAIT, RESETS_REMEMBERED_MAX,
    WINDOW_BYTES, convert, dial::dial, error::PeerError, identity::Identity, trace,
};

/// Longest wait until a peer has taken a call, or said why not: two seconds for a connection, and
/// as much for a peer that is busy. One that has no stream free by then has too much in hand.
const CALL_WAIT: Duration = Duration::from_secs(4);

/// Steps of an answer that lie unread on this side at most: as many of the smallest, 12 bytes, as
/// the window of a call has room for.
const UNREAD_MAX: usize = WINDOW_BYTES as usize / 12;

/// Longest wait for a description: the answer lies ready in the peer's memory.
const DESCRIBE_WAIT: Duration = Duration::from_secs(5);

/// What has happened in a call that was handed on.
#[derive(Clone, Debug, Default)]
pub struct PeerEvent {
    /// Everything that the call has spent until now.
    pub spent: Usage,
    /// Sequences that the peer has in hand for anybody, where it says so.
    pub in_hand: Option<u32>,
    /// `None` where nothing is new but what was spent.
    pub event: Option<ReplyEvent>,
}

/// The answer to a call that was handed on. Dropping it cancels the call.
#[derive(Debug)]
pub struct PeerReply {
    events: Streaming<proto::CallReply>,
}

impl PeerReply {
    /// The next step of the answer. Not to be called after the last.
    pub async fn next(&mut self) -> Result<PeerEvent, PeerError> {
        let reply = self.events.message().await.map_err(PeerError::Broken)?;
        convert::reply_from(reply.ok_or(PeerError::Ended)?).map_err(PeerError::Message)
    }

    /// Everything that the call has spent by the newest of the steps that have come and that nobody
    /// has read; `None` where there are none. What they say besides is lost.
    pub fn take_unread(&mut self) -> Option<Usage> {
        let mut newest = None;
        for _ in 0..UNREAD_MAX {
            let Some(Ok(PeerEvent { spent, .. })) = self.next().now_or_never() else { break };
            newest = Some(spent);
        }
        newest
    }
}

/// The other agents. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Peers {
    identity: watch::Receiver<Option<Arc<Identity>>>,
    /// Of peers that calls are handed to, so never more than routes have named.
    lines: Arc<Mutex<HashMap<Peer, Line>>>,
}

/// The connection to one peer.
#[derive(Clone, Debug)]
struct Line {
    channel: Channel,
    /// The authorities that the peer may have been believed by.
    roots: Arc<RootCertStore>,
}

impl Peers {
    pub fn new(identity: watch::Receiver<Option<Arc<Identity>>>) -> Self {
        Self { identity, lines: Arc::default() }
    }

    /// Hands a call on, for the sake of `model` and as a part of `scope`. An error means that it
    /// has not begun there; one comes at the call's deadline at the latest.
    pub async fn call(
        &self,
        peer: &Peer,
        call: &Admitted,
        model: &ModelName,
        scope: &Scope,
    ) -> Result<PeerReply, PeerError> {
        let now = Instant::now();
        let mut request = Request::new(convert::request_to(call, model, now));
        trace::write(scope, request.metadata_mut());
        let given_up = now + CALL_WAIT;
        let given_up = call.call().deadline.map_or(given_up, |own| given_up.min(own.at()));
        let mut client = self.client(peer)?;
        let answer = time::timeout_at(given_up.into(), client.call(request)).await;
        let slow = |_| PeerError::Slow { address: peer.address.clone(), wait: given_up - now };
        let answer = answer.map_err(slow)?.map_err(PeerError::NotTaken)?;
        Ok(PeerReply { events: answer.into_inner() })
    }

    /// What the caller's program, which is there, can be asked for.
    pub async fn describe(
        &self,
        peer: &Peer,
        caller: &Caller,
    ) -> Result<Vec<FunctionInfo>, PeerError> {
        let request = proto::DescribeRequest { caller: Some(convert::caller_to(caller)) };
        let mut client = self.client(peer)?;
        let answer = time::timeout(DESCRIBE_WAIT, client.describe(request)).await;
        let slow = |_| PeerError::Slow { address: peer.address.clone(), wait: DESCRIBE_WAIT };
        let answer = answer.map_err(slow)?.map_err(PeerError::NotTaken)?;
        convert::functions_from(answer.into_inner()).map_err(PeerError::Message)
    }

    /// Closes the connections to all but these peers, as soon as their calls have ended.
    pub fn retain(&self, is_known: impl Fn(&Peer) -> bool) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|peer, _| is_known(peer));
    }

    fn client(&self, peer: &Peer) -> Result<PeerClient<Channel>, PeerError> {
        // Without it the connection would only be tried in vain.
        let identity = self.identity.borrow().clone().ok_or(PeerError::NoIdentity)?;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match lines.get(peer) {
            Some(line) if identity.has_roots(&line.roots) => line.channel.clone(),
            // None yet, or to one who was believed by other authorities and has to prove itself
            // anew. What runs on that one goes on.
            Some(_) | None => {
                let line = Line { channel: self.channel(peer), roots: identity.roots() };
                let channel = line.channel.clone();
                lines.insert(peer.clone(), line);
                channel
            }
        };
        drop(lines);
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn channel(&self, peer: &Peer) -> Channel {
        let (identity, peer) = (self.identity.clone(), peer.clone());
        // Each connection shows the newest certificate.
        let connect = tower::service_fn(move |_| {
            let (identity, peer) = (identity.borrow().clone(), peer.clone());
            async move {
                let stream = Box::pin(dial(identity.as_deref(), &peer)).await;
                stream.map(TokioIo::new).map_err(io::Error::other)
            }
        });
        // The address is the connector's; this one only stands in the requests.
        Endpoint::from_static("https://peer.realm.dev")
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
            // With `None` tonic leaves hyper's own limit as it is.
            .http2_max_local_error_reset_streams(ERROR_RESETS_MAX)
            .connect_with_connector_lazy(connect)
    }
}
