//! The Secrets of the namespaces that this operator may read: keys of tenants, and what opens the
//! sources of models.
//!
//! Each namespace is watched by itself, under a Role of its own: one that cannot be read takes its
//! own tenants' keys away and holds up nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, future::join_all};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use realm_crds::Secret;
use realm_plan::{Demand, Kind, Name, validate};
use tokio::sync::Barrier;

use crate::fleet::handle::{Command, Handle};

/// Longest content of one Secret, as Kubernetes has it.
const SECRET_BYTES_MAX: usize = 1 << 20;

/// Refusals in a row before the first list after which a namespace is one that may not be read. An
/// API server that starts refuses everybody for a moment, before it knows any Role; with the pauses
/// between these it has had more than five seconds, and a wrong answer would shut every door of the
/// namespace.
const REFUSALS_MAX: u32 = 4;

/// Follows the Secrets of `namespaces` for as long as this operator leads.
pub(crate) async fn run(client: Client, namespaces: BTreeSet<String>, fleet: Handle) {
    // The last namespace whose first list is there, or was refused, says that all are known.
    let listed = Arc::new(Barrier::new(namespaces.len()));
    if namespaces.is_empty() {
        fleet.tell(Command::Synced(Kind::Secret)).await;
        return;
    }
    let watches = namespaces.into_iter().map(|namespace| {
        let api = Api::namespaced(client.clone(), &namespace);
        Watched {
            namespace,
            fleet: fleet.clone(),
            listed: listed.clone(),
            has_listed: false,
            refusals: 0,
        }
        .follow(api)
    });
    join_all(watches).await;
}

/// One namespace.
struct Watched {
    namespace: String,
    fleet: Handle,
    listed: Arc<Barrier>,
    has_listed: bool,
    refusals: u32,
}

impl Watched {
    async fn follow(mut self, api: Api<Secret>) {
        let mut events =
            watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        let (mut known, mut anew) = (BTreeSet::new(), BTreeSet::new());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => anew.clear(),
                Ok(Event::InitApply(secret)) => anew.extend(self.put(&secret).await),
                Ok(Event::InitDone) => {
                    for gone in known.difference(&anew) {
                        self.remove(Clone::clone(gone)).await;
                    }
                    known = std::mem::take(&mut anew);
                    self.listed().await;
                }
                Ok(Event::Apply(secret)) => known.extend(self.put(&secret).await),
                Ok(Event::Delete(secret)) => {
                    if let Ok(name) = Name::of(&secret.metadata) {
                        known.remove(&name);
                        self.remove(name).await;
                    }
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn put(&self, secret: &Secret) -> Option<Name> {
        // No tenant or model can refer to a Secret whose name is none.
        let valid = validate::secret(secret).ok()?;
        let name = valid.name().clone();
        let demand = Box::new(Demand::Secret(valid));
        if let Some(bytes) = content(secret) {
            self.fleet.tell(Command::Credentials { name: name.clone(), bytes }).await;
        }
        self.fleet.tell(Command::Apply { demand, generation: 0 }).await;
        Some(name)
    }

    async fn remove(&self, name: Name) {
        self.fleet.tell(Command::Remove { kind: Kind::Secret, name }).await;
    }

    async fn failed(&mut self, error: &watcher::Error) {
        let namespace = &self.namespace;
        if let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error
            && status.code == 403
        {
            self.refusals = self.refusals.saturating_add(1);
            if self.refusals < REFUSALS_MAX {
                tracing::debug!(namespace, "Secrets cannot be read yet");
                return;
            }
            tracing::warn!(namespace, "Secrets cannot be read; its tenants have no keys");
            self.listed().await;
            return;
        }
        tracing::warn!(namespace, error = error as &dyn std::error::Error, "Secrets not watched");
    }

    /// Says once that this namespace is known, and for the last of all that all are.
    async fn listed(&mut self) {
        if !std::mem::replace(&mut self.has_listed, true) && self.listed.wait().await.is_leader() {
            self.fleet.tell(Command::Synced(Kind::Secret)).await;
        }
    }
}

/// What a Secret holds, as agents read it: a JSON object of its entries that are text.
fn content(secret: &Secret) -> Option<Vec<u8>> {
    let entries: BTreeMap<&str, &str> = secret
        .data
        .iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(&value.0).ok()?)))
        .collect();
    let bytes = serde_json::to_vec(&entries).ok()?;
    (bytes.len() <= SECRET_BYTES_MAX).then_some(bytes)
}
