//! What opens the sources of artifacts: kept in memory, this machine's own or told by the operator
//! beside the state; and the operator's ConfigMaps, for programs.

use std::{collections::BTreeMap, sync::OnceLock};

use realm_core::{
    config_maps::ConfigMaps,
    credentials::{AWS, Credentials, RegistryLogin, S3Keys, Secret},
    desired::DesiredModel,
    name::TenantName,
    report::Failure,
    supply,
};
use realm_store::Owner;
use tokio::sync::watch;

/// What opens sources.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// What opens those of every artifact of one machine; nothing where several share a node.
    own: Credentials,
    /// The newest credentials, once there is somebody who tells them.
    told: OnceLock<watch::Receiver<supply::Credentials>>,
    /// Who reads ConfigMaps, once there is somebody.
    config_maps: OnceLock<ConfigMaps>,
}

impl Sources {
    pub(crate) const fn new(own: Credentials) -> Self {
        Self { own, told: OnceLock::new(), config_maps: OnceLock::new() }
    }

    /// Takes credentials from there, and has ConfigMaps read there. The first one who offers them is
    /// the only one.
    pub(crate) fn open(
        &self,
        credentials: watch::Receiver<supply::Credentials>,
        config_maps: ConfigMaps,
    ) {
        let _ = self.told.set(credentials);
        let _ = self.config_maps.set(config_maps);
    }

    /// Whose the program of `tenant` is.
    pub(crate) fn of_tenant(&self, tenant: &TenantName) -> Owner {
        let namespace = tenant.namespace().to_owned();
        let config_maps = self.config_maps.get().cloned();
        Owner { namespace, credentials: self.own.clone(), config_maps }
    }

    /// Whose `model` is, and what opens its sources.
    pub(crate) fn of(&self, model: &DesiredModel) -> Result<Owner, Failure> {
        let namespace = model.name.namespace().to_owned();
        Ok(Owner { namespace, credentials: self.credentials(model)?, config_maps: None })
    }

    fn credentials(&self, model: &DesiredModel) -> Result<Credentials, Failure> {
        let Some(told) = self.told.get() else { return Ok(self.own.clone()) };
        let told = told.borrow();
        let Some(bytes) = told.0.get(&model.name) else { return Ok(self.own.clone()) };
        let entries = serde_json::from_slice::<BTreeMap<String, String>>(bytes);
        // Never with what was read: it is a secret.
        let entries = entries.map_err(|_| Failure {
            reason: "CredentialsInvalid",
            message: "the source's Secret does not hold texts".to_owned(),
        })?;
        Ok(credentials(&entries, &model.artifact.sources))
    }
}

/// The hosts of the sources, each with its scheme.
fn hosts(sources: &[String]) -> Vec<(&str, &str)> {
    let host = |source: &'_ String| -> Option<(usize, usize, usize)> {
        let at = source.find("://")?;
        let begin = at.checked_add(3)?;
        let rest = source.get(begin..)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Some((at, begin, begin.checked_add(end)?))
    };
    let parts = |source| {
        let (at, begin, end) = host(source)?;
        Some((source.get(..at)?, source.get(begin..end)?))
    };
    sources.iter().filter_map(parts).collect()
}

/// The endpoints of the `s3` sources, as credentials name them.
fn endpoints(sources: &[String]) -> Vec<String> {
    let s3 = sources.iter().filter(|source| source.starts_with("s3://"));
    let endpoint = |source: &String| {
        let query = source.split_once('?').map_or("", |(_, query)| query);
        let named = query.split('&').find_map(|pair| pair.strip_prefix("endpoint="));
        let host = named.map(|url| url.split_once("://").map_or(url, |(_, host)| host));
        host.map_or_else(|| AWS.to_owned(), |host| host.trim_end_matches('/').to_owned())
    };
    s3.map(endpoint).collect()
}

/// The entries of a Secret by the names that Kubernetes users know: `token` for hubs and web
/// servers, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` for object stores,
/// `username` and `password` for registries.
fn credentials(entries: &BTreeMap<String, String>, sources: &[String]) -> Credentials {
    let (hosts, endpoints) = (hosts(sources), endpoints(sources));
    let secret = |name: &str| entries.get(name).map(|text| Secret::new(text.trim()));
    let of = |scheme: &'static str| {
        hosts.iter().filter(move |(known, _)| *known == scheme).map(|(_, host)| (*host).to_owned())
    };
    let token = secret("token");
    let keys = secret("AWS_ACCESS_KEY_ID").zip(secret("AWS_SECRET_ACCESS_KEY"));
    let login = secret("username").zip(secret("password"));
    Credentials {
        web_tokens: token
            .iter()
            .flat_map(|token| of("https").map(|h| (h, token.clone())))
            .collect(),
        hub_token: token,
        s3_keys: keys
            .map(|(access_key_id, secret_access_key)| S3Keys {
                access_key_id,
                secret_access_key,
                session_token: secret("AWS_SESSION_TOKEN"),
            })
            .iter()
            .flat_map(|keys| endpoints.iter().map(|endpoint| (endpoint.clone(), keys.clone())))
            .collect(),
        registry_logins: login
            .iter()
            .flat_map(|(user, password)| {
                of("oci").map(|host| {
                    (host, RegistryLogin { user: user.clone(), password: password.clone() })
                })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_the_hosts_of_its_own_models_sources() {
        let entries = [
            ("token", "t"),
            ("username", "u"),
            ("password", "p"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
        ];
        let entries = entries.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let sources = [
            "https://a.example/m",
            "oci://b.example:5000/c:d",
            "hf://o/r/f",
            "s3://bucket/k",
            "s3://bucket/k?region=r&endpoint=https://c.example:9000",
        ];
        let sources = sources.map(str::to_owned);
        let opened = credentials(&entries, &sources);
        assert_eq!(opened.web_tokens.keys().collect::<Vec<_>>(), ["a.example"]);
        assert_eq!(opened.registry_logins.keys().collect::<Vec<_>>(), ["b.example:5000"]);
        assert_eq!(opened.s3_keys.keys().collect::<Vec<_>>(), [AWS, "c.example:9000"]);
        assert!(opened.hub_token.is_some());
    }
}
