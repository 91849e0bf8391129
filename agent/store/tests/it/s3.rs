//! Objects of an object store, from a double that shows what is asked; a real store is in `real`.

use std::{collections::BTreeMap, sync::Mutex};

use realm_core::credentials::{Credentials, S3Keys, Secret};

use crate::{
    server::{Reply, Request, Server},
    world::{World, artifact, bytes, owner, reasons},
};

const ETAG: &str = "\"9b2cf5\"";

fn keys(store: &Server, session_token: Option<&str>) -> Credentials {
    let keys = S3Keys {
        access_key_id: Secret::new("AKIDEXAMPLE"),
        secret_access_key: Secret::new("hunter2"),
        session_token: session_token.map(Secret::new),
    };
    let s3_keys = [(store.address.to_string(), keys)].into();
    Credentials { s3_keys, ..Credentials::default() }
}

fn query(request: &Request) -> BTreeMap<&str, &str> {
    let (_, query) = request.path.split_once('?').unwrap_or_default();
    query.split('&').filter_map(|pair| pair.split_once('=')).collect()
}

#[tokio::test]
async fn every_attempt_is_signed_anew_and_goes_on_where_the_last_ended() {
    let (world, body) = (World::new(), bytes(500_000));
    let file = body.clone();
    let store = Server::start(move |request| match request.number {
        0 => Reply::new("503 Slow Down", &[], b""),
        1 => Reply::good(request, &file, ETAG).cut(200_000),
        _ => Reply::good(request, &file, ETAG),
    })
    .await;
    let source = format!("s3://bucket/dir/a b+c.gguf?region=eu-west-1&endpoint={}", store.url(""));
    world.fetch_with(&artifact(&body, [source]), &keys(&store, Some("SESSION"))).await.unwrap();
    let requests = store.requests();
    let ranges: Vec<_> = requests.iter().map(|request| request.range_from).collect();
    assert_eq!(ranges, [None, None, Some(200_000)]);
    for request in &requests {
        assert!(request.path.starts_with("/bucket/dir/a%20b%2Bc.gguf?"), "{request:?}");
        let query = query(request);
        assert!(query["X-Amz-Credential"].starts_with("AKIDEXAMPLE%2F"), "{query:?}");
        assert!(query["X-Amz-Credential"].ends_with("%2Feu-west-1%2Fs3%2Faws4_request"));
        assert_eq!(query["X-Amz-Security-Token"], "SESSION");
        assert_eq!(query["X-Amz-Signature"].len(), 64);
        assert_eq!(request.authorization, None, "one proof, not two");
        assert!(!request.path.contains("hunter2"));
    }
}

#[tokio::test]
async fn without_keys_the_request_goes_unsigned() {
    let (world, body) = (World::new(), bytes(1000));
    let file = body.clone();
    let store = Server::start(move |request| Reply::good(request, &file, ETAG)).await;
    let source = format!("s3://bucket/a.gguf?endpoint={}", store.url(""));
    world.fetch(&artifact(&body, [source])).await.unwrap();
    assert_eq!(store.requests()[0].path, "/bucket/a.gguf");
}

#[tokio::test]
async fn a_signature_is_in_no_error_and_no_progress() {
    let (world, body) = (World::new(), bytes(1000));
    let store = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/bucket/shut") => Reply::new("403 Forbidden", &[], b"<Code/>"),
        path if path.starts_with("/bucket/away") => Reply::redirect("http://10.0.0.1/?Signature=s"),
        _ => Reply::whole(b"short").cut(2),
    })
    .await;
    let sources =
        ["shut", "away", "cut"].map(|key| format!("s3://bucket/{key}?endpoint={}", store.url("")));
    let told = Mutex::new(Vec::new());
    let (wanted, keys) = (artifact(&body, sources), keys(&store, Some("SESSION")));
    let progress = |progress| told.lock().unwrap().push(progress);
    let error = world.store.fetch(&wanted, &owner(&keys), &progress).await.unwrap_err();
    let expected = ["SourceUnauthorized", "SourceRedirected", "SourceInterrupted"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
    let shown = format!("{error} {error:?} {:?}", told.lock().unwrap());
    for secret in ["AKIDEXAMPLE", "hunter2", "SESSION", "Signature"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
