//! What every reconcile of one term shares.

use kube::{Client, runtime::events::Recorder};

use crate::{
    fleet::handle::Handle, metrics::Metrics, retries::Retries, throttle::Throttle,
    warnings::Warnings,
};

pub(crate) struct Context {
    pub client: Client,
    pub fleet: Handle,
    pub recorder: Recorder,
    pub throttle: Throttle,
    pub warnings: Warnings,
    pub retries: Retries,
    pub metrics: Metrics,
    /// Label selector of the agents' Pods, for the scale subresource.
    pub agent_selector: String,
}
