//! Files in several parts, from every kind of source that can name them.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use realm_core::{desired::Artifact, split};
use realm_store::{Progress, Site, Stored};

use crate::{
    oci,
    server::{Reply, Server},
    world::{NOBODY, World, bytes, digest, reasons, unnamed},
};

const ETAG: &str = "\"one\"";
const SIZES: [usize; 3] = [2_000_000, 300, 1_100_000];

/// The bytes of each part, no two of which are alike.
fn bodies() -> Vec<Vec<u8>> {
    let all = bytes(SIZES.iter().sum());
    let mut at = 0;
    SIZES
        .map(|size| {
            at += size;
            all[at - size..at].to_vec()
        })
        .into()
}

fn name(number: usize) -> String {
    format!("m-{number:05}-of-00003.gguf")
}

/// The artifact of those parts.
fn wanted(sources: impl IntoIterator<Item = String>, bodies: &[Vec<u8>]) -> Artifact {
    Artifact { parts: bodies.iter().map(|body| digest(body)).collect(), ..unnamed(sources) }
}

/// A server that has the parts below `/`.
async fn server(bodies: &[Vec<u8>]) -> Server {
    let bodies = bodies.to_vec();
    Server::start(move |request| {
        let path = request.path.split('?').next().unwrap();
        let at = (1..=bodies.len()).find(|&n| path.ends_with(&name(n)));
        at.map_or_else(
            || Reply::new("404 Not Found", &[], b""),
            |at| Reply::good(request, &bodies[at - 1], ETAG),
        )
    })
    .await
}

#[track_caller]
fn check(stored: &Stored, bodies: &[Vec<u8>]) {
    let found: Vec<_> = stored.paths().iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(found == bodies, "the parts, in their order");
    let digests: Vec<_> = bodies.iter().map(|body| digest(body)).collect();
    assert_eq!(stored.sha256, split::digest(&digests));
    assert_eq!(stored.bytes, SIZES.iter().sum::<usize>() as u64);
}

#[tokio::test]
async fn the_first_part_of_a_web_server_brings_the_others_once() {
    let (world, bodies) = (World::new(), bodies());
    let server = server(&bodies).await;
    let wanted = wanted([server.url(&format!("/a/{}?key=secret", name(1)))], &bodies);
    assert_eq!(world.store.find(&wanted).await.unwrap(), None);
    let stored = world.fetch(&wanted).await.unwrap();
    check(&stored, &bodies);
    assert_eq!(world.blobs().len(), 3);
    assert!(world.unfinished().is_empty());
    assert!(server.requests().iter().all(|request| request.path.ends_with("?key=secret")));

    let asked = server.requests().len();
    assert_eq!(world.fetch(&wanted).await.unwrap(), stored);
    assert_eq!(world.store.find(&wanted).await.unwrap(), Some(stored));
    assert_eq!(server.requests().len(), asked);
}

#[tokio::test]
async fn progress_is_of_all_parts_and_never_goes_back() {
    let (world, bodies) = (World::new(), bodies());
    let server = server(&bodies).await;
    let told = Mutex::new(Vec::<Progress>::new());
    let wanted = wanted([server.url(&format!("/{}", name(1)))], &bodies);
    world.store.fetch(&wanted, &NOBODY, &|p| told.lock().unwrap().push(p)).await.unwrap();
    let told = told.into_inner().unwrap();
    let total = SIZES.iter().sum::<usize>() as u64;
    assert!(told.len() > 3 && told.is_sorted_by_key(|progress| progress.bytes_done), "{told:?}");
    let known = told.iter().filter(|progress| progress.bytes_done > 0);
    assert!(known.clone().all(|progress| progress.bytes_total == Some(total)), "{told:?}");
}

#[tokio::test]
async fn files_in_place_are_found_beside_the_first_with_and_without_digests() {
    let bodies = bodies();
    let claims = tempfile::tempdir().unwrap();
    let folder = claims.path().join("tests/models");
    fs::create_dir_all(&folder).unwrap();
    for (body, number) in bodies.iter().zip(1..) {
        fs::write(folder.join(name(number)), body).unwrap();
    }
    let cluster = World::with(|options| {
        options.site = Site::Cluster;
        options.pvc_dir = Some(claims.path().to_owned());
    });
    let file = format!("file://{}/{}", folder.display(), name(1));
    let claim = format!("pvc://models/{}", name(1));
    for (world, source) in [(World::new(), file), (cluster, claim)] {
        for artifact in [unnamed([source.clone()]), wanted([source.clone()], &bodies)] {
            let stored = world.fetch(&artifact).await.unwrap();
            check(&stored, &bodies);
            assert!(!stored.has_changed().unwrap());
        }
        assert!(world.blobs().is_empty(), "nothing was copied");
        let other = wanted([source], &[bodies[0].clone(), bodies[2].clone(), bodies[1].clone()]);
        let error = world.fetch(&other).await.unwrap_err();
        assert_eq!(error.reason(), "DigestMismatch");
        assert!(error.to_string().contains(&name(2)), "{error}");
    }
    let stored =
        World::new().fetch(&unnamed([format!("file://{}/{}", folder.display(), name(1))])).await;
    let stored = stored.unwrap();
    fs::write(folder.join(name(3)), b"else").unwrap();
    assert!(stored.has_changed().unwrap(), "the last part counts");
}

#[tokio::test]
async fn layers_of_a_registry_are_found_by_their_titles_or_their_digests() {
    let bodies = bodies();
    let files: Vec<_> = (1..).zip(&bodies).map(|(number, body)| (name(number), body)).collect();
    let named: Vec<_> = files.iter().map(|(name, body)| (name.as_str(), body.as_slice())).collect();
    let registry = oci::registry_of(&named).await;
    for rest in ["org/m:v1".to_owned(), format!("org/m:v1#{}", name(1))] {
        let source = format!("oci://{}/{rest}", registry.address);
        let world = World::new();
        let stored = world.fetch(&wanted([source], &bodies)).await.unwrap();
        check(&stored, &bodies);
    }
}

#[tokio::test]
async fn a_part_that_is_missing_is_named_and_what_came_before_it_stays() {
    let (world, bodies) = (World::new(), bodies());
    let server = server(&bodies[..2]).await;
    let wanted = wanted([server.url(&format!("/{}", name(1)))], &bodies);
    let error = world.fetch(&wanted).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceNotFound", "SourceNotFound"]);
    assert!(error.to_string().contains(&name(3)), "{error}");
    assert_eq!(world.blobs().len(), 2);
}

#[tokio::test]
async fn a_mirror_that_is_gone_is_not_waited_for_with_every_part() {
    let (world, bodies) = (World::new(), bodies());
    let gone = Server::start(|_| Reply::new("503 Service Unavailable", &[], b"")).await;
    let server = server(&bodies).await;
    let place = format!("/{}", name(1));
    let wanted = wanted([gone.url(&place), server.url(&place)], &bodies);
    check(&world.fetch(&wanted).await.unwrap(), &bodies);
    // Its whole patience once, when it is asked how large the first part is.
    assert_eq!(gone.requests().len(), 3);
}

#[tokio::test]
async fn parts_that_are_too_large_together_are_refused_before_any_of_them_comes() {
    let bodies = bodies();
    let server = server(&bodies).await;
    let total = SIZES.iter().sum::<usize>() as u64;
    let wanted = wanted([server.url(&format!("/{}", name(1)))], &bodies);
    let world = World::with(|options| options.bytes_max = total - 1);
    let error = world.fetch(&wanted).await.unwrap_err();
    assert_eq!(reasons(&error)[0], "SourceTooLarge");
    assert!(server.requests().iter().all(|request| request.range_to == Some(0)));
    World::with(|options| options.bytes_max = total).fetch(&wanted).await.unwrap();
}

#[tokio::test]
async fn what_is_not_all_parts_of_one_file_asks_nobody() {
    let bodies = bodies();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let server = Server::start(move |_| {
        *count.lock().unwrap() += 1;
        Reply::whole(b"x")
    })
    .await;
    let first = server.url(&format!("/{}", name(1)));
    let second = server.url(&format!("/{}", name(2)));
    for (source, parts) in
        [(first, &bodies[..2]), (second, &bodies[..]), (server.url("/a"), &bodies[..])]
    {
        let error = World::new().fetch(&wanted([source], parts)).await.unwrap_err();
        assert_eq!(error.reason(), "SourceInvalid", "{error}");
    }
    let unverified = unnamed([server.url(&format!("/{}", name(1)))]);
    let error = World::new().fetch(&unverified).await.unwrap_err();
    assert_eq!(error.reason(), "DigestRequired");
    assert_eq!(*asked.lock().unwrap(), 0);
}
