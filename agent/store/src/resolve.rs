//! What to ask a server for: a remote source becomes one web request, with what proves who asks.
//!
//! Requests are made anew for every attempt, since signatures and tokens live shorter than a large
//! download takes.

mod oci;
mod s3;

use realm_core::{
    credentials::{Credentials, Secret},
    desired::Sha256,
};
use reqwest::{Url, header::HeaderValue};

use crate::{
    error::SourceError,
    options::StoreOptions,
    source::{self, Address, HubFile, Remote},
    web::Web,
};

/// A request for one file. It may hold secrets in its address too, and so is never shown.
pub(crate) struct Request {
    pub(crate) url: Url,
    /// For the server of `url` alone: led elsewhere, the client goes without.
    pub(crate) authorization: Option<HeaderValue>,
}

/// What a request is made with, besides its source.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) options: &'a StoreOptions,
    pub(crate) credentials: &'a Credentials,
    pub(crate) expected: Sha256,
}

/// The server that is asked first: whom to trust depends on it.
pub(crate) fn door(remote: &Remote, options: &StoreOptions) -> Result<Address, SourceError> {
    match remote {
        Remote::Web(address) => Ok(address.clone()),
        Remote::Hub(_) => Address::parse_base(&options.hub_endpoint),
        Remote::S3(object) => s3::door(object, &options.s3),
        Remote::Oci(image) => Ok(image.address.clone()),
    }
}

/// Makes the request for one attempt, asking the servers of `web` on the way where it takes that.
pub(crate) async fn resolve(
    remote: &Remote,
    web: &Web,
    access: &Access<'_>,
) -> Result<Request, SourceError> {
    let Access { options, credentials, .. } = access;
    match remote {
        Remote::Web(address) => web_request(&address.url, credentials),
        Remote::Hub(file) => hub_request(file, &options.hub_endpoint, credentials),
        Remote::S3(object) => s3::request(object, &options.s3, &credentials.s3_keys),
        Remote::Oci(image) => oci::request(image, web, access).await,
    }
}

fn web_request(url: &Url, credentials: &Credentials) -> Result<Request, SourceError> {
    let token = credentials.web_tokens.get(&source::authority(url));
    Ok(Request { url: url.clone(), authorization: token.map(bearer).transpose()? })
}

fn hub_request(
    file: &HubFile,
    endpoint: &str,
    credentials: &Credentials,
) -> Result<Request, SourceError> {
    let HubFile { org, repo, revision, path } = file;
    let place: [&str; 4] = [org, repo, "resolve", revision];
    let url = Address::parse_base(endpoint)?.below(place.into_iter().chain(path.split('/')));
    Ok(Request { url, authorization: credentials.hub_token.as_ref().map(bearer).transpose()? })
}

fn bearer(token: &Secret) -> Result<HeaderValue, SourceError> {
    authorization(&format!("Bearer {}", token.expose()), "the token")
}

/// The header, marked as a secret; `what` names what it was made of.
fn authorization(text: &str, what: &'static str) -> Result<HeaderValue, SourceError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| SourceError::CredentialsInvalid { what })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Source, parse};

    fn hub(text: &str, endpoint: &str) -> Request {
        let Source::Remote(Remote::Hub(file)) = parse(text).unwrap() else { panic!("{text}") };
        let credentials =
            Credentials { hub_token: Some(Secret::new("token")), ..Credentials::default() };
        hub_request(&file, endpoint, &credentials).unwrap()
    }

    #[test]
    fn a_hub_file_is_resolved_below_the_endpoint_with_its_names_kept_whole() {
        let request = hub("hf://org/repo/a b%20.gguf", "https://hub.example");
        assert_eq!(
            request.url.as_str(),
            "https://hub.example/org/repo/resolve/main/a%20b%2520.gguf"
        );
        let authorization = request.authorization.unwrap();
        assert_eq!(authorization, "Bearer token");
        assert!(authorization.is_sensitive());
        let request = hub("hf://org/repo@refs%2Fpr%2F1/a/b", "https://mirror.example/hub/");
        assert_eq!(
            request.url.as_str(),
            "https://mirror.example/hub/org/repo/resolve/refs%2Fpr%2F1/a/b"
        );
    }

    #[test]
    fn a_web_token_is_for_its_host_and_port_alone() {
        let tokens = [("a.example".to_owned(), Secret::new("token"))];
        let credentials = Credentials { web_tokens: tokens.into(), ..Credentials::default() };
        let is_shown = |url: &str| {
            let request = web_request(&url.parse().unwrap(), &credentials).unwrap();
            request.authorization.is_some()
        };
        assert!(is_shown("https://a.example/b"));
        assert!(is_shown("https://a.example:443/b"), "the port that goes without saying");
        assert!(!is_shown("https://a.example:444/b"));
        assert!(!is_shown("https://b.a.example/b"));
    }

    #[test]
    fn a_token_with_a_line_end_is_refused_and_not_shown() {
        let error = bearer(&Secret::new("hunter2\n")).unwrap_err();
        assert_eq!(error.reason(), "CredentialsInvalid");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
