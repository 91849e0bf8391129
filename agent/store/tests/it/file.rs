//! Files of this machine, used where they lie.

use std::process::Command;

use crate::world::{World, artifact, bytes, digest, reasons, unnamed};

#[tokio::test]
async fn a_file_is_verified_and_used_in_place() {
    let (world, body) = (World::new(), bytes(1_000_000));
    let path = world.dir.path().join("a file.gguf");
    std::fs::write(&path, &body).unwrap();
    let source = format!("file://{}", path.display());
    let stored = world.fetch(&artifact(&body, [source.clone()])).await.unwrap();
    assert_eq!((stored.path, stored.sha256), (path, digest(&body)));
    assert!(world.blobs().is_empty(), "it was not copied");

    let nameless = unnamed([source.clone()]);
    assert_eq!(world.fetch(&nameless).await.unwrap().sha256, digest(&body));

    let error = world.fetch(&artifact(b"else", [source])).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
}

#[tokio::test]
async fn what_is_not_a_file_is_refused_and_never_waited_for() {
    let (world, body) = (World::new(), bytes(10));
    let pipe = world.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let sources = ["pipe", "", "absent"];
    let sources = sources.map(|name| format!("file://{}/{name}", world.dir.path().display()));
    let error = world.fetch(&artifact(&body, sources)).await.unwrap_err();
    let expected = ["SourceUnreadable", "SourceUnreadable", "SourceNotFound"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
}
