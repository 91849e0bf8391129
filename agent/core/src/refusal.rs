//! Why a call was not served, or not to its end.

use thiserror::Error;

/// What a client should wait for a model that is not ready: a small one loads in seconds, and who
/// asks for a large one more often than this only keeps the door busy.
const MODEL_RETRY_MS: u64 = 5000;

/// What a client should wait for a server that is starting: it reads its ledger in milliseconds and
/// compiles the first programs in a second or two.
const STARTING_RETRY_MS: u64 = 2000;

/// What a client should wait for its tenant's program: most are compiled in a second or two, and
/// one that does not come is tried again no more often.
const PROGRAM_RETRY_MS: u64 = 2000;

/// Which of a program's limits ended its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramLimit {
    Memory,
    Fuel,
    HostCalls,
    Output,
}

/// Why a call was not served, or not to its end: the caller's fault or one of our limits.
///
/// Closed: each variant has its code on the wire, which is a metric label. The message is for people
/// and carries the numbers; it never says which of several reasons a key was refused for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the API key is missing, wrong, expired or revoked")]
    Unauthenticated,
    #[error("the tenant is suspended")]
    Suspended,
    #[error("{0} is not granted to this tenant")]
    NotAllowed(String),
    #[error("unknown function `{0}`")]
    UnknownFunction(String),
    #[error("unknown model `{0}`")]
    UnknownModel(String),
    #[error("unknown pipeline `{0}`")]
    UnknownPipeline(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the message is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("more than {per_minute} requests per minute")]
    TooManyRequests { per_minute: u32, retry_after_ms: u64 },
    #[error("more than {per_minute} tokens per minute")]
    TooManyTokens { per_minute: u32, retry_after_ms: u64 },
    #[error("more than {calls_max} calls at once")]
    TooManyCalls { calls_max: u32 },
    #[error("the prompt has {tokens} tokens and the context holds {tokens_max}")]
    TooLong { tokens: usize, tokens_max: usize },
    /// No minute has so many: waiting does not help.
    #[error(
        "{tokens} tokens at once and limits.inputTokensPerMinute is {per_minute}; a prompt is \
         computed whole or not at all"
    )]
    TooLongForLimit { tokens: u32, per_minute: u32 },
    /// Of the texts of a call, number `at` from 0 on.
    #[error("text {at} has {tokens} tokens and {tokens_max} are the most; none is cut")]
    TextTooLong { at: usize, tokens: usize, tokens_max: usize },
    /// The model is there and cannot do this.
    #[error("{0}")]
    Unsupported(String),
    #[error("model `{model}` is not ready: {reason}")]
    ModelNotReady { model: String, reason: String },
    /// The key is a good one, and what would run its calls is not there.
    #[error("the tenant's program is not there: {reason}")]
    ProgramNotReady { reason: String },
    #[error("every place is taken; try again")]
    Busy { retry_after_ms: u64 },
    /// Nothing is known yet of the key: it may be a good one.
    #[error("this server is starting and does not know every key yet; try again")]
    Starting,
    #[error("this server is draining; connect again")]
    Draining,
    #[error("this server went away before the answer's end; ask another one")]
    Moved,
    #[error("the call took longer than {deadline_ms} ms")]
    DeadlineExceeded { deadline_ms: u64 },
    #[error("the client read too slowly")]
    SlowReader,
    #[error("the call was cancelled")]
    Cancelled,
    #[error("the tenant's program went over its limit of {}", limit_text(*.limit, *.max))]
    ProgramLimit { limit: ProgramLimit, max: u64 },
    #[error("the tenant's program failed: {0}")]
    ProgramFailed(String),
    #[error("internal error; the server's log has the cause")]
    Internal,
}

fn limit_text(limit: ProgramLimit, max: u64) -> String {
    match limit {
        ProgramLimit::Memory => format!("{max} bytes of memory"),
        ProgramLimit::Fuel => format!("{max} units of fuel"),
        ProgramLimit::HostCalls => format!("{max} host calls"),
        ProgramLimit::Output => format!("{max} bytes of output"),
    }
}

impl Refusal {
    /// The stable code on the wire and in metric labels.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Suspended => "suspended",
            Self::NotAllowed(_) => "not_allowed",
            Self::UnknownFunction(_) => "unknown_function",
            Self::UnknownModel(_) => "unknown_model",
            Self::UnknownPipeline(_) => "unknown_pipeline",
            Self::Invalid(_) => "invalid",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::TooManyTokens { .. } => "too_many_tokens",
            Self::TooManyCalls { .. } => "too_many_calls",
            Self::TooLong { .. } | Self::TooLongForLimit { .. } | Self::TextTooLong { .. } => {
                "too_long"
            }
            Self::Unsupported(_) => "unsupported",
            Self::ModelNotReady { .. } => "model_not_ready",
            Self::ProgramNotReady { .. } => "program_not_ready",
            Self::Busy { .. } => "busy",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Moved => "moved",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::SlowReader => "slow_reader",
            Self::Cancelled => "cancelled",
            Self::ProgramLimit { limit: ProgramLimit::Memory, .. } => "program_memory",
            Self::ProgramLimit { limit: ProgramLimit::Fuel, .. } => "program_fuel",
            Self::ProgramLimit { limit: ProgramLimit::HostCalls, .. } => "program_host_calls",
            Self::ProgramLimit { limit: ProgramLimit::Output, .. } => "program_output",
            Self::ProgramFailed(_) => "program_failed",
            Self::Internal => "internal",
        }
    }

    /// How long a client should wait before it tries again, where waiting helps.
    pub const fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests { retry_after_ms, .. }
            | Self::TooManyTokens { retry_after_ms, .. }
            | Self::Busy { retry_after_ms } => Some(*retry_after_ms),
            Self::ModelNotReady { .. } => Some(MODEL_RETRY_MS),
            Self::ProgramNotReady { .. } => Some(PROGRAM_RETRY_MS),
            Self::Starting => Some(STARTING_RETRY_MS),
            _ => None,
        }
    }
}
