//! `pvc://claim/path`: a file of a persistent volume claim that is mounted on the node.

use super::{invalid, is_inner_path};
use crate::error::SourceError;

/// Longest name of an object of Kubernetes: a DNS subdomain.
const OBJECT_NAME_LEN_MAX: usize = 253;

/// A file of a mounted claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// A DNS subdomain, and so one part of a path that does not climb.
    pub(crate) claim: String,
    pub(crate) path: String,
}

pub(super) fn parse(rest: &str) -> Result<Volume, SourceError> {
    let Some((claim, path)) = rest.split_once('/') else {
        return invalid("not of the form pvc://claim/path".to_owned());
    };
    if !is_object_name(claim) {
        return invalid("its claim is no DNS name of a-z, 0-9, - and .".to_owned());
    }
    if !is_inner_path(path) {
        return invalid("its path is not that of a file in a claim".to_owned());
    }
    Ok(Volume { claim: claim.to_owned(), path: path.to_owned() })
}

/// Whether a text can be the name of a claim, or of any other object of Kubernetes.
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= OBJECT_NAME_LEN_MAX && text.split('.').all(is_label)
}

/// Whether a text is one label of a DNS name, as a namespace is, and so one part of a path that
/// does not climb.
pub(crate) fn is_label(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_names_a_claim_and_a_file_that_cannot_climb() {
        let volume = parse("models.v1/a dir/b#c?.gguf").unwrap();
        assert_eq!((&*volume.claim, &*volume.path), ("models.v1", "a dir/b#c?.gguf"));
        for bad in ["a", "a/", "/b", "../b", "a/../b", "a/./b", "a//b", "A/b", "a.-/b", "a/b\0"] {
            assert_eq!(parse(bad).unwrap_err().reason(), "SourceInvalid", "{bad}");
        }
    }
}
