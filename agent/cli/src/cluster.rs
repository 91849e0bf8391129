//! A cluster: its API server, as the kubeconfig of a person gives it.
//!
//! [`config`] finds the way, [`error`] says in one sentence what went wrong, [`keys`] and [`names`]
//! say how Secrets and Tenants change (both pure), [`settle`] waits for the operator's word, and
//! [`overview`] says how the whole is.

mod config;
mod error;
pub(crate) mod keys;
pub(crate) mod overview;
pub(crate) mod settle;

use std::fmt::Debug;

use kube::{
    Api, Client, Resource,
    api::{ListParams, Patch, PatchParams, PostParams, Request},
};
use realm_crds::{Condition, Model, ObjectMeta, Pipeline, Tenant};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) use self::error::{ClusterError, Doing};
use crate::{args::ClusterArgs, conditions::Said};

/// Who writes, in the eyes of the API server: fields that others keep stay theirs.
pub(crate) const MANAGER: &str = "realm-cli";

/// Objects asked for at once: client-go's page.
const PAGE: u32 = 500;

/// Objects of one list: ten thousand are more than a person reads, and some tens of megabytes.
const LISTED_MAX: usize = 10_000;

/// Times a change is tried anew because the object changed under it: writers of one object are an
/// operator, a GitOps tool and a person or two, each of which writes a few times a second at most.
const CHANGES_TRIED_MAX: usize = 8;

/// A namespaced kind.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
{
}

/// A kind of Realm's own.
pub(crate) trait Served: Kind {
    /// What the operator has said of it.
    fn said(&self) -> Said<'_>;
}

fn said<'a>(meta: &ObjectMeta, status: Option<(&'a [Condition], Option<i64>)>) -> Said<'a> {
    let (conditions, observed) = status.unwrap_or((&[], None));
    Said { conditions, observed, generation: meta.generation }
}

impl Served for Tenant {
    fn said(&self) -> Said<'_> {
        let status = self.status.as_ref();
        said(&self.metadata, status.map(|s| (s.conditions.as_slice(), s.observed_generation)))
    }
}

impl Served for Model {
    fn said(&self) -> Said<'_> {
        let status = self.status.as_ref();
        said(&self.metadata, status.map(|s| (s.conditions.as_slice(), s.observed_generation)))
    }
}

impl Served for Pipeline {
    fn said(&self) -> Said<'_> {
        let status = self.status.as_ref();
        said(&self.metadata, status.map(|s| (s.conditions.as_slice(), s.observed_generation)))
    }
}

/// The objects of which a list is.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    Namespace(String),
    All,
}

/// The way to one cluster's API server.
pub(crate) struct Cluster {
    client: Client,
    /// The API server's address, for messages.
    url: String,
    namespace: String,
}

impl Cluster {
    /// Finds the cluster that `args` choose. Nothing is asked of it yet.
    pub(crate) async fn open(
        args: &ClusterArgs,
        namespace: Option<&str>,
    ) -> Result<Self, ClusterError> {
        let config = config::find(args).await?;
        let url = config.cluster_url.to_string();
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        let client = Client::try_from(config)
            .map_err(|source| ClusterError::Client { source: Box::new(source) })?;
        Ok(Self { client, url, namespace })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The namespace that a command without another means.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) async fn get<K: Kind>(&self, name: &str) -> Result<K, ClusterError> {
        let doing = self.doing::<K>("read", name);
        self.api::<K>().get(name).await.map_err(|error| ClusterError::of(error, doing))
    }

    /// As [`Self::get`], for what need not be there.
    pub(crate) async fn find<K: Kind>(&self, name: &str) -> Result<Option<K>, ClusterError> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(ClusterError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of a kind with the given labels, all of them unless there are too many to read.
    pub(crate) async fn list<K: Kind>(
        &self,
        scope: &Scope,
        labels: &str,
    ) -> Result<Vec<K>, ClusterError> {
        let (api, place): (Api<K>, _) = match scope {
            Scope::Namespace(namespace) => {
                (Api::namespaced(self.client.clone(), namespace), format!("of {namespace}"))
            }
            Scope::All => (Api::all(self.client.clone()), "of all namespaces".to_owned()),
        };
        let mut params = ListParams::default().limit(PAGE).labels(labels);
        let mut objects = Vec::new();
        loop {
            let doing = Doing {
                verb: "list",
                object: format!("{} {place}", K::plural(&())),
                url: self.url.clone(),
            };
            let page = api.list(&params).await.map_err(|error| ClusterError::of(error, doing))?;
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if objects.len() < LISTED_MAX => params = params.continue_token(&token),
                Some(_) => {
                    tracing::warn!(
                        "only the first {} {} are listed",
                        objects.len(),
                        K::plural(&())
                    );
                    return Ok(objects);
                }
                None => return Ok(objects),
            }
        }
    }

    /// Creates an object of nothing but what `manifest` says, so that the rest is nobody's.
    pub(crate) async fn create<K: Kind>(
        &self,
        name: &str,
        manifest: &Value,
    ) -> Result<K, ClusterError> {
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let request = Request::new(K::url_path(&(), Some(&self.namespace)))
            .create(&params, manifest.to_string().into_bytes())
            .map_err(|source| ClusterError::Client {
                source: Box::new(kube::Error::BuildRequest(source)),
            })?;
        let doing = self.doing::<K>("create", name);
        self.client.request(request).await.map_err(|error| ClusterError::of(error, doing))
    }

    /// Changes an object by the merge patch that `patch` makes of it as it is, and tries anew when
    /// somebody else was faster. Without a patch the object is right already.
    pub(crate) async fn change<K: Kind, E: From<ClusterError>>(
        &self,
        name: &str,
        mut patch: impl FnMut(&K) -> Result<Option<Value>, E>,
    ) -> Result<K, E> {
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        for _ in 0..CHANGES_TRIED_MAX {
            let object: K = self.get(name).await?;
            let Some(mut patch) = patch(&object)? else { return Ok(object) };
            merge_version(&mut patch, object.meta().resource_version.as_deref());
            match self.api::<K>().patch(name, &params, &Patch::Merge(&patch)).await {
                Ok(changed) => return Ok(changed),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    return Err(ClusterError::of(error, self.doing::<K>("change", name)).into());
                }
            }
        }
        let Doing { object, .. } = self.doing::<K>("change", name);
        Err(ClusterError::Conflict { object, tries: CHANGES_TRIED_MAX }.into())
    }

    fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn doing<K: Kind>(&self, verb: &'static str, name: &str) -> Doing {
        let object = format!("{} {}/{name}", K::kind(&()), self.namespace);
        Doing { verb, object, url: self.url.clone() }
    }
}

/// Has the API server take a patch only for the object that it was made of.
fn merge_version(patch: &mut Value, version: Option<&str>) {
    if let Value::Object(fields) = patch {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
    }
}

/// Who applies the field at `path` of an object and would set it back, by `managedFields`. Pure.
pub(crate) fn keepers(meta: &ObjectMeta, path: &[&str]) -> Vec<String> {
    let entries = meta.managed_fields.iter().flatten();
    let keeps = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let field = path.iter().fold(fields, |at, name| at?.get(format!("f:{name}")));
        entry.operation.as_deref() == Some("Apply") && field.is_some()
    });
    keeps.filter_map(|entry| entry.manager.clone()).filter(|manager| manager != MANAGER).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_for_the_object_it_was_made_of() {
        let mut patch = json!({"spec": {"suspended": true}});
        merge_version(&mut patch, Some("7"));
        assert_eq!(
            patch,
            json!({"spec": {"suspended": true}, "metadata": {"resourceVersion": "7"}})
        );
    }

    #[test]
    fn who_applies_a_field_keeps_it_and_who_updated_it_once_does_not() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsV1": fields});
        let spec = json!({"f:spec": {"f:suspended": {}}});
        let meta: ObjectMeta = serde_json::from_value(json!({"managedFields": [
            entry("argocd", "Apply", spec.clone()),
            entry("kubectl-edit", "Update", spec.clone()),
            entry("flux", "Apply", json!({"f:spec": {"f:weight": {}}})),
            entry(MANAGER, "Apply", spec),
        ]}))
        .unwrap();
        assert_eq!(keepers(&meta, &["spec", "suspended"]), ["argocd"]);
        assert_eq!(keepers(&meta, &["spec", "weight"]), ["flux"]);
        assert!(keepers(&ObjectMeta::default(), &["spec"]).is_empty());
    }
}
