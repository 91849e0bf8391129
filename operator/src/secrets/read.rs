//! One Secret, read: what of it is kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::Api;
use realm_crds::Secret;
use realm_plan::{Name, Reason, validate};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::fleet::handle::Content;

/// Longest wait for one answer: a hundred times what a busy API server takes.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Longest content that opens the sources of a model: tokens, keys and logins take less than ten
/// thousand bytes, and those of 1,280 models on one node fit into one message of the link.
const OPENING_BYTES_MAX: usize = 64 << 10;

/// What a look at one Secret gave.
#[derive(Debug)]
pub(super) enum Read {
    Absent,
    Found(Found),
    Failed(ReadError),
}

/// A Secret that is there.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the object in the API server.
    pub(super) version: String,
    /// Of all its entries, with their names.
    pub(super) bytes: usize,
    pub(super) content: Content,
}

/// Why a Secret could not be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("the API server refuses to let Secrets be read")]
    Refused,
    #[error("read a Secret")]
    Read(#[source] Box<kube::Error>),
    #[error("the API server did not answer within {} s", READ_WAIT.as_secs())]
    TimedOut,
}

/// Looks at one Secret, once there is a place for its content.
pub(super) async fn read(api: Api<Secret>, name: Name, places: Arc<Semaphore>) -> Read {
    // The semaphore is never closed.
    let Ok(place) = places.acquire_owned().await else { return Read::Absent };
    match timeout(READ_WAIT, api.get_opt(name.name())).await {
        Ok(Ok(None)) => Read::Absent,
        Ok(Ok(Some(secret))) => found(&secret, place),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Read::Failed(ReadError::Refused),
        Ok(Err(error)) => Read::Failed(ReadError::Read(Box::new(error))),
        Err(_) => Read::Failed(ReadError::TimedOut),
    }
}

/// What is kept of a Secret.
fn found(secret: &Secret, place: OwnedSemaphorePermit) -> Read {
    let entries = secret.data.iter().flatten();
    let bytes = entries.map(|(entry, value)| entry.len().saturating_add(value.0.len()));
    let bytes = bytes.fold(0, usize::saturating_add);
    // It was asked for by its name, so it has one.
    let Ok(valid) = validate::secret(secret) else { return Read::Absent };
    let opening = if bytes <= OPENING_BYTES_MAX { opening(secret) } else { None };
    let valid = match &opening {
        Some(_) => valid,
        None => valid.opening_nothing(
            Reason::SecretTooLarge,
            format!("{bytes} bytes; {OPENING_BYTES_MAX} are the most that open a source"),
        ),
    };
    let version = secret.metadata.resource_version.clone().unwrap_or_default();
    Read::Found(Found { version, bytes, content: Content { secret: valid, opening, place } })
}

/// What opens sources, as agents read it: a JSON object of the entries that are text.
fn opening(secret: &Secret) -> Option<Vec<u8>> {
    let entries: BTreeMap<&str, &str> = secret
        .data
        .iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(&value.0).ok()?)))
        .collect();
    let bytes = serde_json::to_vec(&entries).ok()?;
    (bytes.len() <= OPENING_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    fn read_as_found(entries: &[(&str, &str)]) -> Found {
        let data: BTreeMap<String, String> = entries
            .iter()
            .map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text)))
            .collect();
        let secret = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "hub", "resourceVersion": "7" },
            "data": data,
        }));
        match found(&secret.unwrap(), place()) {
            Read::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_opens_sources_is_a_json_object_of_texts() {
        let found = read_as_found(&[("token", "t")]);
        assert_eq!((found.version.as_str(), found.bytes), ("7", 6));
        assert_eq!(found.content.opening.as_deref(), Some(&br#"{"token":"t"}"#[..]));
    }

    #[test]
    fn a_large_secret_holds_keys_and_opens_no_source() {
        let key = format!(r#"{{"sha256": "{}"}}"#, "a".repeat(64));
        let found = read_as_found(&[("key", &key), ("large", &"x".repeat(OPENING_BYTES_MAX))]);
        assert_eq!(found.content.opening, None);
        assert_eq!(found.content.secret.problems().len(), 1, "of `large`, which is no key");
    }
}
