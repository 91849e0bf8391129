//! One machine: an agent, and the state path that tells it what to hold.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use realm_agent::{Agent, AgentOptions, DeviceOptions};
use realm_core::report::Report;
use realm_link::{converge, readiness};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
    time::timeout,
};

use crate::{
    access::Access,
    home::Home,
    serve::state::{Notice, State},
};

/// Notices that may wait to be printed: one for each of several hundred manifests. What finds no
/// room is logged instead.
const NOTICES_BUFFERED_MAX: usize = 1024;

/// How long a folder may take to be read before the machine serves from its ledger without it: many
/// times what ten thousand manifests on a slow disk take, so that only a dead file system does.
const FIRST_READING_MAX: Duration = Duration::from_secs(10);

/// An agent that follows a folder of manifests. Dropping it stops both.
pub(crate) struct Machine {
    pub(crate) agent: Arc<Agent>,
    pub(crate) report: watch::Receiver<Report>,
    /// Whether everything that the first reading asked for has been tried.
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) notices: mpsc::Receiver<Notice>,
    _tasks: JoinSet<()>,
}

impl Machine {
    /// Reads `manifests` into the ledger in `ledger`, applies it, and follows both.
    ///
    /// The folder comes first, so that a key which it revoked while nothing ran never opens the
    /// door again; a folder that cannot be read leaves the ledger as it is.
    pub(crate) async fn start(
        home: &Home,
        manifests: PathBuf,
        ledger: &Path,
        device: DeviceOptions,
    ) -> anyhow::Result<Self> {
        let Access { store, credentials } = Access::of_environment();
        let options = AgentOptions {
            store_dir: home.store()?,
            compiled_dir: home.path()?.join("compiled"),
            compiled_key: home.path()?.join("compiled.key"),
            proven_dir: ledger.join("programs"),
            store,
            credentials,
            device,
        };
        let agent = Arc::new(Agent::new(options)?);
        let (mut state, warnings) =
            State::open(manifests, ledger).await.context("open the ledger of this machine")?;
        for warning in warnings {
            tracing::warn!(path = %warning.path.display(), cause = %warning.source, "ledger");
        }
        if state.subscribe().borrow().generation > 0 {
            // This door has been open before, and does not know what it had let in.
            agent.limiter().start_again(Instant::now());
        }
        let (report_sender, report) = watch::channel(Report::default());
        let (notice_sender, notices) = mpsc::channel(NOTICES_BUFFERED_MAX);
        let mut tell = move |notice| {
            // Nobody listens any more when the process is ending.
            if let Err(TrySendError::Full(notice)) = notice_sender.try_send(notice) {
                tracing::warn!(?notice, "a notice found no room");
            }
        };
        if timeout(FIRST_READING_MAX, state.turn(&mut tell)).await.is_err() {
            tracing::warn!("reading the manifests takes long; serving what the ledger holds");
        }
        let desired = state.subscribe();
        let generation = desired.borrow().generation;
        let (ready_sender, ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let wanted = desired.clone();
        tasks.spawn(readiness::follow(generation, wanted, report.clone(), ready_sender));
        let (doors, tried) = (agent.clone(), report.clone());
        tasks.spawn(async move { doors.know_all_keys(generation, tried).await });
        tasks.spawn(converge::run(agent.clone(), desired, report_sender));
        tasks.spawn(state.run(tell));
        Ok(Self { agent, report, ready, notices, _tasks: tasks })
    }
}
