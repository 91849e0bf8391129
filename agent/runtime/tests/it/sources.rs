//! The committed components and the sources they were built from belong together.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use realm_core::desired::Sha256;
use sha2::{Digest as _, Sha256 as Hasher};

/// Bytes of a component that may be committed.
const COMMITTED_BYTES_MAX: usize = 256 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files_under(folder: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files_under(&path, found);
        } else {
            found.insert(path);
        }
    }
}

/// Every file that a component is made of, and the component.
fn parts(folder: &str, component: &str) -> BTreeSet<String> {
    let sdk = "sdks/guest-rust";
    let mut parts: BTreeSet<_> =
        ["Cargo.toml", "Cargo.lock", "rebuild.sh", "build-tool/Cargo.toml"]
            .map(|file| format!("{sdk}/{file}"))
            .into();
    parts.insert(format!("{folder}/Cargo.toml"));
    parts.insert(format!("{folder}/{component}.wasm"));
    for sources in ["proto/wit", "sdks/guest-rust/src", "sdks/guest-rust/build-tool/src"] {
        files_under(sources, &mut parts);
    }
    files_under(&format!("{folder}/src"), &mut parts);
    parts
}

/// The folders of all programs that are committed as components, and what each component is called.
fn programs() -> Vec<(String, String)> {
    let mut programs = Vec::new();
    for folder in ["sdks/guest-rust/programs", "tests/guests"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().join("Cargo.toml").exists() {
                let name = entry.file_name().into_string().unwrap();
                programs.push((format!("{folder}/{name}"), name.replace('-', "_")));
            }
        }
    }
    programs
}

#[test]
fn every_committed_component_was_built_from_the_committed_sources() {
    let programs = programs();
    assert!(programs.iter().any(|(_, component)| component == "built_in"), "{programs:?}");
    for (folder, component) in &programs {
        let list = fs::read_to_string(root().join(format!("{folder}/{component}.sha256"))).unwrap();
        let mut listed = BTreeSet::new();
        for line in list.lines() {
            let (digest, path) = line.split_once("  ").unwrap();
            let bytes = fs::read(root().join(path)).unwrap();
            let found = Sha256(Hasher::digest(&bytes).into());
            assert_eq!(
                found.to_string(),
                digest,
                "{path} has changed: run sdks/guest-rust/rebuild.sh"
            );
            listed.insert(path.to_owned());
        }
        assert_eq!(listed, parts(folder, component), "run sdks/guest-rust/rebuild.sh");
        let bytes = fs::read(root().join(format!("{folder}/{component}.wasm"))).unwrap();
        assert!(bytes.len() <= COMMITTED_BYTES_MAX, "{component} has {} bytes", bytes.len());
    }
}
