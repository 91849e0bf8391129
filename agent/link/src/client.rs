//! The agent's end of the link to its operator.
//!
//! For ever, and in order: `dial` finds an operator and believes it only by its certificate, the
//! `session` hears what to hold and puts it into the ledger, and slices of limits beside it, while
//! `outbound` tells what is held and used,
//! and when that has ended, `backoff` says how long to wait. Beside it, `config_maps` asks what the
//! operator alone may read. The agent goes on serving from its ledger whatever happens here. At its
//! own end it tells once more what was used.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    time::Duration,
};

use realm_core::{
    config_maps::Ask,
    report::{self, Report},
    slices::Spends,
    supply::{Credentials, Supply},
    uses::TenantUse,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use self::dial::Dialled;
use crate::{ledger::Ledger, slices::SliceStore};

mod address;
pub(crate) mod backoff;
mod config_maps;
pub(crate) mod dial;
mod enroll;
mod error;
mod outbound;
mod session;

pub use address::{AddressError, OperatorAddress};
pub use enroll::{Enrolled, enroll};
pub use error::LinkError;

/// A stream that lived this long was a good one: the waits start again at the shortest. Longer
/// than the time in which an operator finds out that a silent agent is gone, so that two agents
/// which throw each other out do so ever more seldom.
const LIVED_WELL: Duration = Duration::from_mins(1);

/// Who the operators are and how the agent proves itself.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Tried in turn; one of them leads.
    pub operators: Vec<OperatorAddress>,
    /// PEM of the authorities whose certificates are believed. Read at each connect.
    pub ca_file: PathBuf,
    /// The projected ServiceAccount token. Read at each connect.
    pub token_file: PathBuf,
    /// The Kubernetes node.
    pub node: String,
    pub agent_version: String,
    /// Another one at each start of the agent.
    pub boot_id: String,
}

/// What the agent tells.
#[derive(Clone, Debug)]
pub struct Feeds {
    pub report: watch::Receiver<Report>,
    pub supply: watch::Receiver<Supply>,
    /// What each tenant has used on this node.
    pub uses: watch::Receiver<Vec<TenantUse>>,
    /// Measured by the slices that are held.
    pub spends: watch::Receiver<Spends>,
}

/// What opens sources of artifacts, and what the agent may not read itself.
#[derive(Debug)]
pub struct Sources {
    pub credentials: watch::Sender<Credentials>,
    pub config_maps: mpsc::Receiver<Ask>,
}

/// How the link is, for metrics and readiness.
#[derive(Clone, Debug, Default)]
pub struct LinkState {
    /// `None` while no operator listens.
    pub connected: Option<Connected>,
    /// When an operator last said something; `None` before the first time.
    pub heard_at: Option<Instant>,
    /// Rounds over all operators since the last good stream.
    pub failures: u32,
    /// Why the last attempt failed or the last stream ended.
    pub last_error: Option<LastError>,
    /// How many there were of each reason.
    pub errors: BTreeMap<&'static str, u64>,
    /// The newest generation that the ledger took from the link.
    pub generation: u64,
    /// The epoch of the slices of limits that are held; 0 where none are leased.
    pub epoch: u64,
    /// Messages that were passed over, of a kind that this agent does not know.
    pub unknown: u64,
}

#[derive(Clone, Debug)]
pub struct Connected {
    pub operator: OperatorAddress,
    pub since: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// One of a closed list, fit for a metric's label.
    pub reason: &'static str,
    pub message: String,
}

/// Keeps the link until `ending`, and returns when the operator has heard once more what was used, or
/// none is there.
pub async fn run(
    options: LinkOptions,
    (ledger, slices): (Ledger, SliceStore),
    feeds: Feeds,
    sources: Sources,
    state: watch::Sender<LinkState>,
    ending: CancellationToken,
) {
    state.send_modify(|state| {
        state.generation = ledger.newest().generation;
        state.epoch = slices.held().map_or(0, |held| held.epoch);
    });
    let Sources { credentials, config_maps } = sources;
    let (operator, connected) = watch::channel(None);
    let token_file = options.token_file.clone();
    let link = Link { options, ledger, slices, feeds, credentials, operator, state, ending };
    tokio::select! {
        () = link.keep() => {}
        never = config_maps::answer(config_maps, connected, &token_file) => match never {},
    }
}

/// What every attempt uses.
struct Link {
    options: LinkOptions,
    ledger: Ledger,
    slices: SliceStore,
    feeds: Feeds,
    credentials: watch::Sender<Credentials>,
    /// The connection of the stream, for as long as there is one.
    operator: watch::Sender<Option<Dialled>>,
    state: watch::Sender<LinkState>,
    ending: CancellationToken,
}

impl Link {
    /// Tries for ever, up to the agent's end.
    async fn keep(&self) {
        let random = RandomState::new();
        let (mut failures, mut rounds) = (0_u32, 0_u64);
        while !self.ending.is_cancelled() {
            let lived = self.round().await;
            failures = if lived >= LIVED_WELL { 0 } else { failures.saturating_add(1) };
            rounds = rounds.wrapping_add(1);
            self.state.send_modify(|state| state.failures = failures);
            let wait = backoff::backoff(failures, random.hash_one(rounds));
            // Over at once where the agent ends.
            let _ = time::timeout(wait, self.ending.cancelled()).await;
        }
    }

    /// Tries every address of every operator once, up to one that has heard the agent's last word.
    /// Returns how long the longest stream lived.
    async fn round(&self) -> Duration {
        let mut lived = Duration::ZERO;
        for operator in &self.options.operators {
            let addresses = dial::resolve(operator).await.unwrap_or_else(|error| {
                self.note(operator, &error);
                Vec::new()
            });
            for address in addresses {
                let (stream_lived, has_heard) = self.attempt(operator, address).await;
                lived = lived.max(stream_lived);
                if has_heard {
                    return lived;
                }
            }
        }
        lived
    }

    /// Connects to one address and stays for as long as it goes well. Returns how long that was, and
    /// whether the operator has heard the agent's last word, upon which it closes the stream.
    async fn attempt(
        &self,
        operator: &OperatorAddress,
        address: std::net::SocketAddr,
    ) -> (Duration, bool) {
        let (lived, error) = match dial::dial(&self.options, operator, address).await {
            Ok(dialled) => self.session(operator, dialled).await,
            Err(error) => (Duration::ZERO, error),
        };
        let is_ending = self.ending.is_cancelled();
        if !is_ending {
            self.note(operator, &error);
        }
        (lived, is_ending && matches!(error, LinkError::Ended))
    }

    fn note(&self, operator: &OperatorAddress, error: &LinkError) {
        let (reason, message) = (error.reason(), report::chain(error));
        // A standby says so all the time, and that is as it should be.
        if let LinkError::NotLeading = error {
            tracing::debug!(%operator, reason, "no operator there");
        } else {
            tracing::warn!(%operator, reason, message, "no operator there");
        }
        self.state.send_modify(|state| {
            state.connected = None;
            let errors = state.errors.entry(reason).or_default();
            *errors = errors.saturating_add(1);
            state.last_error = Some(LastError { reason, message });
        });
    }
}
