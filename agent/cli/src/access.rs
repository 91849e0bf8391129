//! What opens the sources of artifacts for whoever runs this: the variables that the ecosystems' own
//! tools read.

use std::env;

use realm_core::credentials::{AWS, Credentials, S3Keys, Secret};
use realm_store::{Site, StoreOptions};

/// How the store of this machine reaches its sources.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) store: StoreOptions,
    pub(crate) credentials: Credentials,
}

impl Access {
    pub(crate) fn of_environment() -> Self {
        Self::of(|name| env::var(name).ok())
    }

    /// By what `variable` says. One that is set to nothing is not set.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| variable(name).map(|text| text.trim().to_owned());
        let said = |name: &str| said(name).filter(|text| !text.is_empty());
        let secret = |name: &str| said(name).map(Secret::new);
        let mut store = StoreOptions::new(Site::OneMachine);
        if let Some(hub) = said("HF_ENDPOINT") {
            store.hub_endpoint = hub;
        }
        if let Some(region) = said("AWS_REGION").or_else(|| said("AWS_DEFAULT_REGION")) {
            store.s3.region = region;
        }
        store.s3.endpoint = said("AWS_ENDPOINT_URL_S3").or_else(|| said("AWS_ENDPOINT_URL"));
        let keys = secret("AWS_ACCESS_KEY_ID").zip(secret("AWS_SECRET_ACCESS_KEY"));
        let keys = keys.map(|(access_key_id, secret_access_key)| S3Keys {
            access_key_id,
            secret_access_key,
            session_token: secret("AWS_SESSION_TOKEN"),
        });
        // They are of the store that the variables name, and of no other that a source names.
        let host = store.s3.endpoint.as_deref().map_or_else(|| AWS.to_owned(), host);
        let credentials = Credentials {
            hub_token: secret("HF_TOKEN"),
            s3_keys: keys.map(|keys| (host, keys)).into_iter().collect(),
            ..Credentials::default()
        };
        Self { store, credentials }
    }
}

/// The host of a server's address, with its port unless that goes without saying.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let usual = if scheme.eq_ignore_ascii_case("http") { ":80" } else { ":443" };
    host.strip_suffix(usual).map_or_else(|| host.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(variables: &[(&str, &str)]) -> Access {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Access::of(|name| find(name).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn nothing_is_opened_by_variables_that_are_not_there_or_empty() {
        for variables in [&[][..], &[("HF_TOKEN", ""), ("AWS_ACCESS_KEY_ID", "a")]] {
            let Access { store, credentials } = access(variables);
            assert_eq!(credentials, Credentials::default());
            assert_eq!((&*store.s3.region, store.s3.endpoint), ("us-east-1", None));
        }
    }

    #[test]
    fn the_variables_of_the_hub_and_of_object_stores_are_read_as_their_tools_do() {
        let keys = [
            ("HF_TOKEN", "hub\n"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "session"),
            ("AWS_REGION", "eu-west-1"),
        ];
        let Access { store, credentials } = access(&keys);
        assert_eq!(credentials.hub_token.unwrap().expose(), "hub");
        assert_eq!(store.s3.region, "eu-west-1");
        let of_amazon = &credentials.s3_keys[AWS];
        assert_eq!(of_amazon.access_key_id.expose(), "id");
        assert_eq!(of_amazon.session_token.as_ref().unwrap().expose(), "session");
    }

    #[test]
    fn keys_are_for_the_store_that_the_variables_name() {
        for (url, host) in [
            ("https://s3.example:9000/", "s3.example:9000"),
            ("https://S3.example:443", "s3.example"),
            ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ] {
            let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
            let Access { store, credentials } =
                access(&[keys[0], keys[1], ("AWS_ENDPOINT_URL", url)]);
            assert_eq!(store.s3.endpoint.as_deref(), Some(url));
            assert_eq!(credentials.s3_keys.keys().collect::<Vec<_>>(), [host]);
        }
    }
}
