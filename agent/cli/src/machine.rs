//! One machine: an agent, and the state path that tells it what to hold.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use realm_agent::{Agent, AgentOptions};
use realm_core::report::Report;
use realm_link::converge;
use realm_store::{Site, StoreOptions};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    home::Home,
    serve::state::{Notice, State},
};

/// Notices that may wait to be printed: one for each of several hundred manifests. What finds no
/// room is logged instead.
const NOTICES_BUFFERED_MAX: usize = 1024;

/// An agent that follows a folder of manifests. Dropping it stops both.
pub(crate) struct Machine {
    pub(crate) agent: Arc<Agent>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) notices: mpsc::Receiver<Notice>,
    _tasks: JoinSet<()>,
}

impl Machine {
    /// Applies the ledger in `ledger`, then follows `manifests`.
    pub(crate) async fn start(
        home: &Home,
        manifests: PathBuf,
        ledger: &Path,
        threads: Option<usize>,
    ) -> anyhow::Result<Self> {
        let options = AgentOptions {
            store_dir: home.store(),
            store: StoreOptions::new(Site::OneMachine),
            threads,
        };
        let agent = Arc::new(Agent::new(options)?);
        let (state, warnings) =
            State::open(manifests, ledger).await.context("open the ledger of this machine")?;
        for warning in warnings {
            tracing::warn!(path = %warning.path.display(), cause = %warning.source, "ledger");
        }
        let (report_sender, report) = watch::channel(Report::default());
        let (notice_sender, notices) = mpsc::channel(NOTICES_BUFFERED_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(converge::run(agent.clone(), state.subscribe(), report_sender));
        tasks.spawn(state.run(move |notice| {
            if let Err(error) = notice_sender.try_send(notice) {
                tracing::warn!(%error, "a notice found no room");
            }
        }));
        Ok(Self { agent, report, notices, _tasks: tasks })
    }
}
