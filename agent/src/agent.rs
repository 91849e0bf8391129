//! What one agent is made of.

use std::{path::PathBuf, sync::Arc};

use realm_core::{
    auth::Roster, config_maps::ConfigMaps, credentials, limit::Limiter, report::Report,
    supply::Credentials,
};
use realm_gateway::{Metrics, MetricsError};
use realm_link::readiness;
use realm_runtime::{Kept, KeptError, Runtime, SandboxError};
use realm_store::{Store, StoreError, StoreOptions};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

use crate::{
    beside::Beside,
    devices::{Device, DeviceError, DeviceOptions},
    losses::Losses,
    metrics::{self, Engines},
    proven::Proven,
    residents::PROGRAMS_AT_ONCE,
    roster::Tenants,
    sources::Sources,
};

/// What an agent is told by whoever starts it.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Folder of model files and programs.
    pub store_dir: PathBuf,
    /// Folder of compiled programs, and the file with the key that they are sealed with: whoever
    /// may write there and read that runs code as this process.
    pub compiled_dir: PathBuf,
    pub compiled_key: PathBuf,
    /// Folder in which it is kept which programs have worked for the tenants that this agent is told
    /// of: as much theirs alone as what it is told.
    pub proven_dir: PathBuf,
    pub store: StoreOptions,
    /// What opens sources without anybody telling. Empty where several share a node.
    pub credentials: credentials::Credentials,
    pub device: DeviceOptions,
}

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("open the store of model files")]
    Store(#[source] StoreError),
    #[error("open the folder of compiled programs")]
    Kept(#[source] KeptError),
    #[error("start the sandbox for programs")]
    Sandbox(#[source] SandboxError),
    #[error("open the device that computes")]
    Device(#[source] DeviceError),
}

/// Everything that lives on one node.
pub struct Agent {
    pub(crate) store: Store,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) tenants: Tenants,
    pub(crate) engines: Engines,
    pub(crate) beside: Beside,
    pub(crate) device: Device,
    pub(crate) losses: Losses,
    pub(crate) sources: Sources,
    pub(crate) proven: Proven,
    /// Places of those who fetch a program.
    pub(crate) programs: Semaphore,
}

impl Agent {
    /// An agent that holds nothing yet. Touches the disk and the device: call it before serving.
    pub fn new(options: AgentOptions) -> Result<Self, AgentError> {
        let AgentOptions {
            store_dir,
            compiled_dir,
            compiled_key,
            proven_dir,
            store,
            credentials,
            device,
        } = options;
        let kept = Kept::open(&compiled_dir, &compiled_key).map_err(AgentError::Kept)?;
        Ok(Self {
            store: Store::open(&store_dir, store).map_err(AgentError::Store)?,
            runtime: Arc::new(Runtime::with_kept(kept).map_err(AgentError::Sandbox)?),
            tenants: Tenants::new(),
            engines: Engines::default(),
            beside: Beside::default(),
            device: Device::open(device).map_err(AgentError::Device)?,
            losses: Losses::new(),
            sources: Sources::new(credentials),
            proven: Proven::open(&proven_dir),
            programs: Semaphore::new(PROGRAMS_AT_ONCE),
        })
    }

    /// The tenants' programs: the port behind the doors.
    pub fn runtime(&self) -> Arc<Runtime> {
        self.runtime.clone()
    }

    /// Lets what arrives there open the sources of models, and programs come from the ConfigMaps
    /// that are read there.
    pub fn open_sources(&self, credentials: watch::Receiver<Credentials>, config_maps: ConfigMaps) {
        self.sources.open(credentials, config_maps);
    }

    /// The keys that open the doors.
    pub fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.tenants.subscribe()
    }

    /// Refuses unknown keys for good once every tenant of `generation` has been tried: until then
    /// doors say that the agent is starting, for a key that was good before it was restarted is
    /// good.
    pub async fn know_all_keys(&self, generation: u64, report: watch::Receiver<Report>) {
        if readiness::until_tenants_tried(generation, report).await {
            self.tenants.are_all();
            drop(self.proven.retain(|name| self.tenants.knows(name)));
        }
    }

    /// The limits at these doors.
    pub fn limiter(&self) -> Limiter {
        self.tenants.limiter()
    }

    /// Lets Prometheus see what this agent computes and for whom, and what it holds by `report`.
    pub fn register_metrics(
        &self,
        metrics: &Metrics,
        report: &watch::Receiver<Report>,
    ) -> Result<(), MetricsError> {
        metrics::register(self, metrics)?;
        metrics::register_node(report, metrics)
    }
}
