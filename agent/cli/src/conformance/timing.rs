//! Measures the time to the first token of prompts, by who has sent them before.

use realm_conformance::{
    draw::Draw,
    prompt,
    report::Check,
    timing::{self, Answer, Asked, Trial},
};

use super::{Site, ask};
use crate::{
    door::{DoorError, session::Session},
    output,
};

/// How often it is said how far the trials are.
const TOLD: usize = 10;

/// What a tenant asks for beside the first token: nothing.
const TOKENS_MAX: u32 = 1;

pub(super) async fn measure(site: &Site) -> Result<Check, DoorError> {
    let mut draw = Draw::new(site.seed);
    let (mut own, mut other) = (site.own().await?, site.other().await?);
    // What the first tenant asks for the first time in one trial is what is cached in the next.
    let mut known = prompt::fresh(&mut draw, site.words);
    answer(site, &mut own, &known).await?;
    answer(site, &mut other, &prompt::fresh(&mut draw, site.words)).await?;
    let mut trials = Vec::new();
    for number in 1..=site.trials {
        let fresh = prompt::fresh(&mut draw, site.words);
        let strange = prompt::fresh(&mut draw, site.words);
        let mut trial = Trial::default();
        for asked in Asked::shuffled(&mut draw) {
            let (session, prompt) = match asked {
                Asked::OwnCached => (&mut own, &known),
                Asked::OwnFresh => (&mut own, &fresh),
                Asked::OtherCached => (&mut other, &known),
                Asked::OtherFresh => (&mut other, &strange),
            };
            trial.put(asked, answer(site, session, prompt).await?);
        }
        trials.push(trial);
        known = fresh;
        if number.is_multiple_of(site.trials.div_ceil(TOLD)) {
            output::note(format!("  {number} of {} trials", site.trials));
        }
    }
    Ok(timing::judge(&trials, site.seed))
}

async fn answer(site: &Site, session: &mut Session, prompt: &str) -> Result<Answer, DoorError> {
    let heard = ask::patiently(site, session, &ask::params(site, prompt, TOKENS_MAX)).await?;
    let cached_tokens = heard.done.usage.cached_tokens;
    Ok(Answer { first_ms: heard.first_ms(), cached_tokens })
}
