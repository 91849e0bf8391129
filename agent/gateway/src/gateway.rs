//! Binding and serving: the door as the wiring sees it.

use std::{io, net::SocketAddr, sync::Arc};

use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, ConfigError, GatewayConfig},
    door::{Door, Ports},
    drain, http,
    listen::Listen,
    tls::{Tls, TlsError},
};

/// A door that is bound and not yet open.
pub struct Gateway {
    door: Arc<Door>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    tls: Option<Tls>,
}

/// Why a door could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("checking the door's configuration")]
    Config(#[source] ConfigError),
    #[error("loading the door's TLS certificate")]
    Tls(#[source] TlsError),
    #[error("listening on {addr}")]
    Listen { addr: SocketAddr, source: io::Error },
}

impl Gateway {
    /// Checks the configuration, loads the certificate and takes the ports.
    pub async fn bind(config: GatewayConfig, ports: Ports) -> Result<Self, BindError> {
        let origins = config::check(&config).map_err(BindError::Config)?;
        let tls = match config.tls.clone() {
            Some(files) => Some(Tls::load(files).await.map_err(BindError::Tls)?),
            None => None,
        };
        let listener = listen(config.listen).await?;
        let metrics = match config.metrics {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        let door = Arc::new(Door::new(ports, &config, origins));
        Ok(Self { door, listener, metrics, tls })
    }

    /// Where clients connect; the port is the one the system chose when 0 was asked for.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where Prometheus scrapes.
    pub fn metrics_addr(&self) -> Option<io::Result<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr)
    }

    /// Serves until `shutdown` is cancelled, then drains. New connections are accepted to the
    /// end, so that late clients hear a reason and probes see that the door is not ready.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { door, listener, metrics, tls } = self;
        let mut tasks = JoinSet::new();
        let open = Listen {
            listener,
            tls: tls.as_ref().map(Tls::current),
            router: http::router(door.clone()),
            limits: door.limits,
            metrics: Some(door.metrics().clone()),
            connections: door.connections.clone(),
            drain: door.drain.clone(),
            cut: door.cut.clone(),
        };
        if let Some(listener) = metrics {
            let scraped = open.for_metrics(listener, http::metrics_router(door.clone()));
            tasks.spawn(scraped.run());
        }
        if let Some(tls) = tls {
            tasks.spawn(tls.follow());
        }
        tasks.spawn(open.run());
        shutdown.cancelled().await;
        drain::drain(&door).await;
        // Dropping the tasks closes the ports.
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| BindError::Listen { addr, source })
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("listener", &self.listener).finish_non_exhaustive()
    }
}
