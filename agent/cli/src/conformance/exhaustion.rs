//! Runs the attacks of a hostile program while another tenant streams.

use std::{cell::Cell, collections::BTreeSet, time::Instant};

use realm_conformance::{
    exhaustion::{self, ATTACKS, Attack, Ended},
    report::{Check, Verdict},
};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Site,
    ask::{self, CALL_WAIT_MAX, Heard, ms},
};
use crate::door::{
    DoorError,
    session::{Call, Session},
};

/// Tokens of the streams beside an attack: long enough to be cut, short enough to end soon after.
const TOKENS_MAX: u32 = 32;

/// Streams that are cut before the rest is spared.
const CUT_MAX: usize = 3;

pub(super) async fn measure(site: &Site) -> Result<Check, DoorError> {
    let skipped =
        |why: String| Ok(Check::without_figures(exhaustion::ABOUT, Verdict::Skipped, why));
    let Some(key) = &site.hostile_key else {
        let why = "no tenant with the hostile program was named: --hostile-key-file";
        return skipped(why.to_owned());
    };
    let known = functions(&mut site.door.open(key).await?).await?;
    if let Some((missing, _)) = ATTACKS.iter().find(|(function, _)| !known.contains(*function)) {
        return skipped(format!("the tenant's program has no function `{missing}`"));
    }
    let mut attacks = Vec::new();
    for (function, may_end) in ATTACKS {
        attacks.push(attack(site, key, (function, may_end)).await);
    }
    Ok(exhaustion::judge(&attacks))
}

/// What the tenant's program can be called for.
async fn functions(session: &mut Session) -> Result<BTreeSet<String>, DoorError> {
    let params = json!({});
    let call = Call { function: "metadata", params: &params, resumable: false };
    let told = session.call(&call, |_| ()).await?.data;
    let functions = told.get("functions").and_then(Value::as_array);
    let names = functions.into_iter().flatten().filter_map(|function| function.get("name"));
    Ok(names.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The streams of the other tenant while an attack lasts.
#[derive(Default)]
struct Beside {
    whole: usize,
    cut: Vec<String>,
    pause_ms: f64,
}

async fn attack(
    site: &Site,
    key: &str,
    (function, may_end): (&'static str, &'static [&'static str]),
) -> Attack {
    let is_over = Cell::new(false);
    let (begun, streaming) = oneshot::channel();
    let attacking = async {
        // Whether the first stream has begun or come to nothing, there is no more to wait for.
        let _ = streaming.await;
        let began = Instant::now();
        let ended = ended(site, key, function).await;
        is_over.set(true);
        (ended, ms(began.elapsed()))
    };
    let ((ended, took_ms), beside) = tokio::join!(attacking, stream(site, begun, &is_over));
    let Beside { whole, cut, pause_ms } = beside;
    Attack { function, may_end, ended, took_ms, whole, cut, pause_ms }
}

async fn ended(site: &Site, key: &str, function: &str) -> Ended {
    let params = json!({});
    let call = Call { function, params: &params, resumable: false };
    let called = async { site.door.open(key).await?.call(&call, |_| ()).await };
    match timeout(CALL_WAIT_MAX, called).await {
        Ok(Ok(_)) => Ended::Served,
        Ok(Err(DoorError::Refused { code, .. })) => Ended::Refused(code),
        Ok(Err(error)) => Ended::Lost(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Ended::Lost(format!("it runs for {} s", CALL_WAIT_MAX.as_secs())),
    }
}

/// Streams until the attack is over, once at least.
async fn stream(site: &Site, begun: oneshot::Sender<()>, is_over: &Cell<bool>) -> Beside {
    let mut beside = Beside::default();
    let mut begun = Some(begun);
    let params = ask::params(site, ask::ENDLESS, TOKENS_MAX);
    let mut session = None;
    loop {
        match one(site, &mut session, &params, &mut begun).await {
            Ok(heard) if heard.is_whole() => {
                beside.whole += 1;
                beside.pause_ms = heard.gaps_ms().into_iter().fold(beside.pause_ms, f64::max);
            }
            Ok(_) => beside.cut.push("a piece is missing".to_owned()),
            Err(error) => {
                if let Some(wait) = ask::wait(&error) {
                    sleep(wait).await;
                } else {
                    session = None;
                    beside.cut.push(format!("{:#}", anyhow::Error::from(error)));
                }
            }
        }
        // The attack waits for one stream, whatever becomes of it, and for no more.
        drop(begun.take());
        if is_over.get() || beside.cut.len() >= CUT_MAX {
            return beside;
        }
    }
}

/// One stream, over the session that there is or a new one.
async fn one(
    site: &Site,
    session: &mut Option<Session>,
    params: &Value,
    begun: &mut Option<oneshot::Sender<()>>,
) -> Result<Heard, DoorError> {
    let session = match session {
        Some(session) => session,
        None => session.insert(site.own().await?),
    };
    let tell = || {
        if let Some(begun) = begun.take() {
            // Nothing is lost where nobody waits any more.
            let _ = begun.send(());
        }
    };
    ask::once(site, session, params, tell).await
}
