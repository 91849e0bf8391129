//! Probabilities of tokens in the forms of both doors.

use realm_core::engine::{Logprobs, ScoredToken};
use realm_proto::ws;

/// As a socket's frames have them.
pub(crate) fn frame(Logprobs { chosen, top }: Logprobs) -> ws::Logprobs {
    ws::Logprobs { chosen: scored(chosen), top: top.into_iter().map(scored).collect() }
}

fn scored(ScoredToken { id, bytes, logprob }: ScoredToken) -> ws::ScoredToken {
    let logprob = decimal(logprob);
    match String::from_utf8(bytes) {
        Ok(text) => ws::ScoredToken { id, text, bytes: None, logprob },
        Err(broken) => {
            let text = String::from_utf8_lossy(broken.as_bytes()).into_owned();
            ws::ScoredToken { id, text, bytes: Some(broken.into_bytes()), logprob }
        }
    }
}

/// The number with the fewest digits that single precision reads as `logprob`: sixteen digits would
/// say no more, and are most of what a client is sent.
pub(crate) fn decimal(logprob: f32) -> f64 {
    logprob.to_string().parse().unwrap_or_else(|_| logprob.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_of_half_a_character_has_its_bytes_beside_its_text() {
        let token = |bytes: &[u8], logprob| ScoredToken { id: 7, bytes: bytes.into(), logprob };
        let chosen = token("é".as_bytes(), -0.1);
        let top = vec![token(b" \xc3", -9999.0)];
        let expected = json!({
            "chosen": {"id": 7, "text": "é", "logprob": -0.1},
            "top": [{"id": 7, "text": " \u{fffd}", "bytes": [32, 195], "logprob": -9999.0}],
        });
        assert_eq!(json!(frame(Logprobs { chosen, top })), expected);
    }
}
