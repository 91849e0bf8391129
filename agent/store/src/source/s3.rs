//! `s3://bucket/key[?region=…&endpoint=https://host]`: an object of an object store.

use super::{Address, invalid, is_inner_path};
use crate::error::SourceError;

/// Longest name of a region: the longest public one is half of it.
const REGION_LEN_MAX: usize = 64;

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) region: Option<String>,
    /// A store other than Amazon's.
    pub(crate) endpoint: Option<Address>,
}

pub(super) fn parse(rest: &str) -> Result<Object, SourceError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Some((bucket, key)) = place.split_once('/') else {
        return invalid("not of the form s3://bucket/key[?region=…&endpoint=https://host]".into());
    };
    if !is_bucket(bucket) {
        return invalid("its bucket is no name of 3 to 63 of a-z, 0-9, . and -".to_owned());
    }
    if !is_inner_path(key) || key.contains('#') {
        return invalid("its key has an empty part, a . or .., or a character out of place".into());
    }
    let (mut region, mut endpoint) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("region", value)) if region.is_none() && is_region(value) => {
                region = Some(value.to_owned());
            }
            Some(("endpoint", value)) if endpoint.is_none() => {
                endpoint = Some(Address::parse_base(value)?);
            }
            // The pair itself is not shown: a signed address that was pasted here is a secret.
            _ => return invalid("after ? come region=… and endpoint=https://host alone".into()),
        }
    }
    Ok(Object { bucket: bucket.to_owned(), key: key.to_owned(), region, endpoint })
}

fn is_bucket(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=63).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_region(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (1..=REGION_LEN_MAX).contains(&text.len()) && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_amazons_unless_an_endpoint_is_named() {
        let object = parse("my.bucket/a/b c+%20.gguf").unwrap();
        assert_eq!((&*object.bucket, &*object.key), ("my.bucket", "a/b c+%20.gguf"));
        assert_eq!((object.region, object.endpoint), (None, None));
        let object = parse("bucket/a?endpoint=https://s3.example:9000&region=eu_1").unwrap();
        assert_eq!(object.region.as_deref(), Some("eu_1"));
        assert_eq!(object.endpoint.unwrap().url.as_str(), "https://s3.example:9000/");
        parse("bucket/a?endpoint=http://127.0.0.1:9000").unwrap();
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for bad in [
            "bucket",
            "bucket/",
            "/a",
            "Bucket/a",
            "ab/a",
            "a..b/a",
            "-ab/a",
            "user:secret@bucket/a",
            "bucket/../a",
            "bucket//a",
            "bucket/a#b",
            "bucket/a?region=",
            "bucket/a?region=a&region=b",
            "bucket/a?region=a/../b",
            "bucket/a?endpoint=host",
            "bucket/a?endpoint=ftp://host",
            "bucket/a?endpoint=https://user:secret@host",
            "bucket/a?X-Amz-Signature=secret",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.reason(), "SourceInvalid", "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let error = parse("bucket/a?endpoint=http://s3.example").unwrap_err();
        assert_eq!(error.reason(), "SourceNotAllowed");
    }
}
