//! Files of mounted claims, used where they lie.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use realm_store::{Owner, Site};
use tempfile::TempDir;

use crate::world::{World, artifact, bytes, digest, reasons, unnamed};

fn world(claims: &TempDir) -> World {
    World::with(|options| {
        options.site = Site::Cluster;
        options.pvc_dir = Some(claims.path().to_owned());
    })
}

#[tokio::test]
async fn a_file_of_a_claim_is_verified_and_used_in_place() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(100_000));
    let folder = claims.path().join("tests/models/blobs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a b.gguf"), &body).unwrap();
    symlink("blobs/a b.gguf", claims.path().join("tests/models/latest.gguf")).unwrap();
    let world = world(&claims);
    let real = fs::metadata(folder.join("a b.gguf")).unwrap().ino();
    for source in ["pvc://models/blobs/a b.gguf", "pvc://models/latest.gguf"] {
        let stored = world.fetch(&artifact(&body, [source.to_owned()])).await.unwrap();
        let path = fs::metadata(&stored.path).unwrap().ino();
        assert_eq!((path, stored.sha256), (real, digest(&body)));
        assert!(!stored.has_changed().unwrap());
    }
    assert!(world.blobs().is_empty(), "it was not copied");

    let source = "pvc://models/latest.gguf".to_owned();
    let nameless = unnamed([source.clone()]);
    assert_eq!(world.fetch(&nameless).await.unwrap().sha256, digest(&body));
    let error = world.fetch(&artifact(b"else", [source])).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
}

#[tokio::test]
async fn no_path_and_no_link_leads_out_of_a_claim() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    for claim in ["tests/mine", "tests/theirs"] {
        fs::create_dir_all(claims.path().join(claim)).unwrap();
    }
    let secret = claims.path().join("tests/theirs/secret");
    fs::write(&secret, &body).unwrap();
    let link =
        |to: &str, name: &str| symlink(to, claims.path().join("tests/mine").join(name)).unwrap();
    link("../theirs/secret", "relative");
    link(secret.to_str().unwrap(), "absolute");
    link("../theirs", "folder");
    link("relative", "twice");
    link("/proc/self/root", "magic");
    let rest = secret.to_str().unwrap();
    let magic = format!("magic{rest}");
    let sources = ["relative", "absolute", "folder/secret", "twice", &magic, "../theirs/secret"];
    let sources = sources.map(|path| format!("pvc://mine/{path}"));
    let error = world(&claims).fetch(&artifact(&body, sources)).await.unwrap_err();
    assert_eq!(reasons(&error)[1..6], ["SourceNotAllowed"; 5]);
    assert_eq!(reasons(&error)[6], "SourceInvalid");
}

#[tokio::test]
async fn what_is_not_there_says_whether_the_claim_or_the_file_is_missing() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    fs::create_dir_all(claims.path().join("tests/models/folder")).unwrap();
    let sources = ["absent/a", "models/absent", "models/folder"];
    let sources = sources.map(|path| format!("pvc://{path}"));
    let error = world(&claims).fetch(&artifact(&body, sources)).await.unwrap_err();
    let expected = ["ClaimNotMounted", "SourceNotFound", "SourceUnreadable"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
}

#[tokio::test]
async fn claims_are_for_a_cluster_that_mounts_them() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    let wanted = artifact(&body, ["pvc://models/a".to_owned()]);
    let alone = World::with(|options| options.pvc_dir = Some(claims.path().to_owned()));
    let unmounted = World::with(|options| options.site = Site::Cluster);
    for world in [alone, unmounted] {
        let error = world.fetch(&wanted).await.unwrap_err();
        assert_eq!(error.reason(), "SourceNotAllowed", "{error}");
    }
}

#[tokio::test]
async fn the_claims_of_another_namespace_are_not_there() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    for namespace in ["tests", "others"] {
        fs::create_dir_all(claims.path().join(namespace).join("models")).unwrap();
    }
    fs::write(claims.path().join("others/models/a"), &body).unwrap();
    fs::create_dir(claims.path().join("models")).unwrap();
    fs::write(claims.path().join("models/a"), &body).unwrap();
    symlink("../others/models", claims.path().join("tests/linked")).unwrap();
    let world = world(&claims);
    let sources = ["models/a", "others/a", "linked/a"].map(|path| format!("pvc://{path}"));
    let wanted = artifact(&body, sources);
    let error = world.fetch(&wanted).await.unwrap_err();
    let expected = ["SourceNotFound", "ClaimNotMounted", "SourceUnreadable"];
    assert_eq!(reasons(&error)[1..], expected, "{error}");
    for namespace in ["", ".", "..", "tests/../others", "others/models"] {
        let owner = Owner { namespace: namespace.to_owned(), ..Owner::default() };
        let error = world.store.fetch(&wanted, &owner, &|_| ()).await.unwrap_err();
        assert_eq!(error.reason(), "SourceNotAllowed", "{namespace:?}: {error}");
    }
    let owner = Owner { namespace: "others".to_owned(), ..Owner::default() };
    world.store.fetch(&wanted, &owner, &|_| ()).await.unwrap();
}

#[tokio::test]
async fn what_was_verified_is_what_is_read_though_its_name_leads_elsewhere_by_then() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    let folder = claims.path().join("tests/models");
    fs::create_dir_all(&folder).unwrap();
    let (file, secret) = (folder.join("a"), claims.path().join("secret"));
    fs::write(&file, &body).unwrap();
    fs::write(&secret, b"theirs").unwrap();
    let wanted = artifact(&body, ["pvc://models/a".to_owned()]);
    let stored = world(&claims).fetch(&wanted).await.unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&secret, &file).unwrap();
    assert_eq!(fs::read(&stored.path).unwrap(), body);
}
