//! Files of mounted claims, used where they lie.

use std::{fs, os::unix::fs::symlink};

use realm_core::desired::Artifact;
use realm_store::Site;
use tempfile::TempDir;

use crate::world::{World, artifact, bytes, digest, reasons};

fn world(claims: &TempDir) -> World {
    World::with(|options| {
        options.site = Site::Cluster;
        options.pvc_dir = Some(claims.path().to_owned());
    })
}

#[tokio::test]
async fn a_file_of_a_claim_is_verified_and_used_in_place() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(100_000));
    let folder = claims.path().join("models/blobs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a b.gguf"), &body).unwrap();
    symlink("blobs/a b.gguf", claims.path().join("models/latest.gguf")).unwrap();
    let (world, real) = (world(&claims), folder.canonicalize().unwrap().join("a b.gguf"));
    for source in ["pvc://models/blobs/a b.gguf", "pvc://models/latest.gguf"] {
        let stored = world.fetch(&artifact(&body, [source.to_owned()])).await.unwrap();
        assert_eq!((stored.path, stored.sha256), (real.clone(), digest(&body)));
    }
    assert!(world.blobs().is_empty(), "it was not copied");

    let source = "pvc://models/latest.gguf".to_owned();
    let unnamed = Artifact { sources: vec![source.clone()], sha256: None };
    assert_eq!(world.fetch(&unnamed).await.unwrap().sha256, digest(&body));
    let error = world.fetch(&artifact(b"else", [source])).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
}

#[tokio::test]
async fn no_path_and_no_link_leads_out_of_a_claim() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    for claim in ["mine", "theirs"] {
        fs::create_dir(claims.path().join(claim)).unwrap();
    }
    let secret = claims.path().join("theirs/secret");
    fs::write(&secret, &body).unwrap();
    let link = |to: &str, name: &str| symlink(to, claims.path().join("mine").join(name)).unwrap();
    link("../theirs/secret", "relative");
    link(secret.to_str().unwrap(), "absolute");
    link("../theirs", "folder");
    link("relative", "twice");
    let sources = ["relative", "absolute", "folder/secret", "twice", "../theirs/secret"];
    let sources = sources.map(|path| format!("pvc://mine/{path}"));
    let error = world(&claims).fetch(&artifact(&body, sources)).await.unwrap_err();
    let escaped = "SourceNotAllowed";
    assert_eq!(reasons(&error)[1..], [escaped, escaped, escaped, escaped, "SourceInvalid"]);
}

#[tokio::test]
async fn what_is_not_there_says_whether_the_claim_or_the_file_is_missing() {
    let (claims, body) = (tempfile::tempdir().unwrap(), bytes(10));
    fs::create_dir_all(claims.path().join("models/folder")).unwrap();
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
