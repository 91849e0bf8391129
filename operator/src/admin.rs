//! Health and metrics, on a port of their own.

use std::{io, net::SocketAddr};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse as _, routing::get};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Serves until it is dropped. A standby is as ready as a leader: it can take over.
pub(crate) async fn serve(listener: TcpListener, metrics: Metrics) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .route("/metrics", get(scrape))
        .with_state(metrics);
    axum::serve(listener, router).await
}

/// Takes the port.
pub(crate) async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await
}

async fn scrape(State(metrics): State<Metrics>) -> axum::response::Response {
    match metrics.text() {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "writing the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
