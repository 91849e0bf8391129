//! The labels of the cluster's nodes, by which models choose where to be.
//!
//! Nothing is planned before all of them are known: a leader that starts anew would take a model
//! off a node because it has not yet heard of the label that put it there.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};

use crate::fleet::handle::{Command, Handle};

/// Follows every node for as long as this operator leads. Only metadata is asked for: a node's
/// status changes every few seconds and says nothing that is wanted here.
pub(crate) async fn run(client: Client, fleet: Handle) {
    let api = Api::<PartialObjectMeta<Node>>::all(client);
    let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut follower = Follower { fleet, has_listed: false, known: BTreeSet::new() };
    let mut anew = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => anew.clear(),
            Ok(Event::InitApply(node)) => {
                anew.insert(node.name_any());
                follower.label(&node).await;
            }
            Ok(Event::InitDone) => follower.listed(std::mem::take(&mut anew)).await,
            Ok(Event::Apply(node)) => follower.label(&node).await,
            Ok(Event::Delete(node)) => follower.forget(node.name_any()).await,
            Err(error) => follower.failed(&error),
        }
    }
}

/// Tells the fleet what is seen of nodes.
struct Follower {
    fleet: Handle,
    /// Whether every node has been told once.
    has_listed: bool,
    known: BTreeSet<String>,
}

impl Follower {
    async fn label(&mut self, node: &PartialObjectMeta<Node>) {
        let labels = Some(node.labels().clone());
        self.known.insert(node.name_any());
        self.fleet.tell(Command::Labels { node: node.name_any(), labels }).await;
    }

    async fn forget(&mut self, node: String) {
        self.known.remove(&node);
        self.fleet.tell(Command::Labels { node, labels: None }).await;
    }

    /// A list is whole, and `there` are the nodes in it. Of what was deleted while nobody watched
    /// no event tells.
    async fn listed(&mut self, there: BTreeSet<String>) {
        let gone: Vec<String> = self.known.difference(&there).cloned().collect();
        for node in gone {
            self.forget(node).await;
        }
        if !std::mem::replace(&mut self.has_listed, true) {
            self.fleet.tell(Command::Labelled).await;
        }
    }

    fn failed(&self, error: &watcher::Error) {
        let error = error as &dyn std::error::Error;
        if self.has_listed {
            tracing::warn!(error, "nodes not watched");
        } else {
            tracing::warn!(error, "nodes cannot be listed, and nothing is planned before they are");
        }
    }
}
