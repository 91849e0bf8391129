//! The manifest of an artifact, and which of its layers is the file.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::desired::Sha256;
use serde::Deserialize;

use crate::error::{SourceError, listing};

/// Longest title repeated in an error.
const TITLE_CHARS_MAX: usize = 255;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    /// What an index has in place of layers.
    manifests: Option<serde::de::IgnoredAny>,
}

/// A file in a registry.
#[derive(Deserialize)]
pub(crate) struct Layer {
    digest: String,
    pub(crate) size: u64,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.title")]
    title: Option<String>,
}

impl Layer {
    fn sha256(&self) -> Option<Sha256> {
        self.digest.strip_prefix("sha256:")?.parse().ok()
    }

    fn title(&self) -> Option<&str> {
        self.annotations.as_ref()?.title.as_deref()
    }
}

/// The layer with that title, or the only one, or the one with the expected digest; in any case one
/// that has it.
pub(crate) fn pick(
    manifest: &[u8],
    title: Option<&str>,
    expected: Sha256,
) -> Result<Layer, SourceError> {
    let Manifest { mut layers, manifests } = serde_json::from_slice(manifest).map_err(|error| {
        SourceError::Malformed { why: format!("not a manifest: line {} of it", error.line()) }
    })?;
    if manifests.is_some() {
        let why = "an index of several manifests; name one of them by its digest".to_owned();
        return Err(SourceError::Malformed { why });
    }
    let is_wanted = |layer: &Layer| title.is_none_or(|title| layer.title() == Some(title));
    let has = titles(&layers);
    layers.retain(is_wanted);
    if let Some(at) = layers.iter().position(|layer| layer.sha256() == Some(expected)) {
        return Ok(layers.swap_remove(at));
    }
    if let [layer] = &*layers {
        return Err(match layer.sha256() {
            Some(found) => SourceError::LayerMismatch { expected, found },
            None => SourceError::Malformed { why: "the layer's digest is no sha256".to_owned() },
        });
    }
    let titled = title.map(|title| format!("titled {title:?} ")).unwrap_or_default();
    Err(SourceError::LayerNotFound { wanted: format!("{titled}of sha256 {expected}"), has })
}

fn titles(layers: &[Layer]) -> String {
    let shown = |layer: &Layer| {
        let title = layer.title().unwrap_or("(untitled)").chars();
        title.filter(|c| !c.is_control()).take(TITLE_CHARS_MAX).collect::<String>()
    };
    let titles: Vec<String> = layers.iter().map(shown).collect();
    listing(titles.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Sha256 = Sha256([0xaa; 32]);
    const B: Sha256 = Sha256([0xbb; 32]);
    const C: Sha256 = Sha256([0xcc; 32]);

    fn manifest(layers: &[(Sha256, Option<&str>)]) -> Vec<u8> {
        let layers: Vec<_> = layers
            .iter()
            .map(|(digest, title)| {
                let annotations = title.map(|t| format!(r#""org.opencontainers.image.title":"{t}""#));
                let annotations = annotations.unwrap_or_default();
                format!(
                    r#"{{"mediaType":"a/b","digest":"sha256:{digest}","size":7,"annotations":{{{annotations}}}}}"#
                )
            })
            .collect();
        format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(",")).into_bytes()
    }

    #[track_caller]
    fn check(
        layers: &[(Sha256, Option<&str>)],
        title: Option<&str>,
        expected: Sha256,
    ) -> Result<Sha256, &'static str> {
        pick(&manifest(layers), title, expected)
            .map(|layer| layer.sha256().unwrap())
            .map_err(|error| error.reason())
    }

    #[test]
    fn the_layer_is_the_titled_or_the_only_one_and_has_the_digest() {
        assert_eq!(check(&[(A, None)], None, A), Ok(A));
        assert_eq!(check(&[(A, None)], None, B), Err("DigestMismatch"));
        let two = [(A, Some("a")), (B, Some("b"))];
        assert_eq!(check(&two, Some("b"), B), Ok(B));
        assert_eq!(check(&two, Some("b"), A), Err("DigestMismatch"));
        assert_eq!(check(&two, Some("c"), A), Err("LayerNotFound"));
        assert_eq!(check(&two, None, B), Ok(B), "the digest alone tells which");
        assert_eq!(check(&two, None, C), Err("LayerNotFound"));
        assert_eq!(check(&[], None, A), Err("LayerNotFound"));
    }

    #[test]
    fn what_has_no_layers_of_ours_says_what_it_is() {
        let error = |text: &str| pick(text.as_bytes(), None, A).map(|_| ()).unwrap_err();
        assert!(error(r#"{"manifests":[{"digest":"a"}]}"#).to_string().contains("index"));
        assert_eq!(error("<html>").reason(), "SourceMalformed");
        let sha512 = r#"{"layers":[{"digest":"sha512:aa","size":1}]}"#;
        assert_eq!(error(sha512).reason(), "SourceMalformed");
        let many: Vec<_> = (0..20).map(|_| (B, Some("a title"))).collect();
        let message = pick(&manifest(&many), None, A).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("and 12 more"), "{message}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_manifest_or_refused(text in ".{0,200}") {
            let _ = pick(text.as_bytes(), None, A).is_ok();
        }

        #[test]
        fn a_damaged_manifest_is_a_layer_of_the_digest_or_refused(
            at: prop::sample::Index,
            with: u8,
        ) {
            let mut bytes = manifest(&[(A, Some("a")), (B, None)]);
            *at.get_mut(&mut bytes) = with;
            if let Ok(layer) = pick(&bytes, None, A) {
                prop_assert_eq!(layer.sha256(), Some(A));
            }
        }
    }
}
