//! From a socket to HTTP/2 over TLS, and how long a connection may take to prove itself.

use std::{sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use realm_proto::link::{
    AGENT_MESSAGE_BYTES_MAX, OPERATOR_MESSAGE_BYTES_MAX, v1::link_server::LinkServer,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;

use super::service::Service;
use crate::link::identity::TokenReviewer;

/// Connections that have not proven themselves yet. A thousand agents that come back together
/// need four rounds of some milliseconds; a stranger can keep no more than these busy.
const UNPROVEN_MAX: usize = 256;

/// Longest wait for a TLS handshake: three round trips around the world and a slow machine.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for a connection to have a stream of a proven agent: a review of the token takes
/// ten seconds at most.
const PROOF_WAIT: Duration = Duration::from_secs(15);

/// How long a connection lives after its stream has ended, so that the agent hears why.
const ENDED_GRACE: Duration = Duration::from_secs(2);

/// The wait after the system could give no connection: it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// HTTP/2 pings: a peer that is gone is noticed after both, fifteen seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);

/// Streams of one connection: one `Connect`, and room for `Enroll` and a `ReadConfigMap` beside it.
const STREAMS_MAX: u32 = 4;

/// Bytes of headers: a projected token has about 1,500.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Unproven,
    Proven,
    Ended,
}

/// Takes connections for ever. Dropping it ends them all.
pub(super) async fn listen<R: TokenReviewer>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    service: Service<R>,
) {
    let service = LinkServer::new(service)
        .max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(OPERATOR_MESSAGE_BYTES_MAX);
    let places = Arc::new(Semaphore::new(UNPROVEN_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let tls = tls.borrow().clone();
                connections.spawn(connection(stream, tls, service.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be taken");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection<R: TokenReviewer>(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    service: LinkServer<Service<R>>,
    place: OwnedSemaphorePermit,
) {
    // Small messages that wait for nothing; a system that cannot do it is slower.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls).accept(stream);
    let stream = match time::timeout(HANDSHAKE_WAIT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("no TLS in time"),
    };
    let (life, is_alive) = watch::channel(Life::Unproven);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(life.clone());
        service.clone().call(request)
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a connection broke");
        },
        () = end(is_alive, place) => {}
    }
}

/// Returns when a connection has no right to be there any more. Its place is somebody else's as
/// soon as it has proven itself.
async fn end(mut life: watch::Receiver<Life>, place: OwnedSemaphorePermit) {
    let proof = time::timeout(PROOF_WAIT, life.wait_for(|life| *life != Life::Unproven));
    if proof.await.is_err() {
        return tracing::debug!("a connection did not prove itself in time");
    }
    drop(place);
    // An error means that the service is gone, and with it every stream.
    let _ = life.wait_for(|life| *life == Life::Ended).await;
    time::sleep(ENDED_GRACE).await;
}
