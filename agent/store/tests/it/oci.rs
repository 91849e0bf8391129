//! Layers of a registry, from a double that shows what is asked; a real registry is in `real`.

use realm_core::credentials::{Credentials, RegistryLogin, Secret};

use crate::{
    server::{Reply, Request, Server},
    world::{World, artifact, bytes, digest, reasons},
};

const ETAG: &str = "\"layer\"";

/// `user:hunter2`, as RFC 7617 writes it.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// A manifest of these files, each under its title.
fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
    let layers: Vec<String> = files
        .iter()
        .map(|(title, body)| {
            let (digest, size) = (digest(body), body.len());
            format!(
                r#"{{"mediaType":"application/vnd.test","digest":"sha256:{digest}","size":{size},"annotations":{{"org.opencontainers.image.title":"{title}"}}}}"#
            )
        })
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","layers":[{}]}}"#, layers.join(","))
        .into_bytes()
}

fn source(registry: &Server, rest: &str) -> String {
    format!("oci://{}/{rest}", registry.address)
}

fn login(registry: &Server) -> Credentials {
    let login = RegistryLogin { user: Secret::new("user"), password: Secret::new("hunter2") };
    let registry_logins = [(registry.address.to_string(), login)].into();
    Credentials { registry_logins, ..Credentials::default() }
}

/// A registry of those layers, each under its title.
pub(crate) async fn registry_of(files: &[(&str, &[u8])]) -> Server {
    let manifest = manifest(files);
    let blobs: Vec<_> = files.iter().map(|(_, body)| (digest(body), body.to_vec())).collect();
    Server::start(move |request| {
        if request.path.contains("/manifests/") {
            return Reply::whole(&manifest);
        }
        let blob = blobs.iter().find(|(digest, _)| request.path.ends_with(&digest.to_string()));
        blob.map_or_else(
            || Reply::new("404 Not Found", &[], b""),
            |(_, body)| Reply::good(request, body, ETAG),
        )
    })
    .await
}

/// A registry without locks: the manifest under any name, and the blobs.
async fn open_registry(manifest: Vec<u8>, blob: Vec<u8>) -> Server {
    let digest = digest(&blob);
    Server::start(move |request| match request.path.as_str() {
        path if path.contains("/manifests/") => Reply::whole(&manifest),
        path if path.ends_with(&digest.to_string()) => Reply::good(request, &blob, ETAG),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await
}

#[tokio::test]
async fn a_layer_is_found_by_its_title_and_fetched_by_its_digest() {
    let (world, body) = (World::new(), bytes(300_000));
    let manifest = manifest(&[("README.md", b"read"), ("a.gguf", &body)]);
    let named = digest(&manifest);
    let registry = open_registry(manifest, body.clone()).await;
    let wanted = artifact(&body, [source(&registry, "org/models:v1#a.gguf")]);
    world.fetch(&wanted).await.unwrap();
    let asked: Vec<_> = registry.requests().into_iter().map(|request| request.path).collect();
    let blob = format!("/v2/org/models/blobs/sha256:{}", digest(&body));
    assert_eq!(asked, ["/v2/org/models/manifests/v1", &blob]);
    let accept = registry.requests()[0].accept.clone().unwrap();
    assert!(accept.contains("application/vnd.oci.image.manifest.v1+json"), "{accept}");

    let pinned = artifact(&body, [source(&registry, &format!("org/models@sha256:{named}"))]);
    World::new().fetch(&pinned).await.unwrap();
    let path = &registry.requests()[2].path;
    assert_eq!(*path, format!("/v2/org/models/manifests/sha256:{named}"));
}

#[tokio::test]
async fn a_layer_that_cannot_be_the_file_is_not_downloaded() {
    let (world, body) = (World::new(), bytes(1000));
    let registry = open_registry(manifest(&[("a", b"one"), ("b", b"two")]), body.clone()).await;
    let wrong = digest(b"none");
    let sources = ["m:v1", "m:v1#a", "m:v1#c", &format!("m@sha256:{wrong}")];
    let sources = sources.map(|rest| source(&registry, rest));
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    let expected = ["LayerNotFound", "DigestMismatch", "LayerNotFound", "SourceMalformed"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
    assert!(registry.requests().iter().all(|request| request.path.contains("/manifests/")));

    let small = World::with(|options| options.bytes_max = 999);
    let registry = open_registry(manifest(&[("a", &body)]), body.clone()).await;
    let error = small.fetch(&artifact(&body, [source(&registry, "m")])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceTooLarge", "{error}");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn an_endless_manifest_is_given_up() {
    let (world, body) = (World::new(), bytes(10));
    let registry = open_registry(vec![b' '; (4 << 20) + 1], body.clone()).await;
    let error = world.fetch(&artifact(&body, [source(&registry, "m")])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceMalformed", "{error}");
}

/// A registry that wants a token of `realm`, and leads to `store` for its blobs.
async fn token_registry(realm: String, store: String, body: &[u8]) -> Server {
    let manifest = manifest(&[("a.gguf", body)]);
    Server::start(move |request| {
        let is_blob = request.path.contains("/blobs/");
        match request.authorization.as_deref() {
            Some("Bearer granted") if is_blob => Reply::redirect(&store),
            Some("Bearer granted") => Reply::whole(&manifest),
            _ => {
                let challenge = format!("Bearer realm=\"{realm}\",service=\"a b\",scope=\"all\"");
                let headers = [("www-authenticate", &*challenge), ("content-length", "0")];
                Reply::new("401 Unauthorized", &headers, b"")
            }
        }
    })
    .await
}

async fn token_server(name: &'static str) -> Server {
    Server::start(move |_| Reply::whole(format!("{{\"{name}\":\"granted\"}}").as_bytes())).await
}

#[tokio::test]
async fn each_attempt_gets_a_token_and_the_store_of_blobs_never_sees_it() {
    let body = bytes(500_000);
    for name in ["token", "access_token"] {
        let file = body.clone();
        let store = Server::start(move |request| match request.number {
            0 => Reply::good(request, &file, ETAG).cut(200_000),
            _ => Reply::good(request, &file, ETAG),
        })
        .await;
        let tokens = token_server(name).await;
        let registry = token_registry(tokens.url("/token?x=y"), store.url("/blob"), &body).await;
        let wanted = artifact(&body, [source(&registry, "org/m")]);
        World::new().fetch_with(&wanted, &login(&registry)).await.unwrap();

        let [first, second] = &tokens.requests()[..] else { panic!("one for each attempt") };
        let asked = "/token?x=y&service=a+b&scope=repository%3Aorg%2Fm%3Apull";
        assert_eq!((first.path.as_str(), second.path.as_str()), (asked, asked));
        assert_eq!(first.authorization.as_deref(), Some(BASIC));
        let [first, second] = &store.requests()[..] else { panic!("two attempts") };
        assert_eq!((&first.authorization, &second.authorization), (&None, &None));
        assert_eq!(second.range_from, Some(200_000));
        let shown = registry.requests().iter().any(|r| r.authorization.as_deref() == Some(BASIC));
        assert!(!shown, "the login is for the token server");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_without_a_login_where_there_is_none() {
    let body = bytes(1000);
    let file = body.clone();
    let store = Server::start(move |request| Reply::good(request, &file, ETAG)).await;
    let tokens = token_server("token").await;
    let registry = token_registry(tokens.url("/token"), store.url("/blob"), &body).await;
    let other = login(&tokens);
    let wanted = artifact(&body, [source(&registry, "org/m")]);
    World::new().fetch_with(&wanted, &other).await.unwrap();
    assert_eq!(tokens.requests()[0].authorization, None, "that login is another registry's");
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it() {
    let (world, body) = (World::new(), bytes(1000));
    let (file, manifest) = (body.clone(), manifest(&[("a", &body)]));
    let registry = Server::start(move |request: &Request| {
        match (request.authorization.as_deref(), request.path.contains("/blobs/")) {
            (Some(BASIC), true) => Reply::good(request, &file, ETAG),
            (Some(BASIC), false) => Reply::whole(&manifest),
            _ => Reply::new("401 Unauthorized", &[("www-authenticate", "Basic realm=\"r\"")], b""),
        }
    })
    .await;
    let wanted = artifact(&body, [source(&registry, "m")]);
    let error = world.fetch(&wanted).await.unwrap_err();
    assert_eq!(error.reason(), "SourceUnauthorized", "{error}");
    assert_eq!(registry.requests().len(), 1);
    world.fetch_with(&wanted, &login(&registry)).await.unwrap();
}

#[tokio::test]
async fn a_login_is_not_sent_where_plain_text_could_be_read() {
    let (world, body) = (World::new(), bytes(1000));
    for realm in ["http://10.0.0.1/token", "ftp://127.0.0.1/token", "/token", "https://a.example/"]
    {
        let registry = token_registry(realm.to_owned(), String::new(), &body).await;
        let wanted = artifact(&body, [source(&registry, "m")]);
        let error = world.fetch_with(&wanted, &login(&registry)).await.unwrap_err();
        let expected = if realm == "/token" { "SourceUnauthorized" } else { "SourceRedirected" };
        assert_eq!(error.reason(), expected, "{error}");
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_challenge_of_whom_the_registry_leads_to_is_not_answered() {
    let (world, body) = (World::new(), bytes(1000));
    let tokens = token_server("token").await;
    let strangers = token_registry(tokens.url("/token"), String::new(), &body).await;
    let basic = Server::start(|_| {
        Reply::new("401 Unauthorized", &[("www-authenticate", "Basic realm=\"r\"")], b"")
    })
    .await;
    for stranger in [&strangers, &basic] {
        let elsewhere = stranger.url("/v2/m/manifests/latest");
        let registry = Server::start(move |_| Reply::redirect(&elsewhere)).await;
        let wanted = artifact(&body, [source(&registry, "m")]);
        let error = world.fetch_with(&wanted, &login(&registry)).await.unwrap_err();
        assert_eq!(error.reason(), "SourceUnauthorized", "{error}");
        assert_eq!((registry.requests().len(), stranger.requests().len()), (1, 1));
    }
    assert!(tokens.requests().is_empty(), "{:?}", tokens.requests());
}

#[tokio::test]
async fn a_registry_may_lead_to_itself_before_it_asks_who_is_there() {
    let body = bytes(1000);
    let manifest = manifest(&[("a", &body)]);
    let file = body.clone();
    let registry = Server::start(move |request: &Request| {
        match (request.authorization.as_deref(), &*request.path) {
            (_, "/v2/m/manifests/latest") => Reply::redirect("/v2/m/manifests/v1"),
            (Some(BASIC), "/v2/m/manifests/v1") => Reply::whole(&manifest),
            (Some(BASIC), _) => Reply::good(request, &file, ETAG),
            _ => Reply::new("401 Unauthorized", &[("www-authenticate", "Basic realm=\"r\"")], b""),
        }
    })
    .await;
    let wanted = artifact(&body, [source(&registry, "m")]);
    World::new().fetch_with(&wanted, &login(&registry)).await.unwrap();
}

#[tokio::test]
async fn a_token_server_that_gives_none_ends_the_fetch() {
    let (world, body) = (World::new(), bytes(1000));
    for (status, answer, expected) in [
        ("403 Forbidden", "", "SourceUnauthorized"),
        ("200 OK", "{}", "SourceMalformed"),
        ("200 OK", "<html>hunter2", "SourceMalformed"),
        ("200 OK", r#"{"token":"a\nb"}"#, "CredentialsInvalid"),
        ("503 Busy", "", "SourceRefused"),
    ] {
        let tokens = Server::start(move |_| Reply::new(status, &[], answer.as_bytes())).await;
        let registry = token_registry(tokens.url("/token"), String::new(), &body).await;
        let wanted = artifact(&body, [source(&registry, "m")]);
        let error = world.fetch_with(&wanted, &login(&registry)).await.unwrap_err();
        assert_eq!(error.reason(), expected, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        let attempts = if expected == "SourceRefused" { 3 } else { 1 };
        assert_eq!(tokens.requests().len(), attempts, "what may pass is asked again: {error}");
    }
}
