//! The ConfigMaps that programs come from: read when an agent asks for one, and kept nowhere.
//!
//! Agents have no way to the API server, and a megabyte for each program is too much for a state
//! that goes to every agent at each change. Nothing is watched: the digest says what is wanted, and
//! who does not get it asks again, later each time. What is read leaves this operator only if it has
//! that digest ([`entry`], pure), so that no other part of a ConfigMap does.
//!
//! One is read for each node at a time ([`turns`]), so that no node keeps others from theirs.

pub(crate) mod turns;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use realm_plan::desired::Sha256;
use realm_proto::link::CONFIG_MAP_BYTES_MAX;
use sha2::Digest as _;
use thiserror::Error;
use tokio::time::timeout;

use self::turns::{Turn, Turns};

/// Longest wait for a turn and, again, for one answer: a hundred times what a busy API server takes.
const READ_WAIT: Duration = Duration::from_secs(10);

/// The ConfigMaps that this operator may read. Clones share their turns.
#[derive(Clone)]
pub struct ConfigMaps {
    client: Client,
    /// Those that it is given to read in, as for Secrets.
    namespaces: Arc<BTreeSet<String>>,
    turns: Turns,
}

/// An entry that has the digest which was asked for, and the turn of the node that it is for, which
/// lasts while it is in memory.
pub(crate) struct Entry {
    pub(crate) bytes: Vec<u8>,
    pub(crate) turn: Turn,
}

/// The entry of a ConfigMap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) key: &'a str,
}

/// Why an entry was not read.
#[derive(Debug, Error)]
pub(crate) enum ConfigMapError {
    #[error(
        "the operator may not read ConfigMaps of namespace `{namespace}`: add it to the value \
         `tenantNamespaces` of the chart"
    )]
    Refused { namespace: String },
    #[error("namespace `{namespace}` has no ConfigMap `{name}`")]
    Absent { namespace: String, name: String },
    #[error("ConfigMap `{name}` has no entry `{key}` in its `binaryData`")]
    NoEntry { name: String, key: String },
    #[error(
        "ConfigMap `{name}` has `{key}` as a text in its `data`: a component is binary, and belongs \
         in its `binaryData`"
    )]
    Text { name: String, key: String },
    #[error(
        "entry `{key}` of ConfigMap `{name}` has {bytes} bytes; {CONFIG_MAP_BYTES_MAX} are the most"
    )]
    TooLarge { name: String, key: String, bytes: usize },
    // Not what it has: who may name it in a Tenant need not be one who may read it.
    #[error("entry `{key}` of ConfigMap `{name}` has another sha256 than {expected}")]
    OtherDigest { name: String, key: String, expected: Sha256 },
    #[error("read ConfigMap `{name}`")]
    Read {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server did not answer within {} s", READ_WAIT.as_secs())]
    TimedOut,
    #[error("the operator reads as many ConfigMaps as it may, one at a time for each node")]
    Busy,
}

impl ConfigMaps {
    pub fn new(client: Client, namespaces: BTreeSet<String>) -> Self {
        Self { client, namespaces: Arc::new(namespaces), turns: Turns::default() }
    }

    /// Reads one entry for a node, if it has this digest.
    pub(crate) async fn read(
        &self,
        node: &str,
        place: Place<'_>,
        sha256: Sha256,
    ) -> Result<Entry, ConfigMapError> {
        let Place { namespace, name, .. } = place;
        let refused = || ConfigMapError::Refused { namespace: namespace.to_owned() };
        if !self.namespaces.contains(namespace) {
            return Err(refused());
        }
        let turn = timeout(READ_WAIT, self.turns.take(node)).await;
        let Ok(Some(turn)) = turn else { return Err(ConfigMapError::Busy) };
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let found = match timeout(READ_WAIT, api.get_opt(name)).await {
            Ok(Ok(found)) => found,
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => return Err(refused()),
            Ok(Err(source)) => {
                let (name, source) = (name.to_owned(), Box::new(source));
                return Err(ConfigMapError::Read { name, source });
            }
            Err(_) => return Err(ConfigMapError::TimedOut),
        };
        let bytes = entry(found, place, sha256)?;
        Ok(Entry { bytes, turn })
    }
}

/// What the entry holds, if it has this digest.
fn entry(
    found: Option<ConfigMap>,
    Place { namespace, name, key }: Place<'_>,
    expected: Sha256,
) -> Result<Vec<u8>, ConfigMapError> {
    let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
    let Some(found) = found else { return Err(ConfigMapError::Absent { namespace, name }) };
    let ConfigMap { binary_data, data, .. } = found;
    let Some(bytes) = binary_data.unwrap_or_default().remove(&key) else {
        let is_text = data.is_some_and(|data| data.contains_key(&key));
        return Err(if is_text {
            ConfigMapError::Text { name, key }
        } else {
            ConfigMapError::NoEntry { name, key }
        });
    };
    let bytes = bytes.0;
    if bytes.len() > CONFIG_MAP_BYTES_MAX {
        return Err(ConfigMapError::TooLarge { name, key, bytes: bytes.len() });
    }
    let found = Sha256(sha2::Sha256::digest(&bytes).into());
    if found != expected {
        return Err(ConfigMapError::OtherDigest { name, key, expected });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt as _;
    use hyper::{Request, Response};
    use k8s_openapi::ByteString;
    use kube::client::{Body, ClientBuilder};
    use tower::BoxError;

    use super::*;

    const PLACE: Place<'_> = Place { namespace: "acme", name: "programs", key: "a.wasm" };

    fn digest(bytes: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    fn holding(key: &str, bytes: &[u8]) -> ConfigMap {
        let binary_data = BTreeMap::from([(key.to_owned(), ByteString(bytes.to_vec()))]);
        ConfigMap { binary_data: Some(binary_data), ..ConfigMap::default() }
    }

    #[test]
    fn an_entry_is_what_its_digest_says_or_nothing_of_it_is_given() {
        let config_map = holding("a.wasm", b"component");
        let read = entry(Some(config_map.clone()), PLACE, digest(b"component")).unwrap();
        assert_eq!(read, b"component");
        let error = entry(Some(config_map), PLACE, digest(b"else")).unwrap_err();
        let ConfigMapError::OtherDigest { expected, .. } = &error else { panic!("{error}") };
        assert_eq!(*expected, digest(b"else"));
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        let any = digest(b"component");
        let absent = entry(None, PLACE, any).unwrap_err();
        assert!(matches!(absent, ConfigMapError::Absent { .. }), "{absent}");
        let other = entry(Some(holding("b.wasm", b"component")), PLACE, any).unwrap_err();
        assert!(matches!(other, ConfigMapError::NoEntry { .. }), "{other}");
        let data = BTreeMap::from([("a.wasm".to_owned(), "component".to_owned())]);
        let text = ConfigMap { data: Some(data), ..ConfigMap::default() };
        let text = entry(Some(text), PLACE, any).unwrap_err();
        assert!(matches!(text, ConfigMapError::Text { .. }), "{text}");
        assert!(text.to_string().contains("belongs in its `binaryData`"), "{text}");
    }

    #[test]
    fn an_entry_is_no_larger_than_a_config_map_can_be() {
        let most = vec![7; CONFIG_MAP_BYTES_MAX];
        entry(Some(holding("a.wasm", &most)), PLACE, digest(&most)).unwrap();
        let more = vec![7; CONFIG_MAP_BYTES_MAX + 1];
        let error = entry(Some(holding("a.wasm", &more)), PLACE, digest(&more)).unwrap_err();
        assert!(matches!(error, ConfigMapError::TooLarge { .. }), "{error}");
    }

    /// ConfigMaps of an API server that has [`PLACE`] and never answers when asked for another.
    fn stalling(bytes: &'static [u8]) -> ConfigMaps {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            if !request.uri().path().ends_with(PLACE.name) {
                std::future::pending::<()>().await;
            }
            let body = serde_json::to_vec(&holding(PLACE.key, bytes)).map_err(BoxError::from)?;
            Response::builder().body(Body::from(body)).map_err(BoxError::from)
        });
        let client = ClientBuilder::new(service, "realm").build();
        ConfigMaps::new(client, BTreeSet::from([PLACE.namespace.to_owned()]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_asks_for_much_at_once_keeps_no_other_from_its_entry() {
        let (config_maps, sha256) = (stalling(b"component"), digest(b"component"));
        let stalled = Place { name: "stalled", ..PLACE };
        let mut greedy: Vec<_> =
            (0..9).map(|_| Box::pin(config_maps.read("greedy", stalled, sha256))).collect();
        assert!(greedy.iter_mut().all(|read| read.now_or_never().is_none()));
        let read = config_maps.read("modest", PLACE, sha256).await.unwrap();
        assert_eq!(read.bytes, b"component");
        let answers = futures_util::future::join_all(greedy).await;
        let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 9);
        let has_waited = |error: &ConfigMapError| matches!(error, ConfigMapError::Busy);
        assert!(errors.iter().any(has_waited), "its others have waited for its first");
        let has_asked = |error: &ConfigMapError| matches!(error, ConfigMapError::TimedOut);
        assert!(errors.iter().any(has_asked), "{errors:?}");
    }
}
