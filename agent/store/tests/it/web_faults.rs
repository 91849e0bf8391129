//! Servers that fail, each in its own way.

use std::time::Duration;

use realm_store::Pace;

use crate::{
    server::{End, Reply, Server},
    world::{NOBODY, World, artifact, bytes, reasons},
};

/// Nobody listens on the first port: it is of a protocol that no machine speaks any more, and the
/// system gives it to nobody who asks for any.
const DEAD: &str = "http://127.0.0.1:1/a";

#[tokio::test]
async fn a_dead_server_is_unreachable_and_the_next_mirror_serves() {
    let (world, body) = (World::new(), bytes(1000));
    let dead = DEAD.to_owned();
    let error = world.fetch(&artifact(&body, [dead.clone()])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceUnreachable");
    assert!(error.to_string().contains("refused"), "{error}");

    let file = body.clone();
    let server = Server::start(move |_| Reply::whole(&file)).await;
    world.fetch(&artifact(&body, [dead, server.url("/a")])).await.unwrap();
}

#[tokio::test]
async fn a_server_that_goes_silent_has_stalled() {
    let body = bytes(100_000);
    let world = World::with(|options| {
        options.stall_timeout = Duration::from_millis(100);
        options.connect_timeout = Duration::from_millis(100);
    });
    let file = body.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/head" => Reply { wire: Vec::new(), end: End::Silence },
        _ => Reply::good(request, &file, "\"a\"").cut(10).hang(),
    })
    .await;
    let sources = [server.url("/body"), server.url("/head")];
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceStalled"; 3]);
    assert!(error.to_string().contains("100 ms after 30 bytes"), "{error}");
    assert_eq!(server.requests().len(), 6, "each mirror is asked three times");
}

#[tokio::test]
async fn a_server_that_drips_has_stalled_though_it_is_never_silent() {
    let body = bytes(100_000);
    let world = World::with(|options| {
        options.pace_min = Pace { bytes: 1000, within: Duration::from_millis(200) };
    });
    let file = body.clone();
    let server =
        Server::start(move |request| Reply::good(request, &file, "\"a\"").cut(10).drip()).await;
    let error = world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceStalled"; 2]);
    assert!(error.to_string().contains("for 200 ms"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn wrong_bytes_are_discarded_and_the_next_mirror_serves() {
    let (world, body) = (World::new(), bytes(5_000));
    let wrong = Server::start(|_| Reply::whole(&[7; 6_000])).await;
    let error = world.fetch(&artifact(&body, [wrong.url("/a")])).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(error.to_string().contains(&crate::world::digest(&[7; 6_000]).to_string()));
    assert!(world.blobs().is_empty());
    assert_eq!(wrong.requests().len(), 1, "whole wrong bytes are not asked for again");

    let file = body.clone();
    let good = Server::start(move |request| Reply::good(request, &file, "\"a\"")).await;
    world.fetch(&artifact(&body, [wrong.url("/a"), good.url("/a")])).await.unwrap();
    assert_eq!(good.requests()[0].range_from, None);
}

#[tokio::test]
async fn redirects_are_followed_but_not_in_circles_or_off_this_machine() {
    let (world, body) = (World::new(), bytes(1000));
    let file = body.clone();
    let server = Server::start(move |request| {
        let location = match request.path.as_str() {
            "/moved" => "/a",
            "/circle" => "/circle",
            "/away" => "http://10.0.0.1/",
            _ => return Reply::whole(&file),
        };
        Reply::new("302 Found", &[("location", location)], b"")
    })
    .await;
    let sources = [server.url("/circle"), server.url("/away")];
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceRedirected"; 3], "{error}");
    assert_eq!(server.requests().len(), 7, "five redirects, then the one away");
    world.fetch(&artifact(&body, [server.url("/moved")])).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ignores_the_range_is_read_from_the_start() {
    let (world, body) = (World::new(), bytes(100_000));
    let file = body.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::whole(&file).cut(40_000),
        _ => Reply::whole(&file),
    })
    .await;
    let stored = world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
    assert_eq!(std::fs::read(stored.path).unwrap(), body);
    assert_eq!(server.requests()[1].range_from, Some(40_000));
}

#[tokio::test]
async fn a_server_whose_parts_never_fit_is_read_from_the_start() {
    let (world, body) = (World::new(), bytes(100_000));
    let file = body.clone();
    let server = Server::start(move |request| match request.range_from {
        Some(_) => {
            let length = file.len().to_string();
            let range = format!("bytes 0-{}/{length}", file.len() - 1);
            let headers = [("content-range", &*range), ("content-length", &length)];
            Reply::new("206 Partial Content", &headers, &file)
        }
        None if request.number == 0 => Reply::whole(&file).cut(40_000),
        None => Reply::whole(&file),
    })
    .await;
    world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_file_replaced_in_the_middle_is_read_from_the_start() {
    let (old, new) = (vec![1; 100_000], bytes(120_000));
    for honest in [true, false] {
        let world = World::new();
        let (before, after) = (old.clone(), new.clone());
        let server = Server::start(move |request| match request.number {
            0 => Reply::good(request, &before, "\"old\"").cut(40_000),
            _ if honest => Reply::good(request, &after, "\"new\""),
            // Takes If-Range for nothing, yet cannot hide the new tag.
            _ => {
                let request = crate::server::Request { if_range: None, ..request.clone() };
                Reply::good(&request, &after, "\"new\"")
            }
        })
        .await;
        world.fetch(&artifact(&new, [server.url("/a")])).await.unwrap();
        let requests = server.requests();
        assert_eq!(requests[1].if_range.as_deref(), Some("\"old\""));
        assert_eq!(requests.len(), if honest { 2 } else { 3 });
    }
}

#[tokio::test]
async fn parts_of_two_versions_that_cannot_be_told_apart_are_fetched_anew() {
    let (world, new) = (World::new(), bytes(100_000));
    let (old, file) = (vec![1; 100_000], new.clone());
    let server = Server::start(move |request| match request.number {
        0 => Reply::good(request, &old, "W/\"w\"").cut(40_000),
        _ => Reply::good(request, &file, "W/\"w\""),
    })
    .await;
    world.fetch(&artifact(&new, [server.url("/a")])).await.unwrap();
    let asked: Vec<_> = server.requests().iter().map(|r| r.range_from).collect();
    assert_eq!(asked, [None, Some(40_000), None]);
}

#[tokio::test]
async fn a_file_larger_than_the_limit_is_refused_whether_announced_or_not() {
    let body = bytes(3_000_000);
    let world = World::with(|options| options.bytes_max = 1_000_000);
    let file = body.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/announced" => Reply::whole(&file),
        _ => Reply::new("200 OK", &[], &file),
    })
    .await;
    let sources = [server.url("/announced"), server.url("/endless")];
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceTooLarge"; 3], "{error}");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn one_fetch_may_have_a_lower_limit_than_its_store() {
    let (world, body) = (World::new(), bytes(3_000_000));
    let file = body.clone();
    let server = Server::start(move |_| Reply::whole(&file)).await;
    let wanted = artifact(&body, [server.url("/a")]);
    let error = world.store.fetch_at_most(1_000_000, &wanted, &NOBODY, &|_| ()).await.unwrap_err();
    assert_eq!(reasons(&error), ["SourceTooLarge"; 2], "{error}");
    assert_eq!(world.unfinished(), Vec::<String>::new(), "nothing of it was brought here");
    world.store.fetch_at_most(3_000_000, &wanted, &NOBODY, &|_| ()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_or_not_given_is_not_asked_for_again() {
    let (world, body) = (World::new(), bytes(1000));
    let server = Server::start(|request| match request.path.as_str() {
        "/gone" => Reply::new("404 Not Found", &[], b""),
        "/shut" => Reply::new("403 Forbidden", &[], b""),
        "/odd" => Reply::new("206 Partial Content", &[], b"x"),
        _ => Reply::new("200 OK", &[("content-encoding", "gzip")], b"x"),
    })
    .await;
    let sources = ["/gone", "/shut", "/odd", "/zip"].map(|path| server.url(path));
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    let expected = ["SourceNotFound", "SourceUnauthorized", "SourceMalformed", "SourceMalformed"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
    // The odd one is asked once more, for all of the file in so many words.
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_given_up() {
    let (world, body) = (World::new(), bytes(1000));
    let wire = b"SSH-2.0-nothing\r\n\r\n";
    let server = Server::start(|_| Reply { wire: wire.to_vec(), end: End::Close }).await;
    let error = world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap_err();
    assert_eq!(error.reason(), "SourceInterrupted", "{error}");
    assert_eq!(server.requests().len(), 3);
}
