//! The API server as a leader has it: what would change something is sent only while the Lease
//! holds.
//!
//! One check for every write there is, before a request is given to a connection, which may have to
//! be made yet, and behind every queue and every wait before another try.

use hyper::{Method, Request};
use kube::{
    Client,
    client::{Body, ClientBuilder, retry::RetryPolicy},
};
use thiserror::Error;
use tokio::time::Instant;
use tower::{BoxError, Service, buffer::BufferLayer, filter::FilterLayer, retry::RetryLayer};

use super::leading::Leading;

/// Requests that wait for a place: as many as kube's own client has room for. Three kinds with
/// sixteen reconciles each, and their watches, are fewer than a hundred.
const REQUESTS_BUFFERED_MAX: usize = 1024;

/// Why something was not written.
#[derive(Debug, Error)]
#[error("the Lease has run out; what was to be written is the next leader's to write")]
pub(crate) struct Deposed;

/// A client of `builder`'s service that writes only while `leading` says so. What the API server
/// asks to be sent again is sent again here, and looked at again; the service itself must not do
/// that ([`kube::Config::default_retry`]).
pub(crate) fn client<S, B>(builder: ClientBuilder<S>, leading: Leading) -> Client
where
    S: Service<Request<Body>, Response = hyper::Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = hyper::body::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let guard = move |request: Request<Body>| check(&leading, request, Instant::now());
    builder
        .with_layer(&FilterLayer::new(guard))
        .with_layer(&BufferLayer::new(REQUESTS_BUFFERED_MAX))
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .build()
}

/// Lets reads pass, and writes while this operator leads. Pure.
fn check(
    leading: &Leading,
    request: Request<Body>,
    now: Instant,
) -> Result<Request<Body>, Deposed> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_read || leading.leads(now) { Ok(request) } else { Err(Deposed) }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use hyper::{Response, StatusCode};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        api::{DeleteParams, Patch, PatchParams, PostParams},
    };
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::lease::leading::Lead;

    /// What reached the API server.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Method>>>);

    impl Seen {
        fn take(&self) -> Vec<Method> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    /// Config maps of an API server that gives the same answer to everything.
    fn config_maps(lead: &Lead, answer: StatusCode) -> (Api<ConfigMap>, Seen) {
        let seen = Seen::default();
        let service = tower::service_fn({
            let seen = seen.clone();
            move |request: Request<Body>| {
                seen.0.lock().unwrap().push(request.method().clone());
                let body = br#"{"metadata": {"name": "x"}}"#.to_vec();
                let response = Response::builder().status(answer).body(Body::from(body));
                async { response.map_err(BoxError::from) }
            }
        });
        let client = client(ClientBuilder::new(service, "lab"), lead.subscribe());
        (Api::default_namespaced(client), seen)
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_lease_has_run_out_reads_and_writes_nothing_though_nobody_told_it() {
        let lead = Lead::new();
        let (api, seen) = config_maps(&lead, StatusCode::OK);
        lead.until(Instant::now() + Duration::from_secs(10));
        let patch = Patch::Merge(serde_json::json!({}));
        let patched = async || api.patch_status("x", &PatchParams::default(), &patch).await;
        patched().await.unwrap();
        assert_eq!(seen.take(), [Method::PATCH]);

        advance(Duration::from_secs(10)).await;
        let error = patched().await.unwrap_err();
        let kube::Error::Service(cause) = &error else { panic!("{error}") };
        assert!(cause.is::<Deposed>(), "{cause}");
        api.create(&PostParams::default(), &ConfigMap::default()).await.unwrap_err();
        api.replace("x", &PostParams::default(), &ConfigMap::default()).await.unwrap_err();
        api.delete("x", &DeleteParams::default()).await.unwrap_err();
        assert_eq!(seen.take(), Vec::<Method>::new());
        api.get("x").await.unwrap();
        assert_eq!(seen.take(), [Method::GET]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_to_be_sent_again_is_not_sent_by_a_lease_that_ran_out_meanwhile() {
        let lead = Lead::new();
        let (api, seen) = config_maps(&lead, StatusCode::TOO_MANY_REQUESTS);
        lead.until(Instant::now() + Duration::from_secs(1));
        let patch = Patch::Merge(serde_json::json!({}));
        let error = api.patch("x", &PatchParams::default(), &patch).await.unwrap_err();
        sleep(Duration::from_mins(1)).await;
        assert!(matches!(error, kube::Error::Service(_)), "{error}");
        // Its waits double from five milliseconds on.
        let tries = seen.take().len();
        assert!((2..12).contains(&tries), "{tries}");
    }
}
