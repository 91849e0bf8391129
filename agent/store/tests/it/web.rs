//! Downloads that come through.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use realm_store::{Site, Verdict};
use rustls::{ServerConfig, crypto::ring};

use crate::{
    server::{Reply, Request, Server},
    world::{NOBODY, World, artifact, bytes, digest, reasons, unnamed},
};

const ETAG: &str = "\"one\"";

#[tokio::test]
async fn a_file_is_stored_under_its_digest_and_asked_for_once() {
    let (world, body) = (World::new(), bytes(3_000_000));
    let file = body.clone();
    let server = Server::start(move |request| Reply::good(request, &file, ETAG)).await;
    let wanted = artifact(&body, [server.url("/a.gguf?key=secret")]);
    let stored = world.fetch(&wanted).await.unwrap();
    assert_eq!(stored.sha256, digest(&body));
    assert_eq!(stored.bytes, body.len() as u64);
    assert_eq!(stored.path, world.dir.path().join("blobs/sha256").join(stored.sha256.to_string()));
    assert_eq!(std::fs::read(&stored.path).unwrap(), body);
    let mode = std::fs::metadata(&stored.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444, "nobody changes it by accident");
    assert!(world.unfinished().is_empty(), "{:?}", world.unfinished());

    assert_eq!(world.fetch(&wanted).await.unwrap(), stored);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(world.store.list().await.unwrap(), [stored]);
}

#[tokio::test]
async fn a_changed_blob_is_found_out_removed_and_fetched_again() {
    let (world, body) = (World::new(), bytes(1000));
    let file = body.clone();
    let server = Server::start(move |request| Reply::good(request, &file, ETAG)).await;
    let wanted = artifact(&body, [server.url("/a")]);
    let sha256 = digest(&body);
    assert_eq!(world.store.verify(sha256).await.unwrap(), Verdict::Absent);
    let stored = world.fetch(&wanted).await.unwrap();
    assert_eq!(world.store.verify(sha256).await.unwrap(), Verdict::Intact(stored.clone()));

    std::fs::remove_file(&stored.path).unwrap();
    std::fs::write(&stored.path, b"else").unwrap();
    let verdict = world.store.verify(sha256).await.unwrap();
    assert_eq!(verdict, Verdict::Corrupt { found: digest(b"else") });
    assert_eq!(world.fetch(&wanted).await.unwrap(), stored);
    assert_eq!(server.requests().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_download_cut_anywhere_goes_on_where_it_ended(
        size in 1usize..2_500_000,
        cuts in proptest::collection::vec(0usize..1000, 0..6),
        etag: bool,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(cut_and_resume(bytes(size), cuts, etag));
    }
}

/// Each answer but the last sends so many thousandths of what was asked for.
async fn cut_and_resume(body: Vec<u8>, cuts: Vec<usize>, etag: bool) {
    let world = World::with(|options| options.retry.attempts_max = 20);
    let (file, cuts_left) = (body.clone(), cuts.clone());
    let expected = Arc::new(Mutex::new(vec![0]));
    let sent = Arc::clone(&expected);
    let server = Server::start(move |request| {
        let reply = Reply::good(request, &file, if etag { ETAG } else { "W/\"weak\"" });
        let Some(share) = cuts_left.get(request.number) else { return reply };
        let from = request.range_from.unwrap_or(0);
        let count = (file.len() - from) * share / 1000;
        sent.lock().unwrap().push(from + count);
        reply.cut(count)
    })
    .await;
    let stored = world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
    assert!(std::fs::read(stored.path).unwrap() == body);
    let requests = server.requests();
    let asked: Vec<usize> = requests.iter().map(|r| r.range_from.unwrap_or(0)).collect();
    assert_eq!(asked, *expected.lock().unwrap(), "no byte is asked for twice");
    for request in requests.iter().filter(|request| request.range_from.is_some()) {
        assert_eq!(request.if_range.as_deref(), etag.then_some(ETAG));
    }
}

#[tokio::test]
async fn a_dropped_fetch_leaves_its_bytes_for_the_next() {
    let (world, body) = (World::new(), bytes(4 << 20));
    let file = body.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::good(request, &file, ETAG).cut(3 << 20).hang(),
        _ => Reply::good(request, &file, ETAG),
    })
    .await;
    let wanted = artifact(&body, [server.url("/a")]);
    let (far, mut is_far) = tokio::sync::watch::channel(0);
    {
        let progress = |p: realm_store::Progress| {
            far.send_replace(p.bytes_done);
        };
        let fetch = world.store.fetch(&wanted, &NOBODY, &progress);
        tokio::select! {
            _ = fetch => panic!("the server never ends its answer"),
            _ = is_far.wait_for(|done| *done == 3 << 20) => {}
        }
    }
    assert!(world.blobs().is_empty());
    world.fetch(&wanted).await.unwrap();
    let [_, second] = &server.requests()[..] else { panic!("two requests") };
    assert!(second.range_from.is_some_and(|from| from > (1 << 20)), "{second:?}");
    assert_eq!(second.if_range.as_deref(), Some(ETAG));
}

#[tokio::test]
async fn bytes_of_a_dead_mirror_are_finished_by_the_next() {
    let (world, body) = (World::new(), bytes(500_000));
    let file = body.clone();
    let dying = Server::start(move |request| match request.number {
        0 => Reply::good(request, &file, ETAG).cut(200_000),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await;
    let file = body.clone();
    let other = Server::start(move |request| Reply::good(request, &file, "\"other\"")).await;
    world.fetch(&artifact(&body, [dying.url("/a"), other.url("/a")])).await.unwrap();
    let [request] = &other.requests()[..] else { panic!("one request") };
    assert_eq!(request.range_from, Some(200_000));
    assert_eq!(request.if_range, None, "the tag was another server's");
}

async fn tls_server(body: Vec<u8>) -> (Server, String) {
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let answer = move |request: &Request| match request.path.as_str() {
        "/down" => Reply::new("302 Found", &[("location", "http://127.0.0.1:9/")], b""),
        _ => Reply::good(request, &body, ETAG),
    };
    (Server::start_with(Some(acceptor), answer).await, ca_certificate.pem())
}

#[tokio::test]
async fn https_is_trusted_by_authority_and_never_led_down_to_http() {
    let body = bytes(100_000);
    let (server, pem) = tls_server(body.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, pem).unwrap();

    let stranger = World::new();
    let error = stranger.fetch(&artifact(&body, [server.url("/a")])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceUntrusted", "{error}");

    let world = World::with(|options| options.ca_file = Some(ca_file));
    let error = world.fetch(&artifact(&body, [server.url("/down")])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceRedirected", "{error}");
    world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
}

#[tokio::test]
async fn a_source_that_may_not_be_used_is_refused_without_a_request() {
    let body = bytes(10);
    let world = World::with(|options| options.site = Site::Cluster);
    let sources = ["pip://a==1/b", "http://10.0.0.1/a", "ftp://a/b", "https://u:p@a.example/"];
    let error = world.fetch(&artifact(&body, sources.map(str::to_owned))).await.unwrap_err();
    let expected = ["SourceNotAllowed", "SourceNotAllowed", "SourceInvalid", "SourceInvalid"];
    assert_eq!(reasons(&error)[1..], expected);
    assert!(!error.to_string().contains("u:p"), "{error}");

    let server = Server::start(move |_| Reply::whole(&bytes(10))).await;
    let unsafe_artifact = unnamed([server.url("/a")]);
    let error = World::new().fetch(&unsafe_artifact).await.unwrap_err();
    assert_eq!(error.reason(), "DigestRequired");
    assert!(server.requests().is_empty());

    let none = artifact(&body, []);
    assert_eq!(world.fetch(&none).await.unwrap_err().reason(), "SourceInvalid");
}

#[tokio::test]
async fn a_node_that_is_shared_asks_no_server_of_its_own_machine_or_link() {
    let body = bytes(10);
    let file = body.clone();
    let server = Server::start(move |_| Reply::whole(&file)).await;
    let world = World::with(|options| options.site = Site::Cluster);
    let sources = [
        server.url("/a"),
        "https://169.254.169.254/a".to_owned(),
        "https://localhost./a".to_owned(),
        format!("oci://{}/m", server.address),
        format!("s3://bucket/a?endpoint={}", server.url("")),
    ];
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    assert_eq!(reasons(&error)[1..], ["SourceNotAllowed"; 5], "{error}");
    assert!(server.requests().is_empty());
    World::new().fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let (world, body) = (World::new(), bytes(1000));
    let file = body.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::new("503 Busy", &[("retry-after", "3600")], b""),
        1 => Reply::new("429 Slow", &[], b""),
        _ => Reply::whole(&file),
    })
    .await;
    let started = std::time::Instant::now();
    world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
    assert!(started.elapsed() < Duration::from_mins(1), "its wish is heard within our bound");
}
