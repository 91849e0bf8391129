//! The authority's home: a Secret with its keys, and a ConfigMap with what agents should trust.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use thiserror::Error;
use tokio::{sync::watch, time::sleep};

use crate::{
    link::authority::{Authority, AuthorityError, AuthorityPem},
    status::apply::MANAGER,
};

/// The Secret and the ConfigMap.
const NAME: &str = "realm-link";

const CERTIFICATES: &str = "ca.crt";
const KEYS: &str = "ca.key";

/// How often the authority is looked at: many times within the hour that a new one settles.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// The wait after the API server did not answer.
const RETRY: Duration = Duration::from_secs(5);

/// Why there is no authority.
#[derive(Debug, Error)]
pub(crate) enum TrustError {
    #[error("read the Secret `{NAME}`")]
    Read(#[source] Box<kube::Error>),
    #[error("write the Secret `{NAME}`")]
    Write(#[source] Box<kube::Error>),
    #[error("write the ConfigMap `{NAME}`")]
    Publish(#[source] Box<kube::Error>),
    #[error("the Secret `{NAME}` holds no authority")]
    Invalid(#[source] AuthorityError),
    #[error("make an authority")]
    Make(#[source] AuthorityError),
}

/// Keeps the authority of one installation. Only a leader does.
pub(crate) struct Trust {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
}

impl Trust {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }

    /// The authority that is kept, or a new one, which then is.
    pub(crate) async fn open(&self, now: SystemTime) -> Result<Authority, TrustError> {
        let kept = self.secrets.get_opt(NAME).await.map_err(|e| TrustError::Read(Box::new(e)))?;
        let authority = if let Some(secret) = kept {
            read(&secret)?
        } else {
            let authority = Authority::create(now).map_err(TrustError::Make)?;
            self.create(&authority).await?;
            authority
        };
        self.publish(&authority).await?;
        Ok(authority)
    }

    /// Brings the authority on for as long as this operator leads.
    pub(crate) async fn follow(&self, authority: &watch::Sender<Arc<Authority>>) {
        loop {
            let current = authority.borrow().clone();
            let wait = match self.advance(&current, SystemTime::now()).await {
                Ok(None) => LOOK_EVERY,
                Ok(Some(next)) => {
                    tracing::info!("the authority of the link has changed");
                    authority.send_replace(Arc::new(next));
                    LOOK_EVERY
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the authority of the link stays as it is");
                    RETRY
                }
            };
            sleep(wait).await;
        }
    }

    /// Keeps the next authority before anybody sees it, or takes up the one that is kept, if that
    /// is another than `current`. What is to be trusted is published at each look: a write of a
    /// leader that has ended may come late.
    async fn advance(
        &self,
        current: &Authority,
        now: SystemTime,
    ) -> Result<Option<Authority>, TrustError> {
        let kept = self.secrets.get_opt(NAME).await.map_err(|e| TrustError::Read(Box::new(e)))?;
        let Some(kept) = kept else {
            // Somebody deleted it: with another authority nobody would believe anybody.
            self.create(current).await?;
            return Ok(None);
        };
        let found = read(&kept)?;
        let next = match found.advanced(now).map_err(TrustError::Make)? {
            Some(next) => {
                self.keep(&next, kept.metadata.resource_version).await?;
                next
            }
            None => found,
        };
        self.publish(&next).await?;
        Ok((next.bundle() != current.bundle()).then_some(next))
    }

    /// Made, not applied: of two that find none, one makes it.
    async fn create(&self, authority: &Authority) -> Result<(), TrustError> {
        let created = self.secrets.create(&PostParams::default(), &secret_of(authority)).await;
        created.map(drop).map_err(|error| TrustError::Write(Box::new(error)))
    }

    /// Writes the authority over the version of the Secret that it was made from, and over no
    /// other: a write that comes late does not take back what was kept meanwhile.
    async fn keep(&self, next: &Authority, version: Option<String>) -> Result<(), TrustError> {
        let patch = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": NAME, "resourceVersion": version },
            "data": secret_of(next).data,
        }));
        let params = PatchParams::apply(MANAGER).force();
        let written = self.secrets.patch(NAME, &params, &patch).await;
        written.map(drop).map_err(|error| TrustError::Write(Box::new(error)))
    }

    async fn publish(&self, authority: &Authority) -> Result<(), TrustError> {
        let patch = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": NAME },
            "data": { CERTIFICATES: authority.bundle() },
        }));
        let params = PatchParams::apply(MANAGER).force();
        let written = self.config_maps.patch(NAME, &params, &patch).await;
        written.map(drop).map_err(|error| TrustError::Publish(Box::new(error)))
    }
}

fn read(secret: &Secret) -> Result<Authority, TrustError> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    let pem = AuthorityPem { certificates: text(CERTIFICATES), keys: text(KEYS) };
    Authority::from_pem(&pem).map_err(TrustError::Invalid)
}

fn secret_of(authority: &Authority) -> Secret {
    let AuthorityPem { certificates, keys } = authority.to_pem();
    let data = [(CERTIFICATES, certificates), (KEYS, keys)];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests;
