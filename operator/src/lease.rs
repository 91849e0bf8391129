//! Who leads: one operator at a time, by a Lease in the API server.
//!
//! [`Contender::lead`] contends for the Lease ([`candidate`], pure), runs its work while it holds it,
//! and drops that work before anybody else may think the Lease is free ([`term`]). A process that
//! was stopped cannot drop anything in time, so whatever the work writes or says asks [`leading`]
//! for the time as well, [`guard`] for all that goes to the API server. Timestamps of other machines
//! are never compared with ours: a Lease is over when it has not changed for its duration on our own
//! clock (client-go's `leaderelection` does the same).

mod candidate;
pub(crate) mod guard;
pub mod leading;
mod record;
mod term;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};

use self::{
    candidate::{Candidate, Step},
    leading::Lead,
    record::Record,
    term::Won,
};

/// How long a Lease holds without being renewed: client-go's default. A node that loses its
/// operator is without one for so long, and serves on.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long a leader leads by one answer before it lets go, counted from when it began to ask: well
/// before the Lease is over for others. No try for the Lease is waited for longer.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// From the beginning of one try to that of the next, of leaders and of those who would be one.
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
    #[error("another operator holds the Lease")]
    Taken,
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
    /// The newest generation, or epoch of slices of limits. The Lease keeps a reserve above it, for
    /// the next leader to start beyond.
    pub generation: u64,
    /// Doors that limits are shared out over; 0 before the first plan.
    pub doors: u32,
}

/// A Lease that is ours.
#[derive(Debug)]
struct Held {
    first_generation: u64,
    doors: u32,
}

impl Term {
    fn new(held: &Held) -> Self {
        let Held { first_generation, doors } = *held;
        let generation = first_generation.saturating_sub(1);
        let given = Arc::new(watch::Sender::new(Given { generation, doors: 0 }));
        Self { first_generation, doors, given }
    }
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
    pub async fn lead<W: Future>(&self, lead: &Lead, mut work: impl FnMut(Term) -> W) -> W::Output {
        let mut candidate = Candidate::new(self.identity.clone(), LEASE_DURATION);
        loop {
            let Won { held, began } =
                term::win(async || self.attempt(&mut candidate, Given::default()).await).await;
            let term = Term::new(&held);
            tracing::info!(first_generation = term.first_generation, "leading");
            let renew = async || {
                let given = *term.given.borrow();
                self.attempt(&mut candidate, given).await
            };
            let ended = tokio::select! {
                // The Lease is looked at before the work goes on.
                biased;
                error = term::keep(began, lead, renew) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "leading no more");
                    None
                }
                output = work(term.clone()) => Some(output),
            };
            lead.end();
            candidate.end_term();
            if let Some(output) = ended {
                return output;
            }
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
            Self::Read { .. } | Self::NoVersion { .. } | Self::Taken | Self::TimedOut { .. } => {
                false
            }
        }
    }
}
