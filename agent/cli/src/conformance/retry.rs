//! Spends a tenant's minute, and waits as long as it is told.

use std::time::{Duration, Instant};

use realm_conformance::{
    report::{Check, Verdict},
    retry::{self, Early, Waited},
};
use tokio::time::sleep_until;

use super::{
    Site,
    ask::{self, ms},
};
use crate::door::{DoorError, session::Session};

/// Calls in which a tenant should come to its limits: what one with the limits of none has in more
/// than a minute.
const CALLS_MAX: usize = 1_000;

/// Refusals that are waited for.
const WAITS: usize = 3;

/// What each call asks for.
const TOKENS_MAX: u32 = 1;

/// A refusal, as a client sees it.
struct Refused {
    sent_at: Instant,
    came_at: Instant,
    code: String,
    told: Option<Duration>,
}

pub(super) async fn measure(site: &Site) -> Result<Check, DoorError> {
    let skipped = |why: String| Check::without_figures(retry::ABOUT, Verdict::Skipped, why);
    let Some(key) = &site.limited_key else {
        return Ok(skipped("no tenant with low limits was named: --limited-key-file".to_owned()));
    };
    let mut session = site.door.open(key).await?;
    let mut waits = Vec::new();
    for _ in 0..WAITS {
        let Some(refused) = spend(site, &mut session).await? else {
            let tenant = session.tenant();
            return Ok(skipped(format!(
                "{tenant} has not come to its limits in {CALLS_MAX} calls"
            )));
        };
        waits.push(wait(site, &mut session, refused).await?);
    }
    Ok(retry::judge(&waits))
}

/// Calls until the tenant has spent its minute, or nothing where it does not come to that.
async fn spend(site: &Site, session: &mut Session) -> Result<Option<Refused>, DoorError> {
    for _ in 0..CALLS_MAX {
        if let Some(refused) = call(site, session).await? {
            return Ok(Some(refused));
        }
    }
    Ok(None)
}

/// One call, and its refusal by a limit per minute if it got one.
async fn call(site: &Site, session: &mut Session) -> Result<Option<Refused>, DoorError> {
    let params = ask::params(site, ask::ENDLESS, TOKENS_MAX);
    let sent_at = Instant::now();
    match ask::once(site, session, &params, || ()).await {
        Ok(_) => Ok(None),
        Err(DoorError::Refused { code, retry_after_ms, .. })
            if retry::CODES.contains(&code.as_str()) =>
        {
            let told = retry_after_ms.map(Duration::from_millis);
            Ok(Some(Refused { sent_at, came_at: Instant::now(), code, told }))
        }
        Err(error) => Err(error),
    }
}

/// Calls halfway through the time that was told, and at its end.
async fn wait(site: &Site, session: &mut Session, refused: Refused) -> Result<Waited, DoorError> {
    let Refused { sent_at, came_at, code, told } = refused;
    let mut waited = Waited { code, told_ms: told.map(ms), early: None, late: None };
    let Some(told) = told.filter(|told| *told <= ask::WAIT_MAX) else { return Ok(waited) };
    sleep_until((came_at + told / 2).into()).await;
    let again_at = Instant::now();
    let again = call(site, session).await?;
    let elapsed_ms = [ms(again_at - came_at), ms(sent_at.elapsed())];
    let is_refused = again.is_some();
    let told_ms = again.and_then(|again| again.told).map(ms);
    waited.early = Some(Early { elapsed_ms, told_ms });
    if is_refused {
        let rounding = Duration::from_secs_f64(retry::ROUNDING_MS / 1e3);
        sleep_until((came_at + told + rounding).into()).await;
        let late = call(site, session).await?;
        waited.late = Some(late.map_or(Ok(()), |refused| Err(refused.code)));
    }
    Ok(waited)
}
