//! What a model says of itself, read from the first bytes of its file: enough to place it by, long
//! before anybody fetches it.
//!
//! Nothing vouches for a part of a file, so that these facts carry no digest and decide nothing but
//! where the model goes; who loads it reads the verified file anew. A file that is here already is
//! read whole instead.

use realm_core::{
    desired::{Artifact, DesiredModel, Sha256},
    report::{Failure, ModelFacts},
    split,
};
use realm_engine::gguf::{Gguf, Head};
use realm_store::{Attempt, FetchError, Owner, sources};
use tokio::task::spawn_blocking;

use crate::{
    Agent,
    devices::{self, Use},
    residents::{examine, panicked, unfetched, unloaded},
};

/// Bytes that are read first: the header of a model with a small vocabulary.
const HEAD_BYTES_MIN: usize = 1 << 20;

/// Bytes that are read first of a part behind the first, which lists its own tensors alone: a few
/// hundred, of less than a hundred bytes each.
const PART_HEAD_BYTES_MIN: usize = 64 << 10;

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
        if let Ok(Some(stored)) = self.store.find(&model.artifact).await {
            return examine(stored, Use::of(model)).await;
        }
        let owner = self.sources.of(model)?;
        sources(&model.artifact).map_err(|error| unfetched(&error))?;
        let parts = split::parts(&model.artifact);
        let parts = parts.map_err(|error| unfetched(&FetchError::Parts(error)))?;
        let mut heads = Vec::new();
        for part in &parts {
            // Only the first has the metadata.
            let wanted = if heads.is_empty() { HEAD_BYTES_MIN } else { PART_HEAD_BYTES_MIN };
            heads.push(self.inspect_part(part, wanted, &owner).await?);
        }
        let of = Use::of(model);
        spawn_blocking(move || devices::examine_heads(heads, of))
            .await
            .map_err(|panic| panicked(&panic))?
            .map_err(|error| unloaded(&error))
    }

    /// The header of a file, or of one part of it, by the first source that has one.
    async fn inspect_part(
        &self,
        part: &Artifact,
        wanted: usize,
        owner: &Owner,
    ) -> Result<Gguf, Failure> {
        let (mut unread, mut invalid) = (Vec::new(), None);
        for source in &part.sources {
            match self.inspect_source((source, part.sha256), wanted, owner).await {
                Ok(head) => return Ok(head),
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
        named: (&str, Option<Sha256>),
        mut wanted: usize,
        owner: &Owner,
    ) -> Result<Gguf, Untold> {
        loop {
            let head = self.store.head(named, owner, wanted).await.map_err(Untold::Unread)?;
            let parsed = spawn_blocking(move || devices::parse_head(&head.bytes, head.bytes_total))
                .await
                .map_err(|panic| Untold::Invalid(panicked(&panic)))?
                .map_err(|error| Untold::Invalid(unloaded(&error)))?;
            let bytes_min = match parsed {
                Head::Whole(gguf) => return Ok(gguf),
                Head::Part { bytes_min } => usize::try_from(bytes_min).unwrap_or(usize::MAX),
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
