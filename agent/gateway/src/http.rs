//! The routes of the door, and what every HTTP answer has in common.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, State},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use realm_core::{auth::Credential, refusal::Refusal};
use tokio::time::timeout;

use crate::{door::Door, openai, ws};

mod cors;

/// Everything clients use.
pub(crate) fn router(door: Arc<Door>) -> Router {
    let asked = Router::new()
        .route("/v1/ws", get(ws::upgrade))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::complete))
        .route("/v1/embeddings", post(openai::embed))
        .route("/v1/models", get(openai::list_models))
        .route("/v1/models/{*model}", get(openai::show_model))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(door.clone(), cors::answer));
    asked.merge(probes()).fallback(nothing_here).with_state(door)
}

/// What Prometheus and the kubelet use, on a port of its own.
pub(crate) fn metrics_router(door: Arc<Door>) -> Router {
    Router::new().route("/metrics", get(scrape)).merge(probes()).with_state(door)
}

fn probes() -> Router<Arc<Door>> {
    Router::new().route("/healthz", get(live)).route("/readyz", get(ready))
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(door): State<Arc<Door>>) -> (StatusCode, &'static str) {
    if door.is_leaving() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if door.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not everything that is desired has been tried\n")
    }
}

async fn scrape(State(door): State<Arc<Door>>) -> Response {
    match door.scrape() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "writing the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn nothing_here() -> Response {
    openai::Problem::nothing_here().into_response()
}

async fn wrong_method() -> Response {
    openai::Problem::wrong_method().into_response()
}

/// The key of a request, from `Authorization: Bearer`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bearer(pub(crate) Credential);

impl Bearer {
    /// The key in `headers`; `None` where there is no such header at all.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Result<Self, Refusal>> {
        let value = headers.get(header::AUTHORIZATION)?;
        Some(bearer_key(value).map(|key| Self(Credential::of(key))).ok_or(Refusal::Unauthenticated))
    }
}

fn bearer_key(value: &HeaderValue) -> Option<&str> {
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim_ascii())
}

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = openai::Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::of(&parts.headers).unwrap_or(Err(Refusal::Unauthenticated)).map_err(Into::into)
    }
}

/// Reads a whole body, bounded in bytes and time.
pub(crate) async fn read_body(
    body: Body,
    bytes_max: usize,
    wait: Duration,
) -> Result<Bytes, Refusal> {
    let read = timeout(wait, Limited::new(body, bytes_max).collect());
    match read.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge { bytes_max }),
        Ok(Err(_)) => Err(Refusal::Invalid("the body broke off".into())),
        Err(_) => Err(Refusal::Invalid(format!("the body took longer than {wait:?}"))),
    }
}
