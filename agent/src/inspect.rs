//! What a model says of itself, read from the first bytes of its file: enough to place it by, long
//! before anybody fetches it.
//!
//! Nothing vouches for a part of a file, so that these facts carry no digest and decide nothing but
//! where the model goes; who loads it reads the verified file anew. A file that is here already is
//! read whole instead.

use realm_core::{
    desired::DesiredModel,
    report::{Failure, ModelFacts},
};
use realm_engine::Examined;
use realm_store::{Attempt, FetchError, Head, Owner, sources};
use tokio::task::spawn_blocking;

use crate::{
    Agent, devices,
    residents::{examine, panicked, unfetched, unloaded},
};

/// Bytes that are read first: the header of a model with a small vocabulary.
const HEAD_BYTES_MIN: usize = 1 << 20;

/// How many times more is read where that was not all, so that what is read in vain stays well
/// below what is of use.
const HEAD_BYTES_GROWTH: usize = 4;

/// Most bytes that are read for a header. The largest in use have two hundred thousand tokens and
/// twice as many merges, which is 12 MB; eight that are read at once have 256 MiB of these.
const HEAD_BYTES_MAX: usize = 32 << 20;

/// Why one source of a model told nothing.
enum Untold {
    /// It gave no bytes.
    Unread(Attempt),
    /// What it gave is no header of a model that runs here.
    Invalid(Failure),
}

impl Agent {
    /// Says what a model's file says, by the first of its sources that tells. Leaves nothing in the
    /// store.
    pub(crate) async fn inspect_model(&self, model: &DesiredModel) -> Result<ModelFacts, Failure> {
        if let Some(sha256) = model.artifact.sha256
            && let Ok(Some(stored)) = self.store.find(sha256).await
        {
            return examine(stored).await;
        }
        let owner = self.sources.of(model)?;
        let (mut unread, mut invalid) = (Vec::new(), None);
        for source in sources(&model.artifact).map_err(|error| unfetched(&error))? {
            match self.inspect_source(model, source, &owner).await {
                Ok(facts) => return Ok(facts),
                Err(Untold::Unread(attempt)) => unread.push(attempt),
                Err(Untold::Invalid(failure)) => drop(invalid.get_or_insert(failure)),
            }
        }
        // Wrong bytes say more than none.
        Err(invalid.unwrap_or_else(|| unfetched(&FetchError::EverySource(unread))))
    }

    /// Reads ever more of one source until its header is there.
    async fn inspect_source(
        &self,
        model: &DesiredModel,
        source: &str,
        owner: &Owner,
    ) -> Result<ModelFacts, Untold> {
        let mut wanted = HEAD_BYTES_MIN;
        loop {
            let named = (source, model.artifact.sha256);
            let Head { bytes, bytes_total } =
                self.store.head(named, owner, wanted).await.map_err(Untold::Unread)?;
            let examined = spawn_blocking(move || devices::examine_head(&bytes, bytes_total))
                .await
                .map_err(|panic| Untold::Invalid(panicked(&panic)))?
                .map_err(|error| Untold::Invalid(unloaded(&error)))?;
            let bytes_min = match examined {
                Examined::Facts(facts) => return Ok(facts),
                Examined::Part { bytes_min } => usize::try_from(bytes_min).unwrap_or(usize::MAX),
            };
            if wanted >= HEAD_BYTES_MAX || bytes_min > HEAD_BYTES_MAX {
                return Err(Untold::Invalid(too_long(bytes_min)));
            }
            wanted = wanted.saturating_mul(HEAD_BYTES_GROWTH).max(bytes_min).min(HEAD_BYTES_MAX);
        }
    }
}

fn too_long(bytes_min: usize) -> Failure {
    let message = format!(
        "the header of the file has {bytes_min} bytes or more, and {HEAD_BYTES_MAX} are the most"
    );
    Failure { reason: "HeaderTooLong", message }
}
