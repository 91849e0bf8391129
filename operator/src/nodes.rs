//! The labels of the cluster's nodes, by which models choose where to be.

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
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(node) | Event::InitApply(node)) => {
                let labels = Some(node.labels().clone());
                fleet.tell(Command::Labels { node: node.name_any(), labels }).await;
            }
            Ok(Event::Delete(node)) => {
                fleet.tell(Command::Labels { node: node.name_any(), labels: None }).await;
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "nodes not watched");
            }
        }
    }
}
