//! The door for other agents: from a socket to HTTP/2 over TLS that has proven both ends.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use realm_core::{
    auth::{Roster, VerifiedPeer},
    tenants::Tenants,
    trace::Tracer,
};
use realm_proto::peer::{MESSAGE_BYTES_MAX, v1::peer_server::PeerServer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::codegen::Service as _;

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
/// used for long after it has ended. Running calls go on.
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
                // Nobody was told of this door before there was an identity.
                let Some(identity) = door.identity.borrow().clone() else { continue };
                let (service, draining) = (door.service.clone(), door.draining.clone());
                connections.spawn(async move {
                    if let Some((stream, peer)) = prove(stream, identity.server(), unproven).await {
                        serve(stream, &peer, service, draining).await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection of another agent could be taken");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Speaks TLS, and says which agent the certificate names.
async fn prove(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    _unproven: OwnedSemaphorePermit,
) -> Option<(TlsStream<TcpStream>, VerifiedPeer)> {
    // Small messages that wait for nothing; a system that cannot do it is slower.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls).accept(stream);
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
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(node) = chain.first().and_then(certificate::node) else {
        tracing::debug!("a certificate of the authority that is no agent's");
        return None;
    };
    let peer = VerifiedPeer::vouch(&node);
    Some((stream, peer))
}

async fn serve(
    stream: TlsStream<TcpStream>,
    peer: &VerifiedPeer,
    service: PeerServer<Service>,
    mut draining: watch::Receiver<bool>,
) {
    let node = peer.node();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        service.clone().call(request)
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
    let old = async {
        tokio::select! {
            () = time::sleep(CONNECTION_LIFE) => {}
            () = drains(&mut draining) => {}
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = old => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, node, "a connection of another agent broke");
    }
}
