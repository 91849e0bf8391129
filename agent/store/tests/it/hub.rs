//! Files of the model hub, from a double that checks the shapes of the real requests.

use realm_core::credentials::{Credentials, Secret};

use crate::{
    server::{Reply, Server},
    world::{World, artifact, bytes, reasons},
};

/// What the hub's own store of files tags them with.
const ETAG: &str = "\"5f05\"";

fn token() -> Credentials {
    Credentials { hub_token: Some(Secret::new("hf_Token")), ..Credentials::default() }
}

fn world(hub: &Server) -> World {
    World::with(|options| options.hub_endpoint = hub.url(""))
}

#[tokio::test]
async fn a_file_comes_through_the_hubs_store_which_never_sees_the_token() {
    let body = bytes(500_000);
    let file = body.clone();
    let store = Server::start(move |request| match request.number {
        0 => Reply::good(request, &file, ETAG).cut(200_000),
        _ => Reply::good(request, &file, ETAG),
    })
    .await;
    let location = store.url("/blob?Policy=x&Signature=y");
    let hub = Server::start(move |request| match request.path.as_str() {
        "/org/old/resolve/v1.0/dir/a%20b.gguf" => {
            Reply::redirect("/org/Repo/resolve/v1.0/dir/a%20b.gguf")
        }
        "/org/Repo/resolve/v1.0/dir/a%20b.gguf" => Reply::redirect(&location),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await;
    let wanted = artifact(&body, ["hf://org/old@v1.0/dir/a b.gguf".to_owned()]);
    world(&hub).fetch_with(&wanted, &token()).await.unwrap();

    let asked = hub.requests();
    assert_eq!(asked.len(), 4, "two attempts, each led on twice");
    for request in asked {
        assert_eq!(request.authorization.as_deref(), Some("Bearer hf_Token"), "{request:?}");
    }
    let [first, second] = &store.requests()[..] else { panic!("two attempts") };
    assert_eq!(first.path, "/blob?Policy=x&Signature=y");
    assert_eq!((second.range_from, second.if_range.as_deref()), (Some(200_000), Some(ETAG)));
    assert_eq!((&first.authorization, &second.authorization), (&None, &None));
}

#[tokio::test]
async fn a_file_of_a_public_repository_needs_no_token() {
    let body = bytes(1000);
    let file = body.clone();
    let hub = Server::start(move |request| Reply::good(request, &file, ETAG)).await;
    let wanted = artifact(&body, ["hf://org/repo/a.gguf".to_owned()]);
    world(&hub).fetch(&wanted).await.unwrap();
    let [request] = &hub.requests()[..] else { panic!("one request") };
    assert_eq!(request.path, "/org/repo/resolve/main/a.gguf");
    assert_eq!(request.authorization, None);
}

#[tokio::test]
async fn what_the_hub_refuses_is_told_from_what_it_does_not_have() {
    let body = bytes(10);
    let hub = Server::start(|request| match request.path.as_str() {
        "/org/gated/resolve/main/a" => Reply::new("403 Forbidden", &[], b"terms"),
        "/org/private/resolve/main/a" => Reply::new("401 Unauthorized", &[], b"who"),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await;
    let sources = ["gated", "private", "absent"].map(|repo| format!("hf://org/{repo}/a"));
    let error = world(&hub).fetch(&artifact(&body, sources)).await.unwrap_err();
    let expected = ["SourceUnauthorized", "SourceUnauthorized", "SourceNotFound"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
    assert_eq!(hub.requests().len(), 3, "none is asked again");
}

#[tokio::test]
async fn a_hub_that_may_not_be_asked_is_not() {
    let body = bytes(10);
    let world = World::with(|options| options.hub_endpoint = "http://10.0.0.1".to_owned());
    let wanted = artifact(&body, ["hf://org/repo/a".to_owned()]);
    let error = world.fetch_with(&wanted, &token()).await.unwrap_err();
    assert_eq!(error.reason(), "SourceNotAllowed", "{error}");
}
