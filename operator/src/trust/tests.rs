use std::sync::Mutex;

use hyper::{Method, Request, Response, StatusCode};
use kube::client::{Body, ClientBuilder};
use serde_json::Value;
use tower::BoxError;

use super::*;

/// When the first authority was made.
fn made() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24)
}

/// A time at which it has a successor due.
fn due() -> SystemTime {
    made() + Duration::from_hours(24 * 500)
}

/// An API server with one Secret in it.
#[derive(Default)]
struct Server {
    secret: Option<Secret>,
    /// What is kept by somebody else as soon as the Secret has been read.
    meanwhile: Option<Secret>,
    published: Vec<String>,
}

impl Server {
    fn keeping(authority: &Authority) -> Self {
        Self { secret: Some(versioned(authority, "1")), ..Self::default() }
    }

    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        if path.contains("/configmaps/") {
            let bundle = body["data"][CERTIFICATES].as_str().unwrap();
            self.published.push(bundle.to_owned());
            return (StatusCode::OK, body.clone());
        }
        let Some(secret) = &self.secret else { return self.without_secret(method, body) };
        let was = serde_json::to_value(secret).unwrap();
        if *method == Method::GET {
            self.secret = self.meanwhile.take().or_else(|| self.secret.take());
            return (StatusCode::OK, was);
        }
        assert_eq!(*method, Method::PATCH);
        if body["metadata"]["resourceVersion"] != was["metadata"]["resourceVersion"] {
            return (StatusCode::CONFLICT, json!({ "code": 409, "reason": "Conflict" }));
        }
        self.secret = serde_json::from_value(body.clone()).ok();
        (StatusCode::OK, body.clone())
    }

    fn without_secret(&mut self, method: &Method, body: &Value) -> (StatusCode, Value) {
        if *method == Method::GET {
            return (StatusCode::NOT_FOUND, json!({ "code": 404, "reason": "NotFound" }));
        }
        assert_eq!(*method, Method::POST);
        self.secret = serde_json::from_value(body.clone()).ok();
        (StatusCode::CREATED, body.clone())
    }

    fn kept(&self) -> String {
        read(self.secret.as_ref().unwrap()).unwrap().bundle()
    }
}

fn versioned(authority: &Authority, version: &str) -> Secret {
    let mut secret = secret_of(authority);
    secret.metadata.resource_version = Some(version.to_owned());
    secret
}

fn trust(server: Server) -> (Trust, Arc<Mutex<Server>>) {
    let server = Arc::new(Mutex::new(server));
    let service = tower::service_fn({
        let server = server.clone();
        move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(BoxError::from)?;
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path = head.uri.path();
                let (status, answer) = server.lock().unwrap().answer(&head.method, path, &body);
                let answer = Body::from(answer.to_string().into_bytes());
                Response::builder().status(status).body(answer).map_err(BoxError::from)
            }
        }
    });
    let client = ClientBuilder::new(service, "realm").build();
    (Trust::new(&client, "realm"), server)
}

#[tokio::test]
async fn a_write_that_comes_late_takes_back_nothing_that_was_kept_meanwhile() {
    let old = Authority::create(made()).unwrap();
    let newer = old.rotated(due()).unwrap();
    let meanwhile = Some(versioned(&newer, "2"));
    let (trust, server) = trust(Server { meanwhile, ..Server::keeping(&old) });

    let refused = trust.advance(&old, due()).await.unwrap_err();
    assert!(matches!(refused, TrustError::Write(_)), "{refused}");
    assert_eq!(server.lock().unwrap().kept(), newer.bundle());
    assert!(server.lock().unwrap().published.is_empty(), "nobody believes what is not kept");

    let taken = trust.advance(&old, due()).await.unwrap().unwrap();
    assert_eq!(taken.bundle(), newer.bundle(), "who comes again takes up what is kept");
}

#[tokio::test]
async fn an_authority_that_is_due_is_kept_and_then_published() {
    let old = Authority::create(made()).unwrap();
    let (trust, server) = trust(Server::keeping(&old));
    let next = trust.advance(&old, due()).await.unwrap().unwrap();
    assert_ne!(next.bundle(), old.bundle());
    let server = server.lock().unwrap();
    assert_eq!(server.kept(), next.bundle());
    assert_eq!(server.published, [next.bundle()]);
}

#[tokio::test]
async fn what_is_to_be_trusted_is_published_at_each_look() {
    let authority = Authority::create(made()).unwrap();
    let (trust, server) = trust(Server::keeping(&authority));
    let now = made();
    assert!(trust.advance(&authority, now).await.unwrap().is_none());
    assert!(trust.advance(&authority, now).await.unwrap().is_none());
    assert_eq!(server.lock().unwrap().published, [authority.bundle(), authority.bundle()]);
}

#[tokio::test]
async fn an_authority_that_somebody_deleted_is_put_back() {
    let authority = Authority::create(made()).unwrap();
    let (trust, server) = trust(Server::default());
    assert!(trust.advance(&authority, made()).await.unwrap().is_none());
    assert_eq!(server.lock().unwrap().kept(), authority.bundle());
}
