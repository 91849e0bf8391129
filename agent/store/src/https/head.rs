//! The first bytes of a file of a web server, and no more than were asked for.
//!
//! Nothing is kept: a part has no digest to check it by, and whoever needs more asks from the start
//! again, so that what they read is of one version of the file. Where a server knows no ranges, its
//! body is read as far as it is needed and the connection is closed.

use reqwest::{
    Response,
    header::{ACCEPT_ENCODING, RANGE},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Alive, answer, is_passing, pause};
use crate::{
    error::SourceError,
    options::StoreOptions,
    resolve::{self, Access},
    source::Remote,
    store::Head,
    web::{self, Web},
};

/// Reads the first `bytes` bytes of `remote`, or all that there are.
pub(crate) async fn read(
    remote: &Remote,
    bytes: usize,
    access: &Access<'_>,
) -> Result<Head, SourceError> {
    let StoreOptions { retry, .. } = access.options;
    let web = Web::open(&resolve::door(remote, access.options)?, access.options).await?;
    let mut failures = 0;
    loop {
        let error = match attempt(&web, remote, bytes, access).await {
            Ok(head) => return Ok(head),
            Err(error) => error,
        };
        failures += 1;
        if failures >= retry.attempts_max || !is_passing(&error) {
            return Err(error);
        }
        tracing::debug!(reason = error.reason(), failures, "asking the server again");
        sleep(pause(failures, retry, &error)).await;
    }
}

async fn attempt(
    web: &Web,
    remote: &Remote,
    bytes: usize,
    access: &Access<'_>,
) -> Result<Head, SourceError> {
    let request = resolve::resolve(remote, web, access).await?;
    let last = bytes.saturating_sub(1);
    let builder = web
        .get(&request)
        .header(ACCEPT_ENCODING, "identity")
        .header(RANGE, format!("bytes=0-{last}"));
    let response = web.send(builder, 0).await?;
    let bytes_total = answer::read_first(response.status(), response.headers())?;
    let bytes_max = access.options.bytes_max;
    match bytes_total {
        Some(bytes) if bytes > bytes_max => Err(SourceError::TooLarge { bytes, bytes_max }),
        _ => take_body(response, bytes, bytes_total, access.options).await,
    }
}

/// Takes what is wanted of the body and hangs up.
async fn take_body(
    mut response: Response,
    bytes_wanted: usize,
    bytes_total: Option<u64>,
    options: &StoreOptions,
) -> Result<Head, SourceError> {
    let mut alive = Alive::new(options.stall_timeout, options.pace_min);
    let mut bytes = Vec::new();
    while bytes.len() < bytes_wanted {
        let bytes_done = bytes.len() as u64;
        let (deadline, waited) = alive.deadline();
        let chunk = timeout_at(deadline, response.chunk())
            .await
            .map_err(|_| web::stalled(waited, bytes_done))?
            .map_err(|error| web::explain(error, bytes_done))?;
        let Some(chunk) = chunk else { return ended(bytes, bytes_total) };
        alive.feed(chunk.len() as u64, Instant::now());
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(bytes_wanted);
    Ok(Head { bytes, bytes_total })
}

/// What a body gave that ended before all that was wanted had come.
fn ended(bytes: Vec<u8>, bytes_total: Option<u64>) -> Result<Head, SourceError> {
    let bytes_done = bytes.len() as u64;
    match bytes_total {
        Some(total) if bytes_done < total => {
            Err(SourceError::Interrupted { bytes_done, source: "the body ended early".into() })
        }
        _ => Ok(Head { bytes, bytes_total: Some(bytes_done) }),
    }
}
