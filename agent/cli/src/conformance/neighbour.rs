//! Streams as one tenant beside another that asks for as much, or floods.

use std::{sync::Arc, time::Duration};

use realm_conformance::{
    draw::Draw,
    neighbour::{self, Neighbour, Stream},
    prompt,
    report::Check,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Site,
    ask::{self, CALL_WAIT_MAX},
};
use crate::{
    door::{DoorError, session::Session},
    output,
};

/// Streams at once of the tenant that is watched: more than one, so that its share is of a batch.
const WATCHED: usize = 2;

/// Streams of each of these in one round. Rounds of both kinds take turns, so that a slow minute of
/// the machine is shared by both.
const ROUND: usize = 4;

/// Words and tokens of every call, those of a fair neighbour too. Prompts are long enough beside
/// answers for every twentieth step of a batch to hold a part of one, also beside a fair neighbour.
const CALL_WORDS: usize = 64;
const CALL_TOKENS: u32 = 32;

/// Words of every other call of one that floods.
const LONG_WORDS: usize = 8 * CALL_WORDS;

/// How long a neighbour waits after a refusal that does not say: as a client that is not polite.
const IMPOLITE: Duration = Duration::from_millis(200);

pub(super) async fn measure(site: &Arc<Site>) -> Result<Check, DoorError> {
    let mut draw = Draw::new(site.seed);
    let (mut fair, mut flooded) = (Vec::new(), Vec::new());
    while fair.len() < site.streams {
        for kind in Neighbour::shuffled(&mut draw) {
            let streams = match kind {
                Neighbour::Fair => &mut fair,
                Neighbour::Floods => &mut flooded,
            };
            streams.extend(round(site, kind, &mut draw).await?);
        }
        output::note(format!("  {} of {} streams", fair.len(), site.streams));
    }
    Ok(neighbour::judge(&fair, &flooded, site.seed))
}

/// Some streams beside one kind of neighbour.
async fn round(
    site: &Arc<Site>,
    kind: Neighbour,
    draw: &mut Draw,
) -> Result<Vec<Stream>, DoorError> {
    let calls = kind.calls(WATCHED);
    // Each of its calls tells that it has begun, and the first few are waited for.
    let (begun, mut began) = mpsc::channel(WATCHED);
    // Dropped at the end of the round, which cancels them.
    let mut lanes = JoinSet::new();
    for at in 0..calls {
        let is_long = kind == Neighbour::Floods && at % 2 == 1;
        let words = if is_long { LONG_WORDS } else { CALL_WORDS };
        lanes.spawn(load(site.clone(), words, draw.fork(), begun.clone()));
    }
    drop(begun);
    for _ in 0..WATCHED {
        // That it has not begun in so long is seen by its lane, which then ends.
        let _ = timeout(CALL_WAIT_MAX, began.recv()).await;
    }
    let watched = (0..WATCHED).map(|_| watch(site, draw.fork()));
    let streams = futures_util::future::try_join_all(watched).await?;
    match lanes.try_join_next() {
        // Without its neighbour a stream says nothing.
        Some(Ok(error)) => Err(error),
        Some(Err(_)) | None => Ok(streams.into_iter().flatten().collect()),
    }
}

/// Calls of the neighbour, one after another until it is dropped or an error ends it.
async fn load(site: Arc<Site>, words: usize, mut draw: Draw, begun: mpsc::Sender<()>) -> DoorError {
    let mut session = match site.other().await {
        Ok(session) => session,
        Err(error) => return error,
    };
    loop {
        let params = ask::params(&site, &question(&mut draw, words), CALL_TOKENS);
        let tell = || {
            // There is room for as many as are waited for, and nobody hears of more.
            let _ = begun.try_send(());
        };
        match ask::once(&site, &mut session, &params, tell).await {
            Ok(_) => {}
            // What is too long once is so every time, and a flood without it is none.
            Err(error @ DoorError::Refused { .. }) if !is_too_long(&error) => {
                sleep(ask::wait(&error).unwrap_or(IMPOLITE)).await;
            }
            Err(error) => return error,
        }
    }
}

fn is_too_long(error: &DoorError) -> bool {
    matches!(error, DoorError::Refused { code, .. } if code == "too_long")
}

/// Streams of the tenant that is watched.
async fn watch(site: &Site, mut draw: Draw) -> Result<Vec<Stream>, DoorError> {
    let mut session: Session = site.own().await?;
    let mut streams = Vec::new();
    for _ in 0..ROUND {
        let params = ask::params(site, &question(&mut draw, CALL_WORDS), CALL_TOKENS);
        let heard = ask::patiently(site, &mut session, &params).await?;
        streams.push(Stream { first_ms: heard.first_ms(), gaps_ms: heard.gaps_ms() });
    }
    Ok(streams)
}

/// What nobody has cached, and what goes on until it may not.
fn question(draw: &mut Draw, words: usize) -> String {
    format!("{} {}", prompt::fresh(draw, words), ask::ENDLESS)
}
