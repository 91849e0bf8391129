//! Disks that are full or may not be written.

use std::{
    fs::{self, FileTimes},
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use realm_store::{FetchError, SourceError, Store, StoreError};

use crate::{
    server::{Reply, Server},
    world::{NOBODY, World, artifact, bytes, digest, options, reasons},
};

/// A small file system of its own, where this process may make one.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path, options: &str) -> Option<Self> {
        let args = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let mounted = Command::new("mount").args(args).arg(path).output().ok()?.status.success();
        if !mounted {
            println!("skipped: this process may not mount a file system");
        }
        mounted.then_some(Self(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_file_that_cannot_fit_is_refused_before_a_byte_is_written() {
    let world = World::with(|options| options.bytes_max = u64::MAX);
    let huge = (1u64 << 60).to_string();
    let server =
        Server::start(move |_| Reply::new("200 OK", &[("content-length", &huge)], &[7; 9])).await;
    let error = world.fetch(&artifact(b"x", [server.url("/a")])).await.unwrap_err();
    assert_eq!(error.reason(), "DiskFull");
    let FetchError::EverySource(attempts) = &error else { panic!("{error}") };
    let SourceError::Store(StoreError::DiskFull { needed, free, .. }) = &attempts[0].error else {
        panic!("{error}")
    };
    assert_eq!(*needed, Some(1 << 60));
    assert!(*free > 0 && *free < 1 << 60);
    assert!(world.unfinished().is_empty());
}

#[tokio::test]
async fn a_disk_that_fills_up_ends_the_fetch_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new(folder.path(), "size=2m") else { return };
    let store = Store::open(folder.path(), options(|_| ())).unwrap();
    let (large, small) = (bytes(5_000_000), bytes(5_000));
    let files = (large.clone(), small.clone());
    let server = Server::start(move |request| match request.path.as_str() {
        // Without a length, only the writing shows that it does not fit.
        "/large" => Reply::new("200 OK", &[], &files.0),
        _ => Reply::whole(&files.1),
    })
    .await;
    let wanted = artifact(&large, [server.url("/large")]);
    let error = store.fetch(&wanted, &NOBODY, &|_| ()).await.unwrap_err();
    assert_eq!(reasons(&error), ["DiskFull"; 2], "{error}");
    assert_eq!(server.requests().len(), 1, "a full disk is not the server's fault");

    // The bytes were given back, so what does fit still comes.
    let wanted = artifact(&small, [server.url("/small")]);
    store.fetch(&wanted, &NOBODY, &|_| ()).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_may_not_be_written_serves_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(folder.path(), "size=2m") else { return };
    let (here, elsewhere) = (bytes(1000), bytes(2000));
    let files = (here.clone(), elsewhere.clone());
    let server = Server::start(move |request| match request.path.as_str() {
        "/here" => Reply::whole(&files.0),
        _ => Reply::whole(&files.1),
    })
    .await;
    let wanted = artifact(&here, [server.url("/here")]);
    let store = Store::open(folder.path(), options(|_| ())).unwrap();
    store.fetch(&wanted, &NOBODY, &|_| ()).await.unwrap();
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0).status();
    assert!(remount.unwrap().success());

    let store = Store::open(folder.path(), options(|_| ())).unwrap();
    store.fetch(&wanted, &NOBODY, &|_| ()).await.unwrap();
    let missing = artifact(&elsewhere, [server.url("/elsewhere")]);
    let error = store.fetch(&missing, &NOBODY, &|_| ()).await.unwrap_err();
    assert_eq!(error.reason(), "StoreNotWritable", "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_folder_that_is_a_file_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("partial"), b"").unwrap();
    let Err(error) = Store::open(folder.path(), options(|_| ())) else { panic!("opened") };
    assert_eq!(error.reason(), "StoreFailed");
}

#[tokio::test]
async fn a_link_in_place_of_an_unfinished_file_is_not_followed() {
    let (world, body) = (World::new(), bytes(1000));
    let file = body.clone();
    let server = Server::start(move |_| Reply::whole(&file)).await;
    let target = world.dir.path().join("target");
    let link = world.dir.path().join("partial").join(digest(&body).to_string());
    std::os::unix::fs::symlink(&target, link).unwrap();
    let error = world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFailed", "{error}");
    assert!(!target.exists());
}

#[tokio::test]
async fn opening_clears_away_what_was_abandoned_and_nothing_else() {
    let world = World::new();
    let partials = world.dir.path().join("partial");
    let [old, young, busy, orphan] =
        [b"old", b"yng", b"bus", b"orp"].map(|b| digest(b).to_string());
    let long_ago = SystemTime::now() - Duration::from_hours(8 * 24);
    let mut files = Vec::new();
    for name in [&old, &young, &busy] {
        let file = fs::File::create(partials.join(name)).unwrap();
        if name != &young {
            file.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
        }
        files.push(file);
    }
    fs::write(partials.join(format!("{old}.state")), "").unwrap();
    fs::create_dir_all(partials.join(format!("{orphan}.pip/tmp"))).unwrap();
    fs::write(partials.join("notes.txt"), "").unwrap();
    files[2].lock().unwrap();

    Store::open(world.dir.path(), options(|_| ())).unwrap();
    let mut left = vec![young, busy, "notes.txt".to_owned()];
    left.sort();
    assert_eq!(world.unfinished(), left);
}
