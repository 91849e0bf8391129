//! Where a command acts: a folder of manifests on this machine, or a cluster.
//!
//! A cluster is chosen by its flags alone. A kubeconfig that happens to be there chooses nothing,
//! so that no command reaches another place than the one that was meant.

use std::path::PathBuf;

use anyhow::bail;
use realm_crds::{Model, ObjectMeta, Pipeline, Secret, Tenant, tenant::ModelRef};

use crate::{
    args::{ClusterArgs, ListArgs, TargetArgs},
    cluster::{Cluster, Scope},
    home::Home,
    manifests::{self, Document, Found, Object, Reading},
};

pub(crate) enum Target {
    Machine(Folder),
    Cluster(Cluster),
}

/// The manifests of one machine, and the namespace that is meant in them.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) namespace: String,
}

impl Target {
    pub(crate) async fn open(home: &Home, args: &TargetArgs) -> anyhow::Result<Self> {
        let TargetArgs { manifests, namespace, cluster } = args;
        if is_cluster(cluster) {
            return Ok(Self::Cluster(Cluster::open(cluster, namespace.as_deref()).await?));
        }
        let path = match manifests {
            Some(folder) => folder.clone(),
            None => home.sample()?,
        };
        if !path.is_dir() {
            bail!(
                "there is no folder {}; start `realm serve` once, name one with --manifests, or a \
                 cluster with --cluster",
                path.display()
            );
        }
        let namespace = namespace.clone().unwrap_or_else(|| "default".to_owned());
        Ok(Self::Machine(Folder { path, namespace }))
    }
}

/// Whether a cluster has been chosen.
pub(crate) const fn is_cluster(args: &ClusterArgs) -> bool {
    let ClusterArgs { cluster, context, kubeconfig } = args;
    *cluster || context.is_some() || kubeconfig.is_some()
}

/// Which objects of a cluster a list is of.
pub(crate) fn scope(args: &ListArgs, cluster: &Cluster) -> Scope {
    if args.all_namespaces {
        return Scope::All;
    }
    Scope::Namespace(cluster.namespace().to_owned())
}

/// What of a folder's objects is listed: all, or those of one namespace.
pub(crate) fn is_listed(args: &ListArgs, document: &Document) -> bool {
    let namespace = args.target.namespace.as_deref();
    namespace.is_none_or(|namespace| document.id.1.namespace() == namespace)
}

impl Folder {
    pub(crate) fn read(&self) -> Reading {
        manifests::read(&self.path)
    }

    /// The name with its namespace, which is the one that is meant where it has none.
    pub(crate) fn full_name(&self, name: &str) -> String {
        if name.contains('/') { name.to_owned() } else { format!("{}/{name}", self.namespace) }
    }

    /// Whether `document` is of that name in the namespace that is meant, or of that full name.
    pub(crate) fn is_it(&self, document: &Document, name: &str) -> bool {
        document.id.1.to_string() == self.full_name(name)
    }
}

/// A kind of Realm's own, as manifests hold it.
pub(crate) trait Manifest: Sized {
    fn of(object: &Object) -> Option<&Self>;
}

impl Manifest for Tenant {
    fn of(object: &Object) -> Option<&Self> {
        match object {
            Object::Tenant(tenant) => Some(tenant),
            Object::Model(_) | Object::Pipeline(_) | Object::Secret(_) => None,
        }
    }
}

impl Manifest for Model {
    fn of(object: &Object) -> Option<&Self> {
        match object {
            Object::Model(model) => Some(model),
            Object::Tenant(_) | Object::Pipeline(_) | Object::Secret(_) => None,
        }
    }
}

impl Manifest for Pipeline {
    fn of(object: &Object) -> Option<&Self> {
        match object {
            Object::Pipeline(pipeline) => Some(pipeline),
            Object::Tenant(_) | Object::Model(_) | Object::Secret(_) => None,
        }
    }
}

impl Manifest for Secret {
    fn of(object: &Object) -> Option<&Self> {
        match object {
            Object::Secret(secret) => Some(secret),
            Object::Tenant(_) | Object::Model(_) | Object::Pipeline(_) => None,
        }
    }
}

/// The objects of a kind that can be read, each with its document.
pub(crate) fn objects<M: Manifest + 'static>(
    reading: &Reading,
) -> impl Iterator<Item = (&Document, &M)> {
    reading.found.iter().filter_map(|found| match found {
        Found::Whole(document) => Some((document, M::of(&document.object)?)),
        Found::Broken { .. } | Found::Unnamed(_) => None,
    })
}

/// A model as an object refers to it: with its namespace where that is another one.
pub(crate) fn referred(ModelRef { name, namespace }: &ModelRef) -> String {
    match namespace.as_str() {
        "" => name.clone(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// The full name of a model that an object of the namespace `own` refers to.
pub(crate) fn full_reference(own: &str, reference: &ModelRef) -> String {
    match reference.namespace.as_str() {
        "" => format!("{own}/{}", reference.name),
        _ => referred(reference),
    }
}

/// `namespace/name` of an object out of a cluster.
pub(crate) fn full_name(meta: &ObjectMeta) -> String {
    let [namespace, name] =
        [&meta.namespace, &meta.name].map(|text| text.as_deref().unwrap_or_default());
    format!("{namespace}/{name}")
}
