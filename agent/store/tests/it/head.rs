//! The first bytes of files, from everywhere that files come from.

use std::{fs, time::Duration};

use realm_core::desired::Sha256;
use realm_store::{Attempt, Head, Site};

use crate::{
    server::{Reply, Server},
    world::{NOBODY, World, bytes},
};

const FILE_BYTES: usize = 100_000;

async fn head(world: &World, source: &str, bytes: usize) -> Result<Head, Attempt> {
    let sha256 = Some(Sha256([7; 32]));
    let asked = world.store.head((source, sha256), &NOBODY, bytes);
    tokio::time::timeout(Duration::from_mins(1), asked).await.expect("it hangs")
}

#[tokio::test]
async fn no_more_is_asked_of_a_server_than_is_wanted_and_nothing_is_kept() {
    let (world, body) = (World::new(), bytes(FILE_BYTES));
    let file = body.clone();
    let server = Server::start(move |request| Reply::good(request, &file, "\"a\"")).await;
    let first = head(&world, &server.url("/a"), 1000).await.unwrap();
    assert_eq!((&first.bytes[..], first.bytes_total), (&body[..1000], Some(FILE_BYTES as u64)));
    let all = head(&world, &server.url("/a"), 2 * FILE_BYTES).await.unwrap();
    assert_eq!((&all.bytes, all.bytes_total), (&body, Some(FILE_BYTES as u64)));
    let asked: Vec<_> =
        server.requests().iter().map(|request| (request.range_from, request.range_to)).collect();
    assert_eq!(asked, [(Some(0), Some(999)), (Some(0), Some(2 * FILE_BYTES - 1))]);
    assert!(world.blobs().is_empty() && world.unfinished().is_empty());
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_is_left_when_enough_has_come() {
    let (world, body) = (World::new(), bytes(FILE_BYTES));
    let file = body.clone();
    // What is behind the first bytes never comes, so that whoever waits for it fails.
    let server = Server::start(move |_| Reply::whole(&file).cut(1000).hang()).await;
    let first = head(&world, &server.url("/a"), 1000).await.unwrap();
    assert_eq!((&first.bytes[..], first.bytes_total), (&body[..1000], Some(FILE_BYTES as u64)));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_say_how_much_there_is_says_so_by_its_end() {
    let (world, body) = (World::new(), bytes(FILE_BYTES));
    let file = body.clone();
    let server = Server::start(move |_| Reply::new("200 OK", &[], &file)).await;
    let first = head(&world, &server.url("/a"), 1000).await.unwrap();
    assert_eq!((first.bytes.len(), first.bytes_total), (1000, None));
    let all = head(&world, &server.url("/a"), 2 * FILE_BYTES).await.unwrap();
    assert_eq!((all.bytes.len(), all.bytes_total), (FILE_BYTES, Some(FILE_BYTES as u64)));
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let (world, body) = (World::new(), bytes(FILE_BYTES));
    let file = body.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/gone" => Reply::new("404 Not Found", &[], b""),
        "/odd" => {
            let range = format!("bytes 10-20/{FILE_BYTES}");
            Reply::new("206 Partial Content", &[("content-range", &range)], &file[10..=20])
        }
        _ if request.number == 0 => Reply::good(request, &file, "\"a\"").cut(10),
        _ => Reply::good(request, &file, "\"a\""),
    })
    .await;
    assert_eq!(head(&world, &server.url("/cut"), 1000).await.unwrap().bytes, body[..1000]);
    for (path, reason) in [("/gone", "SourceNotFound"), ("/odd", "SourceMalformed")] {
        let attempt = head(&world, &server.url(path), 1000).await.unwrap_err();
        assert_eq!(attempt.error.reason(), reason, "{}", attempt.error);
    }
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_file_larger_than_the_limit_is_refused_by_its_head() {
    let world = World::with(|options| options.bytes_max = 1000);
    let server =
        Server::start(move |request| Reply::good(request, &bytes(FILE_BYTES), "\"a\"")).await;
    let attempt = head(&world, &server.url("/a"), 10).await.unwrap_err();
    assert_eq!(attempt.error.reason(), "SourceTooLarge");
}

#[tokio::test]
async fn files_in_place_are_read_no_further_either() {
    let claims = tempfile::tempdir().unwrap();
    let world = World::with(|options| {
        options.site = Site::Cluster;
        options.pvc_dir = Some(claims.path().to_owned());
    });
    let folder = claims.path().join("tests/models");
    fs::create_dir_all(&folder).unwrap();
    // A file with a hole that no disk holds.
    let file = fs::File::create(folder.join("a")).unwrap();
    fs::write(folder.join("a"), b"GGUF").unwrap();
    file.set_len(1 << 40).unwrap();
    for source in [format!("file://{}/a", folder.display()), "pvc://models/a".to_owned()] {
        let first = head(&world, &source, 1000).await.unwrap();
        assert_eq!((&first.bytes[..5], first.bytes.len()), (&b"GGUF\0"[..], 1000));
        assert_eq!(first.bytes_total, Some(1 << 40));
    }
    let attempt = head(&world, "pip://a==1/b", 10).await.unwrap_err();
    assert_eq!(attempt.error.reason(), "SourceNotAllowed");
}
