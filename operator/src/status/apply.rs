//! Writes statuses, finalizers and events: server-side apply under one field manager, only what
//! changed.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, Recorder},
};
use realm_crds::{GROUP, VERSION};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;

/// Who writes, in the eyes of server-side apply.
pub(crate) const MANAGER: &str = "realm-operator";

/// Owns the finalizers alone, so that giving them up takes no other field away.
const FINALIZER_MANAGER: &str = "realm-operator-finalizer";

/// Keeps an object until the agents have let go of it.
pub(crate) const FINALIZER: &str = "realm.dev/agents";

/// Why the API server did not take something.
#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    #[error("write the status of {object}")]
    Status {
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("write the finalizer of {object}")]
    Finalizer {
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// A kind whose status is written here.
pub(crate) trait Kinded:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    type Status: Serialize + Clone + Default + PartialEq + Send + Sync;

    fn status(&self) -> Option<&Self::Status>;

    fn conditions(status: &Self::Status) -> &[Condition];

    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition>;
}

/// Writes `status`. Gives the object that it made, if it is still there.
pub(crate) async fn status<K: Kinded>(
    client: &Client,
    object: &K,
    status: &K::Status,
) -> Result<Option<K>, ApplyError> {
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": K::kind(&()),
        // With the uid, so that another object of the name is told nothing of this one.
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    let written =
        api(client, object).patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await;
    match written {
        Ok(written) => Ok(Some(written)),
        // Deleted meanwhile: nobody is left to be told.
        Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(None),
        Err(source) => {
            Err(ApplyError::Status { object: described(object), source: Box::new(source) })
        }
    }
}

/// The version of an object, where it is a number. Of two versions the larger is the later one.
pub(crate) fn version<K: Kinded>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

/// Keeps the object from going before the agents have let go of it, or no longer.
pub(crate) async fn finalizer<K: Kinded>(
    client: &Client,
    object: &K,
    is_wanted: bool,
) -> Result<(), ApplyError> {
    let has = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if has == is_wanted {
        return Ok(());
    }
    let finalizers: &[&str] = if is_wanted { &[FINALIZER] } else { &[] };
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": K::kind(&()),
        // With the uid, so that an object which is gone is not made anew.
        "metadata": { "name": object.name_any(), "uid": object.uid(), "finalizers": finalizers },
    });
    let params = PatchParams::apply(FINALIZER_MANAGER).force();
    match api(client, object).patch(&object.name_any(), &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
        Err(source) => {
            Err(ApplyError::Finalizer { object: described(object), source: Box::new(source) })
        }
    }
}

/// Publishes an event. One that is not taken is lost: the condition says the same.
pub(crate) async fn event<K: Kinded>(recorder: &Recorder, object: &K, event: &Event) {
    if let Err(error) = recorder.publish(event, &object.object_ref(&())).await {
        tracing::debug!(%error, object = described(object), "an event was not taken");
    }
}

fn api<K: Kinded>(client: &Client, object: &K) -> Api<K> {
    let namespace = object.namespace().unwrap_or_default();
    Api::namespaced(client.clone(), &namespace)
}

fn described<K: Kinded>(object: &K) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{} {namespace}/{}", K::kind(&()), object.name_any())
}
