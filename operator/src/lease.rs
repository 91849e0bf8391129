//! Who leads: one operator at a time, by a Lease in the API server.
//!
//! [`lead`] contends for the Lease ([`candidate`], pure), runs its work while it holds it, and drops
//! that work before anybody else may think the Lease is free. Timestamps of other machines are
//! never compared with ours: a Lease is over when it has not changed for its duration on our own
//! clock (client-go's `leaderelection` does the same).

mod candidate;
mod record;

use std::{convert::Infallible, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use self::{
    candidate::{Candidate, Step},
    record::Record,
};

/// How long a Lease holds without being renewed: client-go's default. A node that loses its
/// operator is without one for so long, and serves on.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long a leader tries to renew before it lets go, well before the Lease is over for others.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two tries, of leaders and of those who would be one.
const RETRY: Duration = Duration::from_secs(2);

/// Why the Lease could not be read or written.
#[derive(Debug, Error)]
pub enum LeaseError {
    #[error("read the Lease `{name}`")]
    Read {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("write the Lease `{name}`")]
    Write {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the Lease `{name}` has no resource version")]
    NoVersion { name: String },
    #[error("another operator holds the Lease `{name}`")]
    Taken { name: String },
    #[error("the API server did not answer within {} s", waited.as_secs())]
    TimedOut { waited: Duration },
}

/// One operator that would lead.
pub struct Contender {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// One time of leading: the generations that belong to it alone.
#[derive(Clone, Debug)]
pub struct Term {
    /// The first generation that no leader before this one can have given out.
    pub first_generation: u64,
    /// Doors that the leader before this one had shared limits out over, as far as it told the
    /// Lease, which is never more than a few seconds behind.
    pub doors: u32,
    /// Told by the work.
    pub given: Arc<watch::Sender<Given>>,
}

/// What a term has given out so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The newest generation. The Lease keeps a reserve above it, for the next leader to start
    /// beyond.
    pub generation: u64,
    /// Doors that limits are shared out over; 0 before the first plan.
    pub doors: u32,
}

/// A Lease that is ours.
struct Held {
    first_generation: u64,
    doors: u32,
}

impl Contender {
    /// An operator of that identity, unique among those that contend, such as its Pod's name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Leads again and again: waits for the Lease, runs `work` while it is held and drops it when it
    /// is lost, then waits anew. Ends with what a work ends with.
    pub async fn lead<W: Future>(
        &self,
        leading: &watch::Sender<bool>,
        mut work: impl FnMut(Term) -> W,
    ) -> W::Output {
        let mut candidate = Candidate::new(self.identity.clone(), LEASE_DURATION);
        loop {
            let term = self.acquire(&mut candidate).await;
            tracing::info!(first_generation = term.first_generation, "leading");
            leading.send_replace(true);
            let ended = tokio::select! {
                // A process that was stopped for longer than the Lease lets go before it does
                // anything else.
                biased;
                error = self.hold(&mut candidate, &term) => {
                    let Err(error) = error;
                    tracing::warn!(error = &error as &dyn std::error::Error, "leading no more");
                    None
                }
                output = work(term.clone()) => Some(output),
            };
            leading.send_replace(false);
            candidate.end_term();
            if let Some(output) = ended {
                return output;
            }
        }
    }

    /// Waits until the Lease is ours.
    async fn acquire(&self, candidate: &mut Candidate) -> Term {
        loop {
            match self.attempt(candidate, Given::default()).await {
                Ok(Some(Held { first_generation, doors })) => {
                    let generation = first_generation.saturating_sub(1);
                    let given = Arc::new(watch::Sender::new(Given { generation, doors: 0 }));
                    return Term { first_generation, doors, given };
                }
                Ok(None) => {}
                Err(error) if error.is_conflict() => {
                    tracing::debug!("another operator was faster");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no word of the Lease"
                    );
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Renews for as long as that goes well.
    async fn hold(&self, candidate: &mut Candidate, term: &Term) -> Result<Infallible, LeaseError> {
        let mut renewed_at = Instant::now();
        loop {
            sleep(RETRY).await;
            let deadline = renewed_at + RENEW_DEADLINE;
            let began = Instant::now();
            if began >= deadline {
                return Err(LeaseError::TimedOut { waited: RENEW_DEADLINE });
            }
            let given = *term.given.borrow();
            let error = match timeout_at(deadline, self.attempt(candidate, given)).await {
                // Others count from when the API server wrote it, which is not before this one
                // began to ask and may be long before it hears the answer.
                Ok(Ok(Some(_))) if Instant::now() < deadline => {
                    renewed_at = began;
                    continue;
                }
                Ok(Ok(None)) => return Err(LeaseError::Taken { name: self.name.clone() }),
                Ok(Err(error)) => error,
                Ok(Ok(Some(_))) | Err(_) => LeaseError::TimedOut { waited: RENEW_DEADLINE },
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(error = &error as &dyn std::error::Error, "renewing again");
        }
    }

    /// Reads the Lease and takes or renews it if that is ours to do.
    async fn attempt(
        &self,
        candidate: &mut Candidate,
        given: Given,
    ) -> Result<Option<Held>, LeaseError> {
        let found = self.read().await?;
        candidate.observe(found, Instant::now());
        let step = candidate.step(given, Timestamp::now(), Instant::now());
        let (record, first_generation) = match step {
            Step::Wait => return Ok(None),
            Step::Write { record, first_generation } => (record, first_generation),
        };
        let written = self.write(&record).await?;
        let doors = written.doors;
        candidate.observe(Some(written), Instant::now());
        Ok(Some(Held { first_generation, doors }))
    }

    async fn read(&self) -> Result<Option<Record>, LeaseError> {
        let lease = self.api.get_opt(&self.name).await;
        let lease = lease.map_err(|source| LeaseError::Read {
            name: self.name.clone(),
            source: Box::new(source),
        })?;
        Ok(lease.map(|lease| Record::of(&lease)))
    }

    async fn write(&self, record: &Record) -> Result<Record, LeaseError> {
        let lease = record.to_lease(&self.name);
        let params = PostParams::default();
        let written = match record.version {
            None => self.api.create(&params, &lease).await,
            Some(_) => self.api.replace(&self.name, &params, &lease).await,
        };
        let written = written.map_err(|source| LeaseError::Write {
            name: self.name.clone(),
            source: Box::new(source),
        })?;
        let record = Record::of(&written);
        if record.version.is_none() {
            return Err(LeaseError::NoVersion { name: self.name.clone() });
        }
        Ok(record)
    }

    /// Lets another operator lead at once, if this one does. To be called when the work has been
    /// dropped. A Lease that cannot be given back ends by itself.
    pub async fn resign(&self) {
        let give_back = async {
            let found = self.read().await?;
            match found.and_then(|record| record.released(&self.identity, Timestamp::now())) {
                Some(record) => self.write(&record).await.map(drop),
                None => Ok(()),
            }
        };
        if !matches!(tokio::time::timeout(RETRY, give_back).await, Ok(Ok(()))) {
            tracing::debug!("the Lease could not be given back and ends by itself");
        }
    }
}

impl LeaseError {
    /// Whether somebody else wrote the Lease first.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Write { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if status.code == 409)
            }
            Self::Read { .. }
            | Self::NoVersion { .. }
            | Self::Taken { .. }
            | Self::TimedOut { .. } => false,
        }
    }
}
