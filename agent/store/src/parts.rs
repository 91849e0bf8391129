//! A file in several parts: each is an artifact of its own, fetched one after the other.
//!
//! What one mirror gave says which mirror is asked first for the next part, so that one that is gone
//! costs its patience once and not with every part.

use realm_core::{
    desired::{Artifact, Sha256},
    split,
};

use crate::{
    cache::Cache,
    disk,
    error::{Attempt, FetchError, SourceError, StoreError},
    fetch::{self, Fetch, Fetched},
    file::Files,
    options::StoreOptions,
    source,
    store::{Owner, Progress, ProgressFn, Stored},
};

/// Brings all parts of `artifact` here, or the one file that it is.
pub(crate) async fn fetch(
    (cache, files): (&Cache, &Files),
    options: &StoreOptions,
    artifact: &Artifact,
    owner: &Owner,
    progress: ProgressFn<'_>,
) -> Result<Stored, FetchError> {
    let parts = split::parts(artifact).map_err(FetchError::Parts)?;
    if let [whole] = parts.as_slice() {
        let fetched = Fetch::new((cache, files), options, whole, owner, progress).run(0).await?;
        return Ok(fetched.stored);
    }
    let (sizes, mut mirror) = sizes(cache, &parts, owner, options).await;
    check_size(artifact, &sizes, options.bytes_max)?;
    let mut all = Vec::new();
    let mut bytes_done = 0_u64;
    for (at, part) in parts.iter().enumerate() {
        let mut options = options.clone();
        options.bytes_max = options.bytes_max.saturating_sub(bytes_done);
        let sum = Sum { bytes_done, sizes: &sizes, at };
        let tell = |part: Progress| progress(sum.with(part));
        let Fetched { stored, mirror: found } =
            Fetch::new((cache, files), &options, part, owner, &tell).run(mirror).await?;
        mirror = found;
        bytes_done = bytes_done.saturating_add(stored.bytes);
        all.push(stored);
    }
    Ok(together(all))
}

/// The whole file, where all its parts are here.
pub(crate) async fn find(cache: &Cache, artifact: &Artifact) -> Result<Option<Stored>, StoreError> {
    // What is no file in parts is said where it is fetched.
    let parts = split::parts(artifact).unwrap_or_default();
    let cache = cache.clone();
    disk::blocking(move || {
        let mut all = Vec::new();
        for part in &parts {
            let Some(sha256) = part.sha256 else { return Ok(None) };
            let Some(stored) = cache.find(sha256)? else { return Ok(None) };
            all.push(stored);
        }
        Ok((!all.is_empty()).then(|| together(all)))
    })
    .await
}

/// Refuses a file of which it is known that it is too large, before any of it is here.
fn check_size(
    artifact: &Artifact,
    sizes: &[Option<u64>],
    bytes_max: u64,
) -> Result<(), FetchError> {
    let bytes = sizes.iter().flatten().copied().fold(0, u64::saturating_add);
    if bytes <= bytes_max {
        return Ok(());
    }
    let source = artifact.sources.first().map_or_else(String::new, |text| source::redact(text));
    let error = SourceError::TooLarge { bytes, bytes_max };
    Err(FetchError::EverySource(vec![Attempt { source, error }]))
}

/// One file of its parts, of which there is at least one.
fn together(mut parts: Vec<Stored>) -> Stored {
    let sha256 = split::digest(parts.iter().map(|part| &part.sha256));
    let bytes = parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add);
    let rest = parts.split_off(1);
    let first = parts.swap_remove(0);
    if rest.is_empty() { first } else { Stored { sha256, bytes, rest, ..first } }
}

/// Bytes of each part, where somebody says before they are fetched: so that whoever watches knows how
/// much there is; and the place of the mirror that said it last. One part of which nobody says
/// anything ends the asking.
async fn sizes(
    cache: &Cache,
    parts: &[Artifact],
    owner: &Owner,
    options: &StoreOptions,
) -> (Vec<Option<u64>>, usize) {
    let mut sizes = vec![None; parts.len()];
    let mut mirror = 0;
    for (part, size) in parts.iter().zip(&mut sizes) {
        *size = match held(cache, part.sha256).await {
            Some(stored) => Some(stored.bytes),
            None => ask(part, &mut mirror, owner, options).await,
        };
        if size.is_none() {
            break;
        }
    }
    (sizes, mirror)
}

/// The part of that digest, if it is here.
async fn held(cache: &Cache, sha256: Option<Sha256>) -> Option<Stored> {
    let (cache, sha256) = (cache.clone(), sha256?);
    disk::blocking(move || cache.find(sha256)).await.ok().flatten()
}

/// The size of a file as the first of its mirrors says that does, from `mirror` on.
async fn ask(
    part: &Artifact,
    mirror: &mut usize,
    owner: &Owner,
    options: &StoreOptions,
) -> Option<u64> {
    for (at, source) in fetch::from(*mirror, &part.sources) {
        let head = fetch::head((source, part.sha256), owner, 1, options).await;
        if let Some(bytes) = head.ok().and_then(|head| head.bytes_total) {
            *mirror = at;
            return Some(bytes);
        }
    }
    None
}

/// How far all parts are, while one of them is fetched.
struct Sum<'a> {
    /// Of the parts before it.
    bytes_done: u64,
    sizes: &'a [Option<u64>],
    /// Which one it is.
    at: usize,
}

impl Sum<'_> {
    fn with(&self, part: Progress) -> Progress {
        let size = |(at, size): (usize, &Option<u64>)| {
            if at == self.at { part.bytes_total.or(*size) } else { *size }
        };
        let sizes = self.sizes.iter().enumerate().map(size);
        Progress {
            bytes_done: self.bytes_done.saturating_add(part.bytes_done),
            bytes_total: sizes.sum::<Option<u64>>(),
        }
    }
}
