//! One streamed answer, with the moments at which it came.

use std::time::{Duration, Instant};

use realm_conformance::retry;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::Site;
use crate::door::{
    DoorError,
    session::{Call, Done, Piece, Session},
};

/// How long a call may take: the five minutes that a tenant's program has where its limits say
/// nothing, and one more.
pub(super) const CALL_WAIT_MAX: Duration = Duration::from_mins(6);

/// How often a call that comes at a bad time is made again: with the longest wait below an hour.
const RETRIES_MAX: usize = 20;

/// The longest wait that is waited for. A tenant that is told more is in the debt of others' calls.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(2);

/// What a model without a wish of its own goes on with until it may not.
pub(super) const ENDLESS: &str = "1, 2, 3, 4,";

/// The refusal of a server that is full for a moment.
const BUSY: &str = "busy";

/// A prompt and the tokens that its answer may have, answered greedily.
pub(super) fn params(site: &Site, prompt: &str, tokens_max: u32) -> Value {
    let mut params = json!({ "prompt": prompt, "max_tokens": tokens_max, "temperature": 0 });
    if let (Some(model), Some(params)) = (&site.model, params.as_object_mut()) {
        params.insert("model".to_owned(), Value::from(model.as_str()));
    }
    params
}

/// An answer that came to its end.
pub(super) struct Heard {
    asked_at: Instant,
    pieces: Vec<Piece>,
    pub(super) done: Done,
}

impl Heard {
    /// When it was asked for the last time: what the tenant had left was told after that.
    pub(super) const fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Until something came: its first piece, or its end where the first token had no text.
    pub(super) fn first_ms(&self) -> f64 {
        let first = self.pieces.first().map_or(self.done.at, |piece| piece.at);
        ms(first - self.asked_at)
    }

    /// Between one piece and the next.
    pub(super) fn gaps_ms(&self) -> Vec<f64> {
        let pairs = self.pieces.iter().zip(self.pieces.iter().skip(1));
        pairs.map(|(before, after)| ms(after.at - before.at)).collect()
    }

    /// Tokens that came.
    pub(super) fn tokens(&self) -> u32 {
        let tokens = self.pieces.iter().map(|piece| piece.tokens).sum::<usize>();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Whether no piece is missing, doubled or out of its place.
    pub(super) fn is_whole(&self) -> bool {
        self.pieces.iter().map(|piece| piece.index).eq(0..self.pieces.len() as u64)
    }
}

pub(super) const fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Asks once. `begun` is told when the first piece comes.
pub(super) async fn once(
    site: &Site,
    session: &mut Session,
    params: &Value,
    mut begun: impl FnMut(),
) -> Result<Heard, DoorError> {
    let call = Call { function: "generate", params, resumable: true };
    let mut pieces: Vec<Piece> = Vec::new();
    let asked_at = Instant::now();
    let hear = |piece| {
        if pieces.is_empty() {
            begun();
        }
        pieces.push(piece);
    };
    let answered = timeout(CALL_WAIT_MAX, session.call(&call, hear)).await;
    let done = answered.map_err(|_| site.door.silent(CALL_WAIT_MAX))??;
    Ok(Heard { asked_at, pieces, done })
}

/// Asks, and again after the time that the door says, where the tenant has spent its minute or the
/// server is full.
pub(super) async fn patiently(
    site: &Site,
    session: &mut Session,
    params: &Value,
) -> Result<Heard, DoorError> {
    let mut retries = 0;
    loop {
        match once(site, session, params, || ()).await {
            Err(error) if retries < RETRIES_MAX => match wait(&error) {
                Some(wait) => sleep(wait).await,
                None => return Err(error),
            },
            ended => return ended,
        }
        retries += 1;
    }
}

/// How long to wait after a refusal, if waiting helps and is not for too long.
pub(super) fn wait(error: &DoorError) -> Option<Duration> {
    match error {
        DoorError::Refused { code, retry_after_ms: Some(ms), .. }
            if code == BUSY || retry::CODES.contains(&code.as_str()) =>
        {
            Some(Duration::from_millis(*ms)).filter(|wait| *wait <= WAIT_MAX)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_passes_soon_is_waited_for() {
        let refused = |code: &str, retry_after_ms| {
            let (code, message) = (code.to_owned(), String::new());
            wait(&DoorError::Refused { code, message, retry_after_ms })
        };
        assert_eq!(refused("too_many_tokens", Some(20)), Some(Duration::from_millis(20)));
        assert_eq!(refused("busy", Some(20)), Some(Duration::from_millis(20)));
        assert_eq!(refused("too_many_requests", Some(121_000)), None);
        assert_eq!(refused("too_many_requests", None), None);
        assert_eq!(refused("model_not_ready", Some(20)), None);
    }
}
