//! The state path of one machine: manifests to plan to ledger, for as long as it serves.
//!
//! One task owns it all. Every turn reads the whole folder, takes what can be served
//! ([`wanted`]), plans for the one node, says the plan in the agent's words
//! ([`super::convert`]) and has the ledger accept it; whoever converges follows the ledger.
//! What was accepted is kept ([`kept`]), so that after a restart a broken manifest still has a
//! last good state.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use realm_core::{desired::Desired, name::NameError};
use realm_link::ledger::{Ledger, LedgerError, LedgerWarning};
use thiserror::Error;
use tokio::{sync::watch, task, time};

use super::convert;
use crate::manifests::{self, ManifestProblem, Reading, Watch};

mod kept;
mod wanted;

use wanted::Wanted;
pub(crate) use wanted::{Change, ChangeKind};

/// When to try again what the ledger could not write: soon after a person has made space.
const LEDGER_RETRY: Duration = Duration::from_secs(5);

/// What happened, each told once.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A manifest, or a part of one, is not served as it is written.
    Problem(ManifestProblem),
    /// A problem told before is no longer there.
    Solved(ManifestProblem),
    /// The folder has been read and this generation is what it asks for; told after the first
    /// reading and when the generation changes.
    Current { generation: u64 },
    /// What an object's manifest says now has been accepted.
    Accepted(Change),
    /// What the manifests ask for could not be accepted; what was accepted before goes on.
    NotAccepted(AcceptError),
    /// The manifests could not be kept for the next start.
    NotKept(io::Error),
    /// The system watches no folder, so this one is looked at every second.
    Unwatched(notify::Error),
}

/// Why a plan did not become the desired state.
#[derive(Debug, Error)]
pub(crate) enum AcceptError {
    #[error("the plan holds a name that no agent can have")]
    Name(#[source] NameError),
    #[error("the ledger did not accept the plan")]
    Ledger(#[source] LedgerError),
}

/// The manifests of one machine and what has become of them.
pub(crate) struct State {
    folder: PathBuf,
    ledger: Ledger,
    kept: PathBuf,
    wanted: Wanted,
    told: BTreeSet<ManifestProblem>,
    told_generation: Option<u64>,
    told_refusal: Option<String>,
    /// Changes that have not been told, for the ledger has not accepted them yet.
    untold: Vec<Change>,
    is_kept: bool,
    is_unclear: bool,
}

impl State {
    /// Opens what `dir` keeps of the manifests in `folder`: the ledger and their last good state.
    /// Nothing is read from `folder` yet, and [`Self::subscribe`] gives the ledger's state.
    pub(crate) async fn open(
        folder: PathBuf,
        dir: &Path,
    ) -> Result<(Self, Vec<LedgerWarning>), LedgerError> {
        let (ledger, warnings) = Ledger::open(dir).await?;
        let kept = dir.join("manifests.json");
        let documents = task::spawn_blocking({
            let kept = kept.clone();
            move || kept::load(&kept)
        });
        let documents = documents.await.unwrap_or_default();
        let wanted = Wanted::new(ledger.newest().generation.saturating_add(1), documents);
        let state = Self {
            folder,
            ledger,
            kept,
            wanted,
            told: BTreeSet::new(),
            told_generation: None,
            told_refusal: None,
            untold: Vec::new(),
            is_kept: true,
            is_unclear: true,
        };
        Ok((state, warnings))
    }

    /// What the ledger has accepted, for whoever converges.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.ledger.subscribe()
    }

    /// Follows the folder for ever. Dropping it stops it between two turns.
    pub(crate) async fn run(mut self, mut tell: impl FnMut(Notice) + Send) {
        let (mut watch, unwatched) = Watch::new(&self.folder);
        if let Some(error) = unwatched {
            tell(Notice::Unwatched(error));
        }
        loop {
            self.turn(&mut tell).await;
            let is_behind = self.told_refusal.is_some();
            tokio::select! {
                () = watch.changed() => {}
                () = time::sleep(LEDGER_RETRY), if is_behind => {}
            }
        }
    }

    /// Reads the folder once and has the ledger accept what it asks for. Dropped, it leaves the
    /// rest to the next turn.
    pub(crate) async fn turn(&mut self, tell: &mut (impl FnMut(Notice) + Send)) {
        let reading = self.read().await;
        self.take(reading, tell);
        // Kept first: whatever the ledger holds, the next start knows the manifests behind it.
        self.keep(tell).await;
        self.publish(tell).await;
    }

    async fn read(&self) -> Reading {
        let folder = self.folder.clone();
        let read = task::spawn_blocking(move || manifests::read(&folder)).await;
        read.unwrap_or_else(|lost| {
            // The process is ending, or a bug.
            if !lost.is_cancelled() {
                tracing::error!(error = %lost, "reading the manifests ended badly");
            }
            Reading { is_unclear: true, ..Reading::default() }
        })
    }

    fn take(&mut self, reading: Reading, tell: &mut impl FnMut(Notice)) {
        self.is_unclear = reading.is_unclear;
        let (problems, changes) = self.wanted.take(reading);
        self.is_kept &= changes.is_empty();
        self.untold.extend(changes);
        for solved in self.told.difference(&problems) {
            tell(Notice::Solved(solved.clone()));
        }
        for problem in problems.difference(&self.told) {
            tell(Notice::Problem(problem.clone()));
        }
        self.told = problems;
    }

    async fn publish(&mut self, tell: &mut impl FnMut(Notice)) {
        match self.accept().await {
            Ok(generation) => {
                self.told_refusal = None;
                let is_first = self.told_generation.is_none();
                if self.told_generation != Some(generation) {
                    self.told_generation = Some(generation);
                    tell(Notice::Current { generation });
                }
                for change in self.untold.drain(..) {
                    // At a start everything may be new, and each item tells of itself.
                    if !(is_first && change.kind == ChangeKind::Added) {
                        tell(Notice::Accepted(change));
                    }
                }
            }
            Err(error) => {
                let refusal = Some(error.to_string());
                if self.told_refusal != refusal {
                    self.told_refusal = refusal;
                    tell(Notice::NotAccepted(error));
                }
            }
        }
    }

    /// Has the ledger accept the plan, unless that is what it holds. Gives its generation.
    async fn accept(&self) -> Result<u64, AcceptError> {
        let newest = self.ledger.newest();
        // Of a folder that cannot be read nothing follows, least of all that it is empty.
        if self.is_unclear {
            return Ok(newest.generation);
        }
        let desired = convert::desired(self.wanted.desired()).map_err(AcceptError::Name)?;
        // After a restart the same plan comes with a new generation, which would say nothing new.
        if (Desired { generation: newest.generation, ..desired.clone() }) == *newest {
            return Ok(newest.generation);
        }
        let generation = desired.generation;
        self.ledger.accept(desired).await.map_err(AcceptError::Ledger)?;
        Ok(generation)
    }

    async fn keep(&mut self, tell: &mut impl FnMut(Notice)) {
        if self.is_kept {
            return;
        }
        let (path, documents) = (self.kept.clone(), kept::pack(self.wanted.documents()));
        match task::spawn_blocking(move || kept::save(&path, &documents)).await {
            Ok(Ok(())) => self.is_kept = true,
            Ok(Err(error)) => tell(Notice::NotKept(error)),
            Err(lost) => tell(Notice::NotKept(io::Error::other(lost))),
        }
    }
}

/// Everything that a server would find wrong with what a folder holds.
pub(crate) fn problems(reading: Reading) -> BTreeSet<ManifestProblem> {
    Wanted::new(1, Vec::new()).take(reading).0
}

#[cfg(test)]
mod tests;
