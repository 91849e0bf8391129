//! The door for other agents: from a socket to HTTP/2 over TLS that has proven both ends.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use realm_core::{
    auth::{Roster, VerifiedPeer},
    tenants::Tenants,
    trace::Tracer,
};
use realm_proto::peer::{MESSAGE_BYTES_MAX, v1::peer_server::PeerServer};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Status, body::Body, codegen::Service as Answers};

use super::{
    CONNECTION_WINDOW_BYTES, ERROR_RESETS_MAX, PENDING_RESETS_MAX, PING_EVERY, PING_WAIT,
    STREAMS_MAX, certificate, identity::Identity, service::Service,
};

/// Connections that have not proven themselves yet: the agents of a thousand nodes that come
/// together need eight rounds of some milliseconds, and strangers can keep no more than these busy.
const UNPROVEN_MAX: usize = 128;

/// Connections at once: one of each agent of a large cluster, and room for those that are just
/// being replaced.
const CONNECTIONS_MAX: usize = 2048;

/// Longest wait for a TLS handshake: peers are in one cluster, and one of them may be busy.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// How long a connection takes new calls: half as long as a certificate lives, so that none is
/// used for long after it has ended. Running calls go on, as they do where the authority is gone
/// that has vouched for the other end.
const CONNECTION_LIFE: Duration = Duration::from_hours(12);

/// The wait after the system could give no connection: it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bytes of headers: gRPC needs some hundreds.
const HEADERS_BYTES_MAX: u32 = 8 << 10;

/// Where calls of other agents go.
#[derive(Clone)]
pub struct PeerPorts {
    /// What is on this node, and only that: a call is handed on once.
    pub tenants: Arc<dyn Tenants>,
    pub roster: watch::Receiver<Arc<Roster>>,
    pub tracer: Tracer,
}

/// A door for other agents.
pub struct PeerDoor {
    pub listener: TcpListener,
    pub identity: watch::Receiver<Option<Arc<Identity>>>,
    pub ports: PeerPorts,
}

impl PeerDoor {
    /// Serves until `draining` is true and every call has ended and been answered. Dropping it ends
    /// all calls.
    pub async fn serve(self, mut draining: watch::Receiver<bool>) {
        let Self { listener, identity, ports } = self;
        let service = PeerServer::new(Service::new(ports, draining.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let door = Open { identity, service, draining: draining.clone() };
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(&listener, &door, &mut connections) => {}
            () = drains(&mut draining) => {}
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// What every connection shares.
#[derive(Clone)]
struct Open {
    identity: watch::Receiver<Option<Arc<Identity>>>,
    service: PeerServer<Service>,
    draining: watch::Receiver<bool>,
}

/// Returns when nothing new is to be taken.
async fn drains(draining: &mut watch::Receiver<bool>) {
    // An error means that nobody will ever say so.
    if draining.wait_for(|is_draining| *is_draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes connections for ever.
async fn accept(listener: &TcpListener, door: &Open, connections: &mut JoinSet<()>) {
    let unproven = Arc::new(Semaphore::new(UNPROVEN_MAX));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok(unproven) = unproven.clone().acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let guest = Guest { door: door.clone(), _place: place };
                connections.spawn(guest.serve(stream, unproven));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection of another agent could be taken");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// One connection, in its place.
struct Guest {
    door: Open,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    async fn serve(self, stream: TcpStream, unproven: OwnedSemaphorePermit) {
        let mut identity = self.door.identity.clone();
        // Nobody was told of this door before there was an identity; and one that has ended lets
        // nobody in.
        let Some(newest) = identity.borrow_and_update().clone() else { return };
        if let Some((stream, proof)) = prove(stream, &newest, unproven).await {
            let Open { service, draining, .. } = self.door;
            let old = grows_old(draining, identity, &proof);
            serve(stream, &proof.peer, service, old).await;
        }
    }
}

/// What an agent has proven itself by.
struct Proof {
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    at: UnixTime,
}

/// Speaks TLS, and says which agent the certificate names.
async fn prove(
    stream: TcpStream,
    identity: &Identity,
    _unproven: OwnedSemaphorePermit,
) -> Option<(TlsStream<TcpStream>, Proof)> {
    // Small messages that wait for nothing; a system that cannot do it is slower.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(identity.server()).accept(stream);
    let stream = match time::timeout(HANDSHAKE_WAIT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no TLS with another agent");
            return None;
        }
        Err(_) => {
            tracing::debug!("no TLS with another agent in time");
            return None;
        }
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let Some(node) = chain.first().and_then(certificate::node) else {
        tracing::debug!("a certificate of the authority that is no agent's");
        return None;
    };
    let peer = VerifiedPeer::vouch(&node);
    Some((stream, Proof { peer, chain, at: UnixTime::now() }))
}

/// Why a connection is to take no more calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Old {
    /// Calls that are on their way already are taken.
    ByTime,
    /// Nothing is taken from whom nobody vouches for.
    Disbelieved,
}

/// Returns when a connection is to take no more calls.
async fn grows_old(
    mut draining: watch::Receiver<bool>,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    proof: &Proof,
) -> Old {
    tokio::select! {
        () = time::sleep(CONNECTION_LIFE) => Old::ByTime,
        () = drains(&mut draining) => Old::ByTime,
        () = is_disbelieved(identity, proof) => Old::Disbelieved,
    }
}

/// Returns when the authority that vouched for an agent is believed no more. That its certificate
/// has ended meanwhile says nothing: it was good when the connection was made.
async fn is_disbelieved(mut identity: watch::Receiver<Option<Arc<Identity>>>, proof: &Proof) {
    let Proof { peer, chain, at } = proof;
    let is_gone = |known: &Option<Arc<Identity>>| {
        // Who has no identity of its own believes nobody.
        known.as_ref().is_none_or(|known| !known.believes(chain, *at))
    };
    if identity.wait_for(is_gone).await.is_ok() {
        tracing::info!(node = peer.node(), "the authority of another agent is believed no more");
    } else {
        // Nobody will ever say so.
        std::future::pending::<()>().await;
    }
}

async fn serve<C, S>(stream: C, peer: &VerifiedPeer, service: S, old: impl Future<Output = Old>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: Answers<hyper::Request<Incoming>, Response = hyper::Response<Body>, Error = Infallible>
        + Clone,
    S::Future: Send + 'static,
{
    let node = peer.node();
    let is_old = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let is_old = is_old.clone();
        move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            // A client that does not heed the end that HTTP/2 announces could begin calls for ever.
            let call = (!is_old.load(Ordering::Relaxed)).then(|| service.clone().call(request));
            async move {
                match call {
                    Some(call) => call.await,
                    None => Ok(Status::unavailable("the connection is old").into_http()),
                }
            }
        }
    });
    let mut served = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(ERROR_RESETS_MAX)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        old = old => {
            is_old.store(old == Old::Disbelieved, Ordering::Relaxed);
            served.as_mut().graceful_shutdown();
            // A client that heeds the end has heard of it by then, and begins no more.
            if let Ok(ended) = time::timeout(PING_WAIT, served.as_mut()).await {
                ended
            } else {
                is_old.store(true, Ordering::Relaxed);
                served.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, node, "a connection of another agent broke");
    }
}

#[cfg(test)]
mod tests;
