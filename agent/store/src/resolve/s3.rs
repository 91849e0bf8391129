//! The address of an object, signed where there are keys to sign it with.

use std::{collections::BTreeMap, time::Duration};

use realm_core::credentials::{AWS, S3Keys, Secret};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};

use super::Request;
use crate::{
    error::SourceError,
    options::S3Options,
    source::{self, Address, Object},
};

/// How long a signature is good for. It need only outlast the wait for the head of one answer,
/// well under a minute; the rest is for clocks that differ, by as much as the stores themselves
/// forgive.
const SIGNED_FOR: Duration = Duration::from_mins(15);

/// The server that has the object.
pub(super) fn door(object: &Object, options: &S3Options) -> Result<Address, SourceError> {
    if let Some(endpoint) = endpoint(object, options)? {
        return Ok(endpoint);
    }
    Address::parse_base(&format!("https://s3.{}.amazonaws.com", region(object, options)))
}

/// A store other than Amazon's, where the source or the options name one.
fn endpoint(object: &Object, options: &S3Options) -> Result<Option<Address>, SourceError> {
    match &object.endpoint {
        Some(endpoint) => Ok(Some(endpoint.clone())),
        None => options.endpoint.as_deref().map(Address::parse_base).transpose(),
    }
}

fn region<'a>(object: &'a Object, options: &'a S3Options) -> &'a str {
    object.region.as_deref().unwrap_or(&options.region)
}

/// Signs the address of the object, or leaves it unsigned, as public buckets want it.
pub(super) fn request(
    object: &Object,
    options: &S3Options,
    keys: &BTreeMap<String, S3Keys>,
) -> Result<Request, SourceError> {
    let Object { bucket, key, .. } = object;
    let endpoint = endpoint(object, options)?;
    let region = region(object, options).to_owned();
    // A dot in the name would make a host that the store's certificate is not for.
    let style = if endpoint.is_some() || bucket.contains('.') {
        UrlStyle::Path
    } else {
        UrlStyle::VirtualHost
    };
    let bucket = Bucket::new(door(object, options)?.url, style, bucket.clone(), region)
        .map_err(|error| SourceError::Invalid { problem: format!("no bucket ({error})") })?;
    let host = endpoint.as_ref().map(|endpoint| source::authority(&endpoint.url));
    let credentials = keys.get(host.as_deref().unwrap_or(AWS)).map(credentials);
    let url = bucket.get_object(credentials.as_ref(), key).sign(SIGNED_FOR);
    // The signature is the whole proof: stores refuse a second one in a header.
    Ok(Request { url, authorization: None })
}

fn credentials(keys: &S3Keys) -> Credentials {
    let (id, secret) = (keys.access_key_id.expose(), keys.secret_access_key.expose());
    match keys.session_token.as_ref().map(Secret::expose) {
        Some(token) => Credentials::new_with_token(id, secret, token),
        None => Credentials::new(id, secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        options::{Site, StoreOptions},
        source::{Remote, Source, parse},
    };

    fn url(text: &str, keys: Option<(&str, &S3Keys)>) -> String {
        let Source::Remote(Remote::S3(object)) = parse(text).unwrap() else { panic!("{text}") };
        let keys = keys.map(|(host, keys)| (host.to_owned(), keys.clone())).into_iter().collect();
        request(&object, &StoreOptions::new(Site::Cluster).s3, &keys).unwrap().url.into()
    }

    #[test]
    fn an_object_is_asked_for_in_the_style_its_store_serves() {
        assert_eq!(
            url("s3://bucket/a b+.gguf?region=eu-west-1", None),
            "https://bucket.s3.eu-west-1.amazonaws.com/a%20b%2B.gguf"
        );
        assert_eq!(url("s3://my.bucket/a", None), "https://s3.us-east-1.amazonaws.com/my.bucket/a");
        assert_eq!(
            url("s3://bucket/a/b?endpoint=https://s3.example:9000", None),
            "https://s3.example:9000/bucket/a/b"
        );
    }

    #[test]
    fn what_a_source_does_not_say_the_options_do() {
        let options = S3Options {
            region: "eu-west-1".to_owned(),
            endpoint: Some("https://s3.example:9000".to_owned()),
        };
        let url = |text: &str| -> String {
            let Source::Remote(Remote::S3(object)) = parse(text).unwrap() else { panic!("{text}") };
            request(&object, &options, &BTreeMap::new()).unwrap().url.into()
        };
        assert_eq!(url("s3://bucket/a"), "https://s3.example:9000/bucket/a");
        assert_eq!(
            url("s3://bucket/a?endpoint=https://other.example"),
            "https://other.example/bucket/a"
        );
        let amazon = S3Options { endpoint: None, ..options };
        let Source::Remote(Remote::S3(object)) = parse("s3://bucket/a").unwrap() else { panic!() };
        let url = request(&object, &amazon, &BTreeMap::new()).unwrap().url;
        assert_eq!(url.host_str(), Some("bucket.s3.eu-west-1.amazonaws.com"));
    }

    #[test]
    fn a_signed_address_holds_the_signature_and_not_the_secret() {
        let keys = S3Keys {
            access_key_id: Secret::new("ID"),
            secret_access_key: Secret::new("hunter2"),
            session_token: Some(Secret::new("SESSION")),
        };
        let signed = url("s3://bucket/a", Some((AWS, &keys)));
        for part in ["X-Amz-Signature=", "X-Amz-Expires=900", "X-Amz-Security-Token=SESSION"] {
            assert!(signed.contains(part), "{signed}");
        }
        assert!(!signed.contains("hunter2"), "{signed}");
    }

    #[test]
    fn keys_sign_for_the_store_that_they_are_of_and_no_other() {
        let keys = S3Keys {
            access_key_id: Secret::new("ID"),
            secret_access_key: Secret::new("hunter2"),
            session_token: None,
        };
        let is_signed = |text: &str, host| url(text, Some((host, &keys))).contains("X-Amz-");
        let aws = "s3://bucket/a?region=eu-west-1";
        let own = "s3://bucket/a?endpoint=https://s3.example:9000";
        assert!(is_signed(aws, AWS) && is_signed(own, "s3.example:9000"));
        assert!(!is_signed(own, AWS) && !is_signed(aws, "s3.example:9000"));
        assert!(!is_signed(own, "s3.example"));
        assert!(is_signed("s3://bucket/a?endpoint=https://s3.example:443", "s3.example"));
    }
}
