//! `oci://registry/repository[:tag|@sha256:digest][#title]`: a layer of an artifact in a registry.

use std::fmt;

use realm_core::desired::Sha256;

use super::{Address, invalid};
use crate::error::SourceError;

/// The tag of a reference that names none.
const TAG: &str = "latest";

/// Longest repository name and tag, both from the distribution specification.
const REPOSITORY_LEN_MAX: usize = 255;
const TAG_LEN_MAX: usize = 128;

/// Longest title of a layer, which is a file name.
const TITLE_LEN_MAX: usize = 255;

/// Where the public hub of images really answers.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A file that is a layer of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Host and perhaps port, as the source names them.
    pub(crate) registry: String,
    pub(crate) address: Address,
    pub(crate) repository: String,
    pub(crate) reference: OciReference,
    /// The title of the layer, where there are several.
    pub(crate) title: Option<String>,
}

/// Which version of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OciReference {
    Tag(String),
    Digest(Sha256),
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

pub(super) fn parse(rest: &str) -> Result<Image, SourceError> {
    let (place, title) = match rest.split_once('#') {
        Some((place, title)) => (place, Some(title)),
        None => (rest, None),
    };
    let Some((registry, place)) = place.split_once('/') else {
        let form = "oci://registry/repository[:tag|@sha256:digest][#title]";
        return invalid(format!("not of the form {form}"));
    };
    let (repository, reference) = match (place.split_once('@'), place.split_once(':')) {
        (Some((repository, digest)), _) => (repository, parse_digest(digest)?),
        (None, Some((repository, tag))) => (repository, parse_tag(tag)?),
        (None, None) => (place, OciReference::Tag(TAG.to_owned())),
    };
    if !is_repository(repository) {
        return invalid("its repository is no name of lower-case parts".to_owned());
    }
    if title.is_some_and(|title| !is_title(title)) {
        return invalid("its title, after #, is empty, too long or no plain text".to_owned());
    }
    let (hub, hub_host) = DOCKER_HUB;
    let address = Address::of_host(if registry == hub { hub_host } else { registry })?;
    Ok(Image {
        registry: registry.to_owned(),
        address,
        repository: repository.to_owned(),
        reference,
        title: title.map(str::to_owned),
    })
}

fn parse_digest(text: &str) -> Result<OciReference, SourceError> {
    match text.strip_prefix("sha256:").map(str::parse) {
        Some(Ok(digest)) => Ok(OciReference::Digest(digest)),
        _ => invalid("its digest is not of the form sha256:…".to_owned()),
    }
}

fn parse_tag(text: &str) -> Result<OciReference, SourceError> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_tag = (1..=TAG_LEN_MAX).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with(['.', '-']);
    if is_tag {
        Ok(OciReference::Tag(text.to_owned()))
    } else {
        invalid("its tag is none".to_owned())
    }
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

fn is_title(text: &str) -> bool {
    (1..=TITLE_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    #[test]
    fn an_image_is_named_by_tag_or_digest_and_a_layer_by_title() {
        let image = parse("ghcr.io/org/models/smol_lm2--x:v1.0#a model.gguf").unwrap();
        assert_eq!((&*image.registry, &*image.repository), ("ghcr.io", "org/models/smol_lm2--x"));
        assert_eq!(image.reference, OciReference::Tag("v1.0".to_owned()));
        assert_eq!(image.title.as_deref(), Some("a model.gguf"));
        assert_eq!(image.address.url.as_str(), "https://ghcr.io/");

        let image = parse(&format!("127.0.0.1:5000/a@sha256:{DIGEST}")).unwrap();
        assert_eq!(image.reference.to_string(), format!("sha256:{DIGEST}"));
        assert!(image.address.loopback, "{:?}", image.address);
        let image = parse("docker.io/org/a").unwrap();
        assert_eq!(image.reference, OciReference::Tag("latest".to_owned()));
        assert_eq!(image.address.url.as_str(), "https://registry-1.docker.io/");
    }

    #[test]
    fn what_names_no_layer_is_refused() {
        for bad in [
            "",
            "host",
            "host/",
            "/a",
            "host/A",
            "host/a//b",
            "host/../b",
            "host/a..b",
            "host/a___b",
            "host/a-",
            "host/a:",
            "host/a:-b",
            "host/a:b:c",
            "host/a@sha256:abc",
            "host/a@sha512:abc",
            &format!("host/a:tag@sha256:{DIGEST}"),
            "host/a#",
            "host/a?b=c",
            "user:secret@host/a",
            "ho st/a",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.reason(), "SourceInvalid", "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
