//! A file of a web server: asked for from where the last attempt ended, until it is whole.
//!
//! Each attempt makes its request anew ([`resolve`]), asks ([`Web`]), reads the head of the answer
//! ([`answer`]) and takes its body. What an attempt brought is kept whatever ended it. Every wait has an end: for the connection, for the
//! head, for each next byte, for each stretch of the body, and for the number of attempts that
//! bring nothing.

pub(crate) mod answer;
pub(crate) mod head;

use std::time::Duration;

use realm_core::desired::Sha256;
use reqwest::{
    Response,
    header::{ACCEPT_ENCODING, IF_RANGE, RANGE},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::SourceError,
    hash::Hasher,
    options::{Pace, Retry, StoreOptions},
    partial::Partial,
    resolve::{self, Access, Request},
    source::Remote,
    state::State,
    store::{Progress, ProgressFn, Stored},
    web::{self, Web},
};
use answer::{Answer, Asked};

/// Bytes collected before they go to the disk: one hand-over to a blocking thread per megabyte
/// costs nothing, and a dropped fetch loses no more than this.
const APPEND_BYTES: usize = 1 << 20;

/// Bytes that make an attempt worth having: it starts the count of attempts anew, so that a large
/// file comes through a poor line, yet there are never more attempts than megabytes and a few.
const WORTH_BYTES: u64 = 1 << 20;

/// Brings the file that the source `text` names, `remote`, into `partial` and finishes it.
pub(crate) async fn fetch(
    (text, remote): (&str, &Remote),
    partial: &Partial,
    access: &Access<'_>,
    progress: ProgressFn<'_>,
) -> Result<Stored, SourceError> {
    let mut download = Download {
        web: Web::open(&resolve::door(remote, access.options)?, access.options).await?,
        remote,
        access,
        source: key(text),
        partial,
        options: access.options,
        progress,
        joined: partial.bytes() > 0,
    };
    download.run().await?;
    match partial.finish().await {
        // The parts may have been of different versions: one answer from the start decides.
        Err(SourceError::DigestMismatch { .. }) if download.joined => {
            tracing::debug!("the joined parts have a wrong digest, starting over");
            download.run().await?;
            partial.finish().await
        }
        result => result,
    }
}

/// What tells one source from another without keeping the secrets it may hold.
fn key(text: &str) -> Sha256 {
    let mut hasher = Hasher::default();
    hasher.update(text.as_bytes());
    hasher.digest()
}

struct Download<'a> {
    web: Web,
    remote: &'a Remote,
    access: &'a Access<'a>,
    source: Sha256,
    partial: &'a Partial,
    options: &'a StoreOptions,
    progress: ProgressFn<'a>,
    /// Whether the bytes so far came with more than one answer.
    joined: bool,
}

impl Download<'_> {
    /// Attempts until the file is whole.
    async fn run(&mut self) -> Result<(), SourceError> {
        let retry = &self.options.retry;
        let (mut failures, mut bytes_best) = (0, self.partial.bytes());
        loop {
            let error = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let bytes = self.partial.bytes();
            if bytes >= bytes_best.saturating_add(WORTH_BYTES) {
                (failures, bytes_best) = (0, bytes);
            }
            failures += 1;
            if failures >= retry.attempts_max || !is_passing(&error) {
                return Err(error);
            }
            tracing::debug!(reason = error.reason(), failures, "asking the server again");
            sleep(pause(failures, retry, &error)).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), SourceError> {
        let known = self.partial.recall().await?.filter(|state| state.source == self.source);
        let request = resolve::resolve(self.remote, &self.web, self.access).await?;
        let (mut response, mut answer) = self.ask(&request, known.as_ref()).await?;
        if matches!(answer, Answer::Unfit) {
            self.partial.empty().await?;
            (response, answer) = self.ask(&request, None).await?;
        }
        let bytes_total = match answer {
            Answer::Nothing => return Ok(()),
            Answer::Whole { bytes_total } => {
                self.partial.empty().await?;
                self.joined = false;
                bytes_total
            }
            Answer::Rest { bytes_total } => {
                self.joined = true;
                bytes_total
            }
            Answer::Unfit => return Err(malformed("a part was sent though all was asked for")),
        };
        self.check_room(bytes_total)?;
        let etag = answer::strong_etag(response.headers());
        self.partial.remember(State { source: self.source, bytes_total, etag }).await?;
        self.take_body(response, bytes_total).await
    }

    /// Asks for what is missing.
    async fn ask(
        &self,
        request: &Request,
        known: Option<&State>,
    ) -> Result<(Response, Answer), SourceError> {
        let bytes_have = self.partial.bytes();
        let etag = known.and_then(|state| state.etag.as_deref());
        let mut builder = self.web.get(request).header(ACCEPT_ENCODING, "identity");
        if bytes_have > 0 {
            builder = builder.header(RANGE, format!("bytes={bytes_have}-"));
            if let Some(etag) = etag {
                builder = builder.header(IF_RANGE, etag);
            }
        }
        let response = self.web.send(builder, bytes_have).await?;
        let asked =
            Asked { bytes_have, etag, bytes_total: known.and_then(|state| state.bytes_total) };
        let answer = answer::read(response.status(), response.headers(), &asked)?;
        Ok((response, answer))
    }

    fn check_room(&self, bytes_total: Option<u64>) -> Result<(), SourceError> {
        let Some(bytes) = bytes_total else { return Ok(()) };
        self.check_size(bytes)?;
        Ok(self.partial.reserve(bytes.saturating_sub(self.partial.bytes()))?)
    }

    fn check_size(&self, bytes: u64) -> Result<(), SourceError> {
        let bytes_max = self.options.bytes_max;
        if bytes > bytes_max {
            return Err(SourceError::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Takes the body to its end, keeping what came before a bad one.
    async fn take_body(
        &self,
        mut response: Response,
        bytes_total: Option<u64>,
    ) -> Result<(), SourceError> {
        let mut alive = Alive::new(self.options.stall_timeout, self.options.pace_min);
        let mut buffer = Vec::new();
        loop {
            let bytes_done = self.partial.bytes().saturating_add(buffer.len() as u64);
            let (deadline, waited) = alive.deadline();
            let ended = match timeout_at(deadline, response.chunk()).await {
                Err(_) => Some(Err(web::stalled(waited, bytes_done))),
                Ok(Err(error)) => Some(Err(web::explain(error, bytes_done))),
                Ok(Ok(None)) => Some(check_whole(bytes_done, bytes_total)),
                Ok(Ok(Some(chunk))) => {
                    alive.feed(chunk.len() as u64, Instant::now());
                    buffer.extend_from_slice(&chunk);
                    None
                }
            };
            let bytes_done = self.partial.bytes().saturating_add(buffer.len() as u64);
            self.check_size(bytes_done)?;
            if ended.is_some() || buffer.len() >= APPEND_BYTES {
                let remaining = bytes_total.map(|total| total.saturating_sub(bytes_done));
                self.partial.append(std::mem::take(&mut buffer), remaining).await?;
            }
            (self.progress)(Progress { bytes_done, bytes_total });
            if let Some(ended) = ended {
                return ended;
            }
        }
    }
}

/// Whether a body that ended well was all there is.
fn check_whole(bytes_done: u64, bytes_total: Option<u64>) -> Result<(), SourceError> {
    match bytes_total {
        Some(total) if bytes_done < total => Err(SourceError::Interrupted {
            bytes_done,
            source: format!("{} bytes are missing", total.saturating_sub(bytes_done)).into(),
        }),
        Some(total) if bytes_done > total => Err(malformed("more bytes than announced")),
        _ => Ok(()),
    }
}

fn malformed(why: &str) -> SourceError {
    SourceError::Malformed { why: why.to_owned() }
}

/// When a server that sends nothing, or too little, counts as stalled.
struct Alive {
    silence_max: Duration,
    pace_min: Pace,
    heard_at: Instant,
    /// Where the stretch began that is measured against the least pace, and its bytes so far.
    since: Instant,
    bytes: u64,
}

impl Alive {
    fn new(silence_max: Duration, pace_min: Pace) -> Self {
        let now = Instant::now();
        Self { silence_max, pace_min, heard_at: now, since: now, bytes: 0 }
    }

    /// Until when to wait for the next bytes, and how long too little will have come by then.
    fn deadline(&self) -> (Instant, Duration) {
        let silent = (self.heard_at + self.silence_max, self.silence_max);
        let slow = (self.since + self.pace_min.within, self.pace_min.within);
        silent.min(slow)
    }

    fn feed(&mut self, bytes: u64, now: Instant) {
        self.heard_at = now;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= self.pace_min.bytes {
            (self.bytes, self.since) = (0, now);
        }
    }
}

/// Whether asking the same server again may help.
fn is_passing(error: &SourceError) -> bool {
    match error {
        SourceError::Unreachable(_)
        | SourceError::Stalled { .. }
        | SourceError::Interrupted { .. } => true,
        SourceError::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
        _ => false,
    }
}

/// The pause before attempt `failures + 1`: doubling, and spread over its second half so that
/// many nodes do not come back at once. A server's own wish is heard within the same bound.
fn pause(failures: u32, retry: &Retry, error: &SourceError) -> Duration {
    let doubled = retry.pause_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let longest = doubled.min(retry.pause_max);
    // Without randomness the pause is merely not spread.
    let spread = getrandom::u32().map_or(0.0, |r| f64::from(r) / f64::from(u32::MAX));
    let pause = longest.mul_f64(0.5 + spread / 2.0);
    match error {
        SourceError::Refused { retry_after_secs: Some(secs), .. } => {
            pause.max(Duration::from_secs(*secs).min(retry.pause_max))
        }
        _ => pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Site, StoreOptions};

    #[test]
    fn pauses_grow_within_their_bounds_and_hear_the_server_within_the_same() {
        let retry = StoreOptions::new(Site::Cluster).retry;
        let refused = |secs| SourceError::Refused { status: 503, retry_after_secs: secs };
        for failures in 1..40 {
            let pause = pause(failures, &retry, &refused(None));
            assert!(pause >= retry.pause_min / 2 && pause <= retry.pause_max, "{pause:?}");
        }
        assert_eq!(pause(1, &retry, &refused(Some(3600))), retry.pause_max);
    }

    #[test]
    fn a_server_is_alive_while_it_is_neither_silent_nor_slow() {
        let (silence_max, within) = (Duration::from_secs(30), Duration::from_mins(1));
        let mut alive = Alive::new(silence_max, Pace { bytes: 100, within });
        let start = alive.since;
        assert_eq!(alive.deadline(), (start + silence_max, silence_max));
        for second in 31..=59 {
            alive.feed(1, start + Duration::from_secs(second));
            assert_eq!(alive.deadline(), (start + within, within), "dripping wins no time");
        }
        let paid = start + Duration::from_secs(59);
        alive.feed(100, paid);
        assert_eq!(alive.deadline(), (paid + silence_max, silence_max));
    }
}
