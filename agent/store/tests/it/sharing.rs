//! Several fetches of one file at once.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use realm_store::Store;

use crate::{
    server::{Reply, Server},
    world::{NOBODY, World, artifact, bytes, digest, options},
};

#[tokio::test]
async fn two_fetches_at_once_are_one_download() {
    let (world, body) = (World::new(), bytes(5_000_000));
    // Another store on the same folder has its own opened files, as another process has.
    let other = Store::open(world.dir.path(), options(|_| ())).unwrap();
    let file = body.clone();
    let server = Server::start(move |request| Reply::good(request, &file, "\"a\"")).await;
    let wanted = artifact(&body, [server.url("/a")]);
    let fetches = [world.store.clone(), world.store.clone(), other].map(|store| {
        let wanted = wanted.clone();
        tokio::spawn(async move { store.fetch(&wanted, &NOBODY, &|_| ()).await })
    });
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap().unwrap().sha256, digest(&body));
    }
    assert_eq!(server.requests().len(), 1);
    assert!(world.unfinished().is_empty(), "{:?}", world.unfinished());
}

#[tokio::test]
async fn a_fetch_that_waits_takes_over_when_the_first_is_dropped() {
    let (world, body) = (World::new(), bytes(3 << 20));
    let file = body.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::good(request, &file, "\"a\"").cut(2 << 20).hang(),
        _ => Reply::good(request, &file, "\"a\""),
    })
    .await;
    let wanted = artifact(&body, [server.url("/a")]);
    let held = tokio::sync::Notify::new();
    let seen_by_second = AtomicUsize::new(0);
    let first = async {
        tokio::select! {
            _ = world.store.fetch(&wanted, &NOBODY, &|_| ()) => panic!("the server never ends its answer"),
            () = held.notified() => {}
        }
    };
    let second = async {
        // The first has bytes on the disk and the lock once the second is told of them.
        let progress = |progress: realm_store::Progress| {
            if progress.bytes_done >= 1 << 20 {
                seen_by_second.fetch_add(1, Ordering::Relaxed);
                held.notify_one();
            }
        };
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        world.store.fetch(&wanted, &NOBODY, &progress).await
    };
    let ((), stored) = tokio::join!(first, second);
    assert_eq!(stored.unwrap().sha256, digest(&body));
    assert!(seen_by_second.into_inner() > 0);
    let [_, request] = &server.requests()[..] else { panic!("two requests") };
    assert!(request.range_from.is_some_and(|from| from >= 1 << 20), "{request:?}");
}

#[tokio::test]
async fn another_process_that_fetches_is_waited_for() {
    const HOLDER: &str = "
import fcntl, sys
file = open(sys.argv[1], 'a+b')
fcntl.flock(file, fcntl.LOCK_EX)
file.write(b'12345'); file.flush()
print('held', flush=True)
sys.stdin.read()
";
    let (world, body) = (World::new(), bytes(1000));
    let path = world.dir.path().join("partial").join(digest(&body).to_string());
    let mut holder = Command::new("python3")
        .args(["-c", HOLDER])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");

    let file = body.clone();
    let server = Server::start(move |request| Reply::good(request, &file, "\"a\"")).await;
    let wanted = artifact(&body, [server.url("/a")]);
    let waits = tokio::sync::Notify::new();
    let progress = |progress: realm_store::Progress| {
        if progress.bytes_done == 5 {
            waits.notify_one();
        }
    };
    let let_go = async {
        waits.notified().await;
        assert!(server.requests().is_empty(), "only one may write");
        drop(holder.stdin.take());
    };
    let (stored, ()) = tokio::join!(world.store.fetch(&wanted, &NOBODY, &progress), let_go);
    assert_eq!(stored.unwrap().bytes, 1000);
    // Its five bytes were wrong, which was found out by the digest.
    let asked: Vec<_> = server.requests().iter().map(|r| r.range_from).collect();
    assert_eq!(asked, [Some(5), None]);
    holder.wait().unwrap();
}
