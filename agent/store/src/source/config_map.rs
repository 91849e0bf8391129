//! `configmap://name/key`: an entry of a ConfigMap, which somebody else reads for this node.

use super::{invalid, pvc::is_object_name};
use crate::error::SourceError;

/// Longest name of an entry, as Kubernetes has it.
const KEY_LEN_MAX: usize = 253;

pub(super) fn check(rest: &str) -> Result<(), SourceError> {
    let Some((name, key)) = rest.split_once('/') else {
        return invalid("not of the form configmap://name/key".to_owned());
    };
    if !is_object_name(name) {
        return invalid("its ConfigMap is no DNS name of a-z, 0-9, - and .".to_owned());
    }
    if !is_key(key) {
        return invalid("its key is not that of an entry".to_owned());
    }
    Ok(())
}

/// Whether a text can name an entry: Kubernetes mounts them as files, and so none is one of the
/// folders above.
fn is_key(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=KEY_LEN_MAX).contains(&text.len())
        && text.bytes().all(is_inner)
        && text != "."
        && !text.starts_with("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_named_as_kubernetes_names_it() {
        let long = "k".repeat(KEY_LEN_MAX);
        for good in ["programs/a.wasm", "a.b-1/_A-.wasm", "a/.hidden", &format!("a/{long}")] {
            check(good).unwrap();
        }
        let bad = ["a", "a/", "/b", "A/b", "a_/b", "a/b/c", "a/b c", "a/.", "a/..", "a/..b"];
        for bad in bad.into_iter().chain([&*format!("a/{long}k"), "a/b?", "a/b#", "u:p@a/b"]) {
            assert_eq!(check(bad).unwrap_err().reason(), "SourceInvalid", "{bad}");
        }
    }
}
