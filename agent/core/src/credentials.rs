//! What proves to a source who fetches. It travels beside the desired state, never in it, and no
//! log, error or dump shows it.

use std::{collections::BTreeMap, fmt};

/// What the keys for Amazon's own object store are kept under, for all its regions. A source that
/// names the server may claim it too, but only Amazon answers there.
pub const AWS: &str = "amazonaws.com";

/// A text that only the code that sends it may read.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever puts it on the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Credentials, each for the sources that may see it and no others: the mirrors of one artifact
/// need not trust each other. A login of a registry alone goes further, to its token server.
///
/// A host is written as in the source, with its port if the source names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Token of the model hub, for `hf`.
    pub hub_token: Option<Secret>,
    /// Bearer tokens of web servers, for `https`, by host.
    pub web_tokens: BTreeMap<String, Secret>,
    /// Keys that sign requests, for `s3`, by host of the endpoint, or under [`AWS`] for a source
    /// that names none. Signing shows no server the secret one, but it does show the session's
    /// token and a signature that is good for a while.
    pub s3_keys: BTreeMap<String, S3Keys>,
    /// Logins of registries, for `oci`, by host. The token server that a registry names sees its
    /// login too, wherever it is; one that is named by whom the registry leads to does not.
    pub registry_logins: BTreeMap<String, RegistryLogin>,
}

/// An access key of an object store, or a temporary one with its session's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Keys {
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    pub session_token: Option<Secret>,
}

/// A user of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLogin {
    pub user: Secret,
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_dump_shows_a_credential() {
        let secret = |n: u32| Secret::new(format!("hunter{n}"));
        let login = RegistryLogin { user: secret(1), password: secret(2) };
        let keys = S3Keys {
            access_key_id: secret(3),
            secret_access_key: secret(4),
            session_token: Some(secret(5)),
        };
        let credentials = Credentials {
            hub_token: Some(secret(6)),
            web_tokens: BTreeMap::from([("a.example".to_owned(), secret(7))]),
            s3_keys: BTreeMap::from([(AWS.to_owned(), keys)]),
            registry_logins: BTreeMap::from([("b.example:5000".to_owned(), login)]),
        };
        for dump in [format!("{credentials:?}"), format!("{credentials:#?}")] {
            assert!(!dump.contains("hunter"), "{dump}");
            assert!(dump.contains("b.example:5000"), "hosts are no secret: {dump}");
        }
    }
}
