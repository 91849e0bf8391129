//! Counts the tokens of streams, and what they are charged.

use realm_conformance::{
    limits::{self, Streamed, TOKENS},
    report::Check,
};

use super::{Site, ask};
use crate::door::DoorError;

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
    Ok(limits::judge(&streams))
}
