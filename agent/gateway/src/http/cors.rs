//! Lets pages of allowed origins read answers.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use realm_core::refusal::Refusal;

use crate::{door::Door, openai::Problem};

/// How long a browser may remember a preflight, in seconds.
const REMEMBER_S: HeaderValue = HeaderValue::from_static("600");

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// Headers of answers that pages may read besides the safe ones.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, retry-after-ms");

/// Answers preflights, and marks answers as readable for the page that asked.
///
/// A page of another origin gets its answer without the marks, which its browser then withholds.
pub(crate) async fn answer(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let is_allowed = door.origins.allow(request.headers());
    if is_preflight(&request) {
        if !is_allowed {
            return Problem::from(Refusal::NotAllowed("this origin".into())).into_response();
        }
        return preflight(request.headers(), origin);
    }
    let mut response = next.run(request).await;
    if is_allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(asked: &HeaderMap, origin: HeaderValue) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // The official clients send many headers about themselves; none of them means anything here.
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBER_S);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}
