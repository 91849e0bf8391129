//! What every reconcile of one term shares.

use std::collections::BTreeSet;

use kube::{Client, runtime::events::Recorder};

use crate::{fleet::handle::Handle, metrics::Metrics, throttle::Throttle};

pub(crate) struct Context {
    pub client: Client,
    pub fleet: Handle,
    pub recorder: Recorder,
    pub throttle: Throttle,
    pub metrics: Metrics,
    /// Namespaces whose Secrets this operator may read.
    pub secret_namespaces: BTreeSet<String>,
    /// Label selector of the agents' Pods, for the scale subresource.
    pub agent_selector: String,
}
