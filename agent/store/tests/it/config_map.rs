//! Entries of ConfigMaps, which somebody else reads.

use std::sync::{Arc, Mutex};

use realm_core::config_maps::{self, ConfigMapError, ConfigMapErrorKind, WantedEntry};
use realm_store::{FetchError, Owner, Site, Stored};

use crate::world::{NOBODY, World, artifact, bytes, digest, reasons, unnamed};

const SOURCE: &str = "configmap://programs/a.wasm";

fn world() -> World {
    World::with(|options| options.site = Site::Cluster)
}

/// Fetches `sources` for an owner whose asks are answered so, and gives what was asked.
async fn fetch(
    world: &World,
    (body, sources): (&[u8], &[&str]),
    answer: impl Fn() -> Result<Vec<u8>, ConfigMapError> + Send + 'static,
) -> (Result<Stored, FetchError>, Vec<WantedEntry>) {
    let (reader, mut asks) = config_maps::channel();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let answering = tokio::spawn(async move {
        while let Some(ask) = asks.recv().await {
            seen.lock().unwrap().push(ask.wanted);
            ask.answer.send(answer()).unwrap();
        }
    });
    let owner = Owner { config_maps: Some(reader), ..NOBODY.clone() };
    let wanted = artifact(body, sources.iter().map(|source| (*source).to_owned()));
    let fetched = world.store.fetch(&wanted, &owner, &|_| ()).await;
    drop(owner);
    answering.await.unwrap();
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    (fetched, asked)
}

fn error(kind: ConfigMapErrorKind) -> ConfigMapError {
    ConfigMapError { kind, message: "as it is".to_owned() }
}

#[tokio::test]
async fn an_entry_is_asked_for_by_its_digest_and_kept() {
    let (world, body) = (world(), bytes(1 << 20));
    let content = body.clone();
    let (fetched, asked) = fetch(&world, (&body, &[SOURCE]), move || Ok(content.clone())).await;
    let stored = fetched.unwrap();
    assert_eq!((stored.sha256, stored.bytes), (digest(&body), 1 << 20));
    let (namespace, source) = ("tests".to_owned(), SOURCE.to_owned());
    assert_eq!(asked, [WantedEntry { namespace, source, sha256: digest(&body) }]);
    let away = || Err(error(ConfigMapErrorKind::Unreachable));
    let (again, asked) = fetch(&world, (&body, &[SOURCE]), away).await;
    assert_eq!(again.unwrap(), stored);
    assert!(asked.is_empty(), "it is here");
    assert!(world.unfinished().is_empty());
}

#[tokio::test]
async fn the_mirror_behind_one_that_has_it_not_is_tried() {
    let (world, body) = (world(), bytes(10_000));
    let file = world.dir.path().join("a.wasm");
    std::fs::write(&file, &body).unwrap();
    let file = format!("file://{}", file.display());
    let absent = || Err(error(ConfigMapErrorKind::NotFound));
    let (fetched, asked) = fetch(&world, (&body, &[SOURCE, &file]), absent).await;
    assert_eq!((fetched.unwrap().sha256, asked.len()), (digest(&body), 1));
    let other = bytes(10_001);
    let content = other.clone();
    let missing = "file:///nowhere/a.wasm";
    let (fetched, _) =
        fetch(&world, (&other, &[missing, SOURCE]), move || Ok(content.clone())).await;
    assert_eq!(fetched.unwrap().sha256, digest(&other));
}

#[tokio::test]
async fn why_an_entry_was_not_brought_is_a_reason() {
    use ConfigMapErrorKind::{NotAllowed, NotFound, OtherDigest, TooLarge, Unreachable};
    for (kind, reason) in [
        (Unreachable, "SourceUnreachable"),
        (NotAllowed, "SourceNotAllowed"),
        (NotFound, "SourceNotFound"),
        (TooLarge, "SourceTooLarge"),
        (OtherDigest, "DigestMismatch"),
    ] {
        let (world, body) = (world(), bytes(10));
        let (fetched, _) = fetch(&world, (&body, &[SOURCE]), move || Err(error(kind))).await;
        let error = fetched.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert_eq!(error.to_string(), format!("{SOURCE}: as it is"));
        assert!(world.blobs().is_empty() && world.unfinished().is_empty());
    }
}

#[tokio::test]
async fn other_bytes_than_were_asked_for_are_kept_nowhere() {
    let (world, body) = (world(), bytes(10));
    let (fetched, _) = fetch(&world, (&body, &[SOURCE]), || Ok(b"else".to_vec())).await;
    assert_eq!(fetched.unwrap_err().reason(), "DigestMismatch");
    assert!(world.blobs().is_empty() && world.unfinished().is_empty());
    let small = World::with(|options| {
        options.site = Site::Cluster;
        options.bytes_max = 9;
    });
    let content = body.clone();
    let (fetched, _) = fetch(&small, (&body, &[SOURCE]), move || Ok(content.clone())).await;
    assert_eq!(fetched.unwrap_err().reason(), "SourceTooLarge");
}

#[tokio::test]
async fn who_may_ask_nobody_is_refused_and_so_is_who_gives_no_digest() {
    let body = bytes(10);
    let alone = World::new();
    for world in [world(), alone] {
        let error = world.fetch(&artifact(&body, [SOURCE.to_owned()])).await.unwrap_err();
        assert_eq!(reasons(&error), ["SourceNotAllowed"; 2], "{error}");
        assert!(world.unfinished().is_empty());
    }
    let (reader, _asks) = config_maps::channel();
    let owner = Owner { config_maps: Some(reader), ..NOBODY.clone() };
    let nameless = unnamed([SOURCE.to_owned()]);
    let error = world().store.fetch(&nameless, &owner, &|_| ()).await.unwrap_err();
    assert_eq!(error.reason(), "DigestRequired");
}
