//! What a span says: its name, its times, how it ended, and attributes of a closed set.

use std::time::Instant;

use super::context::SpanId;
use crate::refusal::Refusal;

/// How work ended that was served.
pub const OK: &str = "ok";

/// How work ended that nobody wanted any more.
pub const CANCELLED: &str = "cancelled";

/// Longest text of an attribute: a namespace, a name and what is between them.
const TEXT_BYTES_MAX: usize = 256;

/// How `result` ended, as an outcome.
pub fn outcome<T>(result: &Result<T, Refusal>) -> &'static str {
    match result {
        Ok(_) => OK,
        Err(refusal) => refusal.code(),
    }
}

/// A piece of work that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    pub id: SpanId,
    pub parent: Option<SpanId>,
    /// Whether the parent is a span of another process.
    pub is_parent_remote: bool,
    pub name: SpanName,
    pub start: Instant,
    pub end: Instant,
    /// [`OK`], a refusal's code, or a word of the work's own.
    pub outcome: &'static str,
    pub attributes: Vec<(Key, Value)>,
    pub moments: Vec<(Moment, Instant)>,
}

/// What a span's work is for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answers somebody else's request.
    Server,
    /// It asks somebody else.
    Client,
    Internal,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$each])* $variant,)*
        }

        impl $type {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

words!(
    /// The work that leaves spans.
    SpanName {
        /// A call at its door, from its arrival to its last word.
        Call = "call",
        /// Reading, checking and admitting it.
        Admit = "admit",
        /// Waiting at the door for a model that nobody serves yet.
        Hold = "hold",
        /// Handing it to another node.
        Forward = "forward",
        /// A call of another node's door.
        Serve = "serve",
        /// One step of a pipeline.
        Step = "step",
        /// One run of the tenant's program.
        Program = "program",
        Tokenize = "tokenize",
        TokenizeChat = "tokenize_chat",
        Detokenize = "detokenize",
        /// One sequence of an engine.
        Generate = "generate",
        /// Texts that an engine embeds.
        Embed = "embed",
        /// Until the sequence is first in a step.
        Queue = "queue",
        /// Until its first token.
        Prefill = "prefill",
        /// Until its last.
        Decode = "decode",
    }
);

impl SpanName {
    pub const fn role(self) -> Role {
        match self {
            Self::Call | Self::Serve => Role::Server,
            Self::Forward => Role::Client,
            Self::Admit
            | Self::Hold
            | Self::Step
            | Self::Program
            | Self::Tokenize
            | Self::TokenizeChat
            | Self::Detokenize
            | Self::Generate
            | Self::Embed
            | Self::Queue
            | Self::Prefill
            | Self::Decode => Role::Internal,
        }
    }
}

words!(
    /// What spans tell besides their times. Where OpenTelemetry's conventions for generative AI
    /// have a word, it is theirs.
    Key {
        Tenant = "realm.tenant",
        Function = "realm.function",
        Call = "realm.call",
        Door = "realm.door",
        Pipeline = "realm.pipeline",
        Step = "realm.step",
        /// `namespace/name`, where `gen_ai.request.model` is what its tenant calls it.
        ModelName = "realm.model",
        /// The other end of a call that is handed on.
        Node = "realm.node",
        Outcome = "realm.outcome",
        ErrorType = "error.type",
        Fuel = "realm.program.fuel",
        HostCalls = "realm.program.host_calls",
        /// Tokens of one sequence. The whole call's are under other keys, so that neither is
        /// counted twice.
        SequenceInput = "realm.sequence.input_tokens",
        SequenceCached = "realm.sequence.cached_tokens",
        SequenceOutput = "realm.sequence.output_tokens",
        SpansLost = "realm.spans_lost",
        Operation = "gen_ai.operation.name",
        Provider = "gen_ai.provider.name",
        Model = "gen_ai.request.model",
        Finish = "gen_ai.response.finish_reasons",
        InputTokens = "gen_ai.usage.input_tokens",
        CachedTokens = "gen_ai.usage.cache_read.input_tokens",
        OutputTokens = "gen_ai.usage.output_tokens",
    }
);

words!(
    /// What happens once within a span.
    Moment {
        /// The first piece of a call's answer leaves the program.
        FirstPiece = "first_piece",
        /// The engine has a sequence's first token.
        FirstToken = "first_token",
    }
);

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Box<str>),
    Count(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        let (text, _) = text.split_at(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_its_characters() {
        let Value::Text(text) = Value::from("é".repeat(200).as_str()) else { panic!() };
        assert_eq!(*text, "é".repeat(TEXT_BYTES_MAX / 2));
        assert_eq!(Value::from("short"), Value::Text("short".into()));
    }
}
