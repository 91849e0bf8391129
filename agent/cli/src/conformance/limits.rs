//! Counts the tokens of streams, and what they are charged; and spends a tenant's minute in one.

use std::time::{Duration, Instant};

use realm_conformance::{
    limits::{self, Spent, Streamed, TOKENS},
    report::Check,
};
use serde_json::json;
use tokio::time::sleep;

use super::{Site, ask};
use crate::door::{
    DoorError,
    session::{Call, Session},
};

/// The most that a tenant may have left for a minute of its to be spent in one answer: as much as
/// many a context holds.
const LEFT_MAX: u32 = 1_024;

/// Tokens beyond what is left that an answer is to have: more than a minute's earnings add while it
/// is written, at any limit that is tried.
const BEYOND: u32 = 512;

/// How long a tenant does nothing, so that it shows what time earns.
const REST: Duration = Duration::from_secs(5);

pub(super) async fn measure(site: &Site) -> Result<Check, DoorError> {
    let mut session = site.own().await?;
    let mut before = None;
    let mut streams = Vec::new();
    for tokens_max in TOKENS {
        let params = ask::params(site, ask::ENDLESS, tokens_max);
        let heard = ask::patiently(site, &mut session, &params).await?;
        let after = heard.done.quota.map(|quota| quota.output_tokens);
        streams.push(Streamed {
            tokens_max,
            came: heard.tokens(),
            told: heard.done.usage.completion_tokens,
            left: before.zip(after).map(<[u32; 2]>::from),
        });
        before = after;
    }
    let spent = match &site.limited_key {
        Some(key) => spend(site, &mut site.door.open(key).await?).await?,
        None => None,
    };
    Ok(limits::judge(&streams, spent.as_ref()))
}

/// Asks for more than the tenant has left; nothing where it has too much for one answer.
async fn spend(site: &Site, session: &mut Session) -> Result<Option<Spent>, DoorError> {
    let first = ask::patiently(site, session, &ask::params(site, ask::ENDLESS, 1)).await?;
    let told_at = first.asked_at();
    let left = first.done.quota.map(|quota| quota.output_tokens);
    let Some(left) = left.filter(|left| *left <= LEFT_MAX) else { return Ok(None) };
    let params = ask::params(site, ask::ENDLESS, left + BEYOND);
    let mut came = 0;
    let call = Call { function: "generate", params: &params, resumable: true };
    let ended = session.call(&call, |piece| came += piece.tokens).await;
    let elapsed = told_at.elapsed();
    let ended = match ended {
        Ok(_) => Ok(()),
        Err(DoorError::Refused { code, retry_after_ms, .. }) => {
            Err((code, retry_after_ms.map(|ms| ask::ms(Duration::from_millis(ms)))))
        }
        Err(error) => return Err(error),
    };
    let earned_max = elapsed.as_secs_f64() * earned_per_s_max(session).await?;
    let came = u32::try_from(came).unwrap_or(u32::MAX);
    Ok(Some(Spent { left, earned_max, came, ended }))
}

/// How many tokens the tenant earns in a second, at most: only whole ones of what is left are told.
async fn earned_per_s_max(session: &mut Session) -> Result<f64, DoorError> {
    let before = left(session).await?;
    let from = Instant::now();
    sleep(REST).await;
    let rested = from.elapsed();
    let after = left(session).await?;
    Ok((f64::from(after) + 1.0 - f64::from(before)) / rested.as_secs_f64())
}

/// What the tenant has left.
async fn left(session: &mut Session) -> Result<u32, DoorError> {
    let call = Call { function: "metadata", params: &json!({}), resumable: false };
    loop {
        match session.call(&call, |_| ()).await {
            Ok(done) => return Ok(done.quota.map_or(0, |quota| quota.output_tokens)),
            Err(error) => match ask::wait(&error) {
                Some(wait) => sleep(wait).await,
                None => return Err(error),
            },
        }
    }
}
