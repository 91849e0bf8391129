//! The rules of ARCHITECTURE.md that a compiler does not check.
//!
//! A change that moves a boundary edits the tables here and ARCHITECTURE.md together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Every crate of the house, and the rooms it may enter.
const EDGES: &[(&str, &[&str])] = &[
    ("realm-crds", &[]),
    ("realm-proto", &[]),
    ("realm-plan", &["realm-crds"]),
    ("realm-operator", &["realm-crds", "realm-plan", "realm-proto"]),
    ("realm-core", &[]),
    ("realm-kernels", &[]),
    ("realm-kernels-cuda", &["realm-kernels"]),
    ("realm-engine", &["realm-core", "realm-grammar", "realm-kernels"]),
    ("realm-grammar", &["realm-core"]),
    ("realm-runtime", &["realm-core"]),
    ("realm-gateway", &["realm-core", "realm-proto"]),
    ("realm-store", &["realm-core"]),
    ("realm-link", &["realm-core", "realm-proto"]),
    ("realm-traces", &["realm-core"]),
    ("realm-conformance", &[]),
    (
        "realm-agent",
        &[
            "realm-core",
            "realm-engine",
            "realm-gateway",
            "realm-kernels",
            "realm-link",
            "realm-runtime",
            "realm-store",
            "realm-traces",
        ],
    ),
    (
        "realm-cli",
        &[
            "realm-agent",
            "realm-conformance",
            "realm-core",
            "realm-crds",
            "realm-engine",
            "realm-gateway",
            "realm-kernels",
            "realm-link",
            "realm-plan",
            "realm-store",
            "realm-traces",
        ],
    ),
    ("realm-tests", &["realm-engine", "realm-kernels"]),
];

/// Heavy dependencies and their homes. Dev-dependencies are not counted.
const HOMES: &[(&str, &[&str])] = &[
    ("kube", &["realm-crds", "realm-operator", "realm-cli", "realm-tests"]),
    ("k8s-openapi", &["realm-crds", "realm-operator", "realm-cli", "realm-tests"]),
    ("tonic", &["realm-proto", "realm-operator", "realm-link", "realm-tests"]),
    ("rcgen", &["realm-operator", "realm-link"]),
    ("axum", &["realm-gateway", "realm-operator", "realm-agent", "realm-tests"]),
    ("hyper", &["realm-gateway", "realm-operator", "realm-link", "realm-agent", "realm-tests"]),
    ("tokio-tungstenite", &["realm-gateway", "realm-cli", "realm-tests"]),
    ("reqwest", &["realm-store", "realm-traces", "realm-cli"]),
    ("opentelemetry", &["realm-traces"]),
    ("opentelemetry_sdk", &["realm-traces"]),
    ("opentelemetry-otlp", &["realm-traces"]),
    ("wasmtime", &["realm-runtime"]),
    ("wasmtime-environ", &["realm-runtime"]),
    ("llguidance", &["realm-grammar"]),
    ("cudarc", &["realm-kernels-cuda"]),
    ("libloading", &["realm-kernels-cuda"]),
    ("wgpu", &["realm-kernels-wgpu"]),
    ("memmap2", &["realm-engine"]),
    ("anyhow", &["realm-cli", "realm-operator", "realm-agent", "realm-tests"]),
];

/// What pure crates must never see: a clock of their own, sockets, files, randomness.
const PURE: &[(&str, &[&str])] = &[
    ("realm-plan", &["tokio", "getrandom", "rand", "kube", "tonic", "reqwest", "tempfile"]),
    ("realm-core", &["getrandom", "rand", "reqwest", "hyper"]),
    ("realm-conformance", &["tokio", "getrandom", "rand", "reqwest", "hyper", "tempfile"]),
];

/// Where they are.
const PURE_SOURCES: &[&str] = &["agent/conformance/src", "agent/core/src", "operator/plan/src"];

/// Crates whose modules may say `unsafe`, each use with its proof.
const UNSAFE_HOMES: &[&str] =
    &["agent/kernels", "agent/kernels-cuda", "agent/kernels-wgpu", "agent/engine", "agent/runtime"];

/// Crates in which `async` has no place.
const SYNC_CRATES: &[&str] = &[
    "agent/conformance",
    "agent/engine",
    "agent/grammar",
    "agent/kernels",
    "agent/kernels-cuda",
    "operator/plan",
];

/// Who may say that a peer is an agent of this installation: whoever has verified its certificate.
const VOUCHERS: &[&str] = &["agent/link/src/peer/door.rs"];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 600;

/// Bytes of a committed file, vectors and lock files apart: weights and binaries do not belong.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// Bytes of a committed component.
const COMPONENT_BYTES_MAX: u64 = 256 * 1024;

/// The only documents at the root.
const ROOT_DOCUMENTS: &[&str] =
    &["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md"];

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// Direct dependencies of each crate, build and normal alike.
fn dependencies(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let direct = |package: &cargo_metadata::Package| {
        let counted = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        counted.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.packages.iter().map(|p| (p.name.to_string(), direct(p))).collect()
}

/// The tracked files, relative to the root.
fn tracked_files() -> Vec<PathBuf> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let files: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .split('\0')
        .filter(|f| !f.is_empty())
        .map(PathBuf::from)
        .collect();
    assert!(!files.is_empty());
    files
}

pub(super) fn rust_sources() -> Vec<(PathBuf, String)> {
    let rust = tracked_files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs"));
    rust.filter_map(|file| fs::read_to_string(root().join(&file)).ok().map(|text| (file, text)))
        .collect()
}

/// Whether a file holds nothing but tests: by its place under a folder `tests`, or its name.
fn is_test(file: &Path) -> bool {
    let mut parts = file.components().map(Component::as_os_str);
    parts.any(|part| part == "tests" || part == "tests.rs")
}

/// The part of a source before its unit tests.
pub(super) fn production(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\nmod tests {").map_or(text, |(production, _)| production)
}

#[test]
fn crates_meet_only_where_the_plan_of_the_house_says() {
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    for (name, dependencies) in dependencies(&metadata()) {
        let edges =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        for dependency in dependencies.iter().filter(|d| d.starts_with("realm-")) {
            assert!(edges.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn heavy_dependencies_stay_at_home() {
    let homes: BTreeMap<_, _> = HOMES.iter().copied().collect();
    for (name, dependencies) in dependencies(&metadata()) {
        for dependency in &dependencies {
            if let Some(homes) = homes.get(dependency.as_str()) {
                assert!(homes.contains(&name.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn pure_crates_see_no_clock_socket_file_or_randomness() {
    let all = dependencies(&metadata());
    for (name, forbidden) in PURE {
        for dependency in &all[*name] {
            assert!(
                !forbidden.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
    let words = ["SystemTime::now", "Instant::now", "std::env::", "std::fs::", "std::net::"];
    for (file, text) in rust_sources() {
        if !is_test(&file) && PURE_SOURCES.iter().any(|home| file.starts_with(home)) {
            for word in words {
                assert!(
                    !production(&text).contains(word),
                    "{}: `{word}` in a pure crate",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_crate_takes_the_lints_and_versions_of_the_workspace() {
    for package in metadata().packages {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package.manifest_path);
        for dependency in &package.dependencies {
            let [plain, with] = [".workspace = true", " = { workspace = true"]
                .map(|form| format!("\n{}{form}", dependency.name));
            let from_workspace = manifest.contains(&plain) || manifest.contains(&with);
            assert!(from_workspace, "{}: {}", package.name, dependency.name);
        }
    }
}

/// Named by generated code alone.
const USED_UNSEEN: &[(&str, &str)] =
    &[("realm-proto", "prost"), ("realm-proto", "tonic"), ("realm-proto", "tonic-prost")];

#[test]
fn every_dependency_is_used() {
    let sources = rust_sources();
    for package in metadata().packages {
        let folder = package.manifest_path.parent().unwrap().strip_prefix(root()).unwrap();
        let mut own = sources.iter().filter(|(file, _)| file.starts_with(folder));
        let text: String = own.by_ref().map(|(_, text)| text.as_str()).collect();
        for dependency in &package.dependencies {
            let word = dependency.name.replace('-', "_");
            let is_seen = [" ", "(", "&", "<", "[", "!", "\n"]
                .iter()
                .any(|before| text.contains(&format!("{before}{word}::")));
            let is_unseen = USED_UNSEEN.contains(&(package.name.as_str(), &dependency.name));
            assert!(is_seen || is_unseen, "{}: {} is not used", package.name, dependency.name);
        }
    }
}

#[test]
fn unsafe_code_lives_only_where_it_may() {
    let lint = "unsafe_code";
    for (file, text) in rust_sources() {
        let opts_out = text.contains(lint) && !file.starts_with("tests/src/it");
        let at_home = UNSAFE_HOMES.iter().any(|home| file.starts_with(home));
        assert!(!opts_out || at_home, "{} must not hold unsafe code", file.display());
    }
}

#[test]
fn only_the_edge_that_verifies_certificates_vouches_for_a_peer() {
    let word = concat!("VerifiedPeer::", "vouch(");
    let mut vouchers = Vec::new();
    for (file, text) in rust_sources() {
        if !is_test(&file) && production(&text).contains(word) {
            vouchers.push(file.to_string_lossy().into_owned());
        }
    }
    assert_eq!(vouchers, VOUCHERS);
}

#[test]
fn engine_kernels_and_plan_hold_no_async() {
    for (file, text) in rust_sources() {
        if SYNC_CRATES.iter().any(|home| file.starts_with(Path::new(home).join("src"))) {
            let code =
                production(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                assert!(
                    !line.contains("async ") && !line.contains(".await"),
                    "{}: {line}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    for (file, text) in rust_sources() {
        if is_test(&file) {
            continue;
        }
        let lines = production(&text).lines().count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines; {FILE_LINES_MAX} are the most",
            file.display()
        );
    }
}

#[test]
fn modules_are_files_named_after_themselves() {
    for file in tracked_files() {
        assert_ne!(file.file_name().unwrap(), "mod.rs", "{}", file.display());
    }
}

#[test]
fn the_root_holds_four_documents() {
    let documents: Vec<_> = tracked_files()
        .into_iter()
        .filter(|f| f.components().count() == 1 && f.extension().is_some_and(|e| e == "md"))
        .map(|f| f.to_string_lossy().into_owned())
        .collect();
    assert_eq!(documents, ROOT_DOCUMENTS);
}

#[test]
fn no_weights_or_large_binaries_are_committed() {
    for file in tracked_files() {
        let Ok(meta) = fs::metadata(root().join(&file)) else { continue };
        let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        assert!(
            !["gguf", "safetensors", "so", "whl"].contains(&extension.as_str()),
            "{}",
            file.display()
        );
        let bytes_max = match extension.as_str() {
            "wasm" => COMPONENT_BYTES_MAX,
            "lock" => u64::MAX,
            _ if file.starts_with("tests/vectors") => 2 * FILE_BYTES_MAX,
            _ => FILE_BYTES_MAX,
        };
        assert!(
            meta.len() <= bytes_max,
            "{} has {} bytes; {bytes_max} are the most",
            file.display(),
            meta.len()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in halves so that this file does not find itself.
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for (file, text) in rust_sources() {
        for marker in markers {
            assert!(!text.contains(marker), "{}: `{marker}`", file.display());
        }
    }
}
