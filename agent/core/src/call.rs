//! What a client asks for.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{books::Way, refusal::Refusal, trace::Scope};

/// A wait that is as good as for ever, and that no clock overflows on.
const WAIT_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;

/// The client's own name for a call, unique on its connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CallId(pub String);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// When something ends, and the number that was asked for, to name when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    ms: u64,
}

impl Deadline {
    pub fn after(now: Instant, ms: u64) -> Self {
        Self { at: now + Duration::from_millis(ms.min(WAIT_MS_MAX)), ms }
    }

    /// When something ends of which `left_ms` are left of the `ms` that were asked for somewhere
    /// else.
    pub fn with_left(now: Instant, left_ms: u64, ms: u64) -> Self {
        Self { ms, ..Self::after(now, left_ms) }
    }

    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    pub const fn at(self) -> Instant {
        self.at
    }

    /// The number that was asked for.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    pub fn is_over(self, now: Instant) -> bool {
        self.at <= now
    }

    pub const fn refusal(self) -> Refusal {
        Refusal::DeadlineExceeded { deadline_ms: self.ms }
    }
}

/// Tokens that a resumed answer may have: the longest context in use.
pub const RESUMED_TOKENS_MAX: usize = 131_072;

/// What a client has of an answer whose server is gone, to go on from there.
///
/// Nobody checks that a server ever said so. A client that makes it up gets an answer to a prompt
/// that it could have sent, and pays for it as for a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    tokens: Vec<u32>,
    text_bytes: u64,
    seed: u64,
}

impl Resume {
    /// Refuses more tokens than any answer has.
    pub fn new(tokens: Vec<u32>, text_bytes: u64, seed: u64) -> Result<Self, Refusal> {
        if tokens.len() > RESUMED_TOKENS_MAX {
            let count = tokens.len();
            let message = format!("{count} tokens to resume; {RESUMED_TOKENS_MAX} are the most");
            return Err(Refusal::Invalid(message));
        }
        Ok(Self { tokens, text_bytes, seed })
    }

    /// Ids of the answer's tokens, from the first.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Bytes of their text that the client has.
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// What the answer was drawn with.
    pub const fn seed(&self) -> u64 {
        self.seed
    }
}

/// One call of a function.
#[derive(Clone)]
pub struct Call {
    pub id: CallId,
    /// `generate`, `chat`, `embed`, `tokenize`, `pipeline`, or any function that the tenant's
    /// program exports.
    pub function: String,
    /// The function's own parameters; read by whoever runs it.
    pub params: serde_json::Value,
    /// When the call ends, however far it is.
    pub deadline: Option<Deadline>,
    /// Whether the client wants to be told what it takes to resume the answer elsewhere.
    pub resumable: bool,
    /// The answer that this one goes on with.
    pub resume: Option<Resume>,
    /// What it is booked under: a door makes direct calls, and whoever runs a pipeline its steps.
    pub way: Way,
    /// Where what is done for it leaves its spans.
    pub trace: Scope,
}

impl Call {
    /// A call without a deadline of its own, of which nothing is to be resumed, and without a
    /// trace.
    pub fn new(id: CallId, function: impl Into<String>, params: serde_json::Value) -> Self {
        Self {
            id,
            function: function.into(),
            params,
            deadline: None,
            resumable: false,
            resume: None,
            way: Way::Direct,
            trace: Scope::OFF,
        }
    }
}

impl fmt::Debug for Call {
    /// Without the parameters and the answer: they are the tenant's own and belong in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("function", &self.function)
            .field("deadline", &self.deadline)
            .field("resumable", &self.resumable)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_is_not_in_the_debug_text_of_its_call() {
        let params = serde_json::json!({ "prompt": "a secret" });
        let id = CallId("1".into());
        let call = Call::new(id, "chat", params);
        let text = format!("{call:?}");
        assert!(text.contains("chat") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_deadline_names_what_was_asked_for_and_never_overflows() {
        let now = Instant::now();
        let (soon, never) = (Deadline::after(now, 5), Deadline::after(now, u64::MAX));
        assert_eq!(never.earliest(soon), soon);
        assert_eq!(soon.refusal(), Refusal::DeadlineExceeded { deadline_ms: 5 });
        assert!(soon.is_over(now + Duration::from_millis(5)) && !soon.is_over(now));
        let handed_on = Deadline::with_left(now, 2, 5);
        assert!(handed_on.is_over(now + Duration::from_millis(2)));
        assert_eq!(handed_on.refusal(), soon.refusal());
    }

    #[test]
    fn no_more_tokens_are_resumed_than_the_longest_context_holds() {
        let resume = |count| Resume::new(vec![1; count], 0, 7);
        assert!(resume(RESUMED_TOKENS_MAX).is_ok());
        assert!(matches!(resume(RESUMED_TOKENS_MAX + 1), Err(Refusal::Invalid(_))));
    }
}
