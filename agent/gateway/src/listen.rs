//! From a listening socket to served connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    config::Limits,
    metrics::Metrics,
    patience::Patience,
    places::{Place, Places, neighbourhood},
};

/// Head of a request: eight times what a browser sends with cookies, and hyper's least is 8 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The official clients send about twenty headers, proxies add ten.
const HEADERS_MAX: usize = 64;

/// Two Prometheus servers and the kubelet, with as many connections again by hand.
const SCRAPERS_MAX: usize = 16;

/// Until the head of a request on a connection that was opened during a drain, which gets one
/// answer: probes and clients that were on their way send it at once.
const LATE_HEAD_WAIT: Duration = Duration::from_secs(1);

/// How long an answer may take to say that it was cut.
const CUT_WAIT: Duration = Duration::from_secs(2);

/// When the process has no file descriptor left, others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// One port and what is served on it.
pub(crate) struct Listen {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub(crate) router: Router,
    pub(crate) limits: Limits,
    /// Where connections are counted, if they are clients'.
    pub(crate) metrics: Option<Metrics>,
    pub(crate) connections: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) cut: CancellationToken,
}

/// An open connection's place among `connections_max`, held by whoever owns its socket.
#[derive(Debug)]
pub(crate) struct Slot {
    metrics: Option<Metrics>,
    _permit: OwnedSemaphorePermit,
    /// Its place among those of its address, until it is a tenant's.
    address: Mutex<Option<Place<IpAddr>>>,
}

impl Slot {
    fn new(metrics: Option<Metrics>, permit: OwnedSemaphorePermit, address: Place<IpAddr>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.connection_opened();
        }
        Self { metrics, _permit: permit, address: Mutex::new(Some(address)) }
    }

    /// Counts the connection for its address no longer, because it counts for its tenant.
    pub(crate) fn leave_address(&self) {
        drop(self.address.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.connection_closed();
        }
    }
}

impl Listen {
    /// A port beside this one for scrapes and probes: plain, few, and open to the very end.
    pub(crate) fn for_metrics(&self, listener: TcpListener, router: Router) -> Self {
        let limits = Limits { connections_max: SCRAPERS_MAX, ..self.limits };
        Self {
            listener,
            tls: None,
            router,
            limits,
            metrics: None,
            connections: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: self.cut.clone(),
        }
    }

    /// Accepts until it is dropped.
    pub(crate) async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max));
        let addresses = Places::new(self.limits.connections_per_address_max);
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let permit = slots.clone().try_acquire_owned().ok();
            let address = addresses.take(neighbourhood(peer.ip()));
            let (Some(permit), Some(address)) = (permit, address) else {
                if let Some(metrics) = &self.metrics {
                    metrics.connection_refused();
                }
                continue;
            };
            let slot = Arc::new(Slot::new(self.metrics.clone(), permit, address));
            self.connections.spawn(self.connection(stream, peer, slot));
        }
    }

    /// The task of one connection, from its first byte.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Arc<Slot>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.borrow().clone()));
        let serve = Serve {
            router: self.router.clone(),
            limits: self.limits,
            drain: self.drain.clone(),
            cut: self.cut.clone(),
            slot,
        };
        let limits = self.limits;
        async move {
            // Tokens are small and late ones are noticed.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, %error, "setting TCP_NODELAY");
            }
            let stream = Patience::new(stream, limits.silence_max);
            let Some(tls) = tls else { return serve.run(stream, peer).await };
            match timeout(limits.head_wait, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve.run(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        }
    }
}

async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    // These are about the one connection that did not come to be.
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "accepting a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves HTTP on one connection.
struct Serve {
    router: Router,
    limits: Limits,
    drain: CancellationToken,
    cut: CancellationToken,
    slot: Arc<Slot>,
}

impl Serve {
    async fn run<S>(self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, limits, drain, cut, slot } = self;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(slot.clone());
            router.clone().oneshot(request)
        });
        let is_late = drain.is_cancelled();
        let head_wait =
            if is_late { limits.head_wait.min(LATE_HEAD_WAIT) } else { limits.head_wait };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_wait)
            .keep_alive(!is_late)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = drain.cancelled(), if !is_late => {
                // Answers what is being asked, then closes.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    outcome = connection => outcome,
                    () = until_cut(&cut) => return,
                }
            }
            () = until_cut(&cut) => return,
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, %error, "serving a connection");
        }
    }
}

/// Waits for the cut, and a little longer.
async fn until_cut(cut: &CancellationToken) {
    cut.cancelled().await;
    tokio::time::sleep(CUT_WAIT).await;
}
