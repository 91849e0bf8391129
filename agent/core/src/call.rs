//! What a client asks for.

use std::{fmt, time::Instant};

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

/// One call of a function.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: CallId,
    /// `generate`, `chat`, `tokenize`, `pipeline`, or any function the tenant's program exports.
    pub function: String,
    /// The function's own parameters; read by whoever runs it.
    pub params: serde_json::Value,
    /// When the call ends, however far it is.
    pub deadline: Option<Instant>,
}
