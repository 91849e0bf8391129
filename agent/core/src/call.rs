//! What a client asks for.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::refusal::Refusal;

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

    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    pub const fn at(self) -> Instant {
        self.at
    }

    pub fn is_over(self, now: Instant) -> bool {
        self.at <= now
    }

    pub const fn refusal(self) -> Refusal {
        Refusal::DeadlineExceeded { deadline_ms: self.ms }
    }
}

/// One call of a function.
#[derive(Clone)]
pub struct Call {
    pub id: CallId,
    /// `generate`, `chat`, `tokenize`, `pipeline`, or any function the tenant's program exports.
    pub function: String,
    /// The function's own parameters; read by whoever runs it.
    pub params: serde_json::Value,
    /// When the call ends, however far it is.
    pub deadline: Option<Deadline>,
}

impl fmt::Debug for Call {
    /// Without the parameters: they are the tenant's own and belong in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("function", &self.function)
            .field("deadline", &self.deadline)
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
        let call = Call { id, function: "chat".into(), params, deadline: None };
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
    }
}
