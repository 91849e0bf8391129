//! What a server sends.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A frame from a server: about one call, or about the connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum ServerFrame {
    Connection(ConnectionFrame),
    Reply(ReplyFrame),
}

/// A frame about the connection as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConnectionFrame {
    /// Comes once, after authentication.
    Ready {
        protocol: String,
        tenant: String,
        version: String,
    },
    Error {
        error: ErrorBody,
    },
    /// No new calls here; running ones may finish within the grace.
    GoingAway {
        grace_ms: u64,
        /// Whether resumable calls should be resumed elsewhere rather than waited for.
        resume: bool,
    },
}

/// A frame about one call. All but `Streaming` are the call's last.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "status", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplyFrame {
    Streaming {
        id: String,
        /// Counts this call's pieces from 0.
        index: u64,
        data: Piece,
        /// Of a resumable call: how far the answer is with this piece.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        progress: Option<Progress>,
    },
    Complete {
        id: String,
        data: Value,
        finish: Finish,
        usage: Usage,
        quota: Quota,
    },
    Error {
        id: String,
        error: ErrorBody,
    },
    Cancelled {
        id: String,
    },
}

/// A piece of a streamed reply: `text`, or a `value` of the program's own making.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The pipeline step it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// How likely the tokens since the piece before were, for who has asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Logprobs>,
}

/// How likely a token was, and which ones were likeliest in its place.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logprobs {
    pub chosen: ScoredToken,
    /// The likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<ScoredToken>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredToken {
    pub id: u32,
    pub text: String,
    /// Where it is not whole characters, which `text` then has something else in place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// The natural logarithm of its probability.
    pub logprob: f64,
}

/// How far an answer is, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The place in the answer of the first of `tokens`.
    pub first: u64,
    /// Ids of the tokens since the piece before.
    pub tokens: Vec<u32>,
    /// What the answer is drawn with; in a call's first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    Stop,
    Length,
}

/// What the call cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}

/// What is left of the tenant's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub requests: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// Why something was not served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// Stable; for programs.
    pub code: String,
    /// For people.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}
