//! Refusals on their way into a program and back out of it.

use std::mem::discriminant;

use realm_core::{
    engine::TextError,
    refusal::{ProgramLimit, Refusal},
};
use thiserror::Error;
use wasmtime::{Trap, component::ResourceTableError};

use crate::bindings::realm::tenant::types::{Error as Told, TokenLimit};

/// Bytes of a program's own text that reach a client: one paragraph.
const TEXT_BYTES_MAX: usize = 1024;

/// What a client should wait when every sandbox is taken. Calls last seconds, and there are
/// hundreds of places, so one comes free in a fraction of that.
const POOL_RETRY_MS: u64 = 250;

/// How a host function fails: the program is told, or its call ends.
#[derive(Debug)]
pub(crate) enum HostError {
    Refused(Refusal),
    Ended(wasmtime::Error),
}

impl HostError {
    /// How the work ended, for its span.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Ended(error) => match error.downcast_ref() {
                Some(Ended(refusal)) => refusal.code(),
                None => Refusal::Internal.code(),
            },
        }
    }
}

impl From<Refusal> for HostError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Ended> for HostError {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended.into())
    }
}

impl From<ResourceTableError> for HostError {
    fn from(error: ResourceTableError) -> Self {
        Self::Ended(error.into())
    }
}

/// The host ends a call in the middle of the program.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Ended(pub(crate) Refusal);

impl Ended {
    pub(crate) const fn limit(limit: ProgramLimit, max: u64) -> Self {
        Self(Refusal::ProgramLimit { limit, max })
    }
}

/// Our own fault. The client is told that the log has the cause, so it has.
pub(crate) fn internal(cause: &str) -> Refusal {
    tracing::error!(cause, "a call failed inside the host");
    Refusal::Internal
}

/// What the program is told of a refusal.
pub(crate) fn tell(refusal: &Refusal) -> Told {
    match refusal {
        Refusal::UnknownFunction(name) => Told::UnknownFunction(name.clone()),
        Refusal::UnknownModel(name) => Told::UnknownModel(name.clone()),
        Refusal::Invalid(message) => Told::Invalid(message.clone()),
        Refusal::TooLong { tokens, tokens_max }
        | Refusal::TextTooLong { at: _, tokens, tokens_max } => Told::TooLong(TokenLimit {
            tokens: u64::try_from(*tokens).unwrap_or(u64::MAX),
            tokens_max: u64::try_from(*tokens_max).unwrap_or(u64::MAX),
        }),
        Refusal::TooLongForLimit { tokens, per_minute } => Told::TooLong(TokenLimit {
            tokens: u64::from(*tokens),
            tokens_max: u64::from(*per_minute),
        }),
        Refusal::ModelNotReady { reason, .. } => Told::ModelNotReady(reason.clone()),
        Refusal::Busy { retry_after_ms } => Told::Busy(*retry_after_ms),
        Refusal::Unauthenticated
        | Refusal::Suspended
        | Refusal::NotAllowed(_)
        | Refusal::UnknownPipeline(_)
        | Refusal::Unsupported(_)
        | Refusal::TooLarge { .. }
        | Refusal::TooManyRequests { .. }
        | Refusal::TooManyTokens { .. }
        | Refusal::TooManyCalls { .. }
        | Refusal::ProgramNotReady { .. }
        | Refusal::Starting
        | Refusal::Draining
        | Refusal::Moved
        | Refusal::DeadlineExceeded { .. }
        | Refusal::SlowReader
        | Refusal::Cancelled
        | Refusal::ProgramLimit { .. }
        | Refusal::ProgramFailed(_)
        | Refusal::Internal => Told::Refused(refusal.to_string()),
    }
}

/// What a program's own error is to the client. Where the program returns what the host told it,
/// the host's own refusal, `told`, is the reason, whatever text the program put in.
pub(crate) fn returned(error: Told, told: Option<Refusal>) -> Refusal {
    if let Some(refusal) = told
        && discriminant(&tell(&refusal)) == discriminant(&error)
    {
        return refusal;
    }
    match error {
        Told::UnknownFunction(name) => Refusal::UnknownFunction(cut(name)),
        Told::UnknownModel(name) => Refusal::UnknownModel(cut(name)),
        Told::Invalid(message) => Refusal::Invalid(cut(message)),
        Told::TooLong(limit) => Refusal::TooLong {
            tokens: usize::try_from(limit.tokens).unwrap_or(usize::MAX),
            tokens_max: usize::try_from(limit.tokens_max).unwrap_or(usize::MAX),
        },
        Told::Busy(retry_after_ms) => Refusal::Busy { retry_after_ms },
        Told::ModelNotReady(message) | Told::Refused(message) | Told::Failed(message) => {
            Refusal::ProgramFailed(cut(message))
        }
    }
}

/// Why a program that was stopped was stopped.
pub(crate) fn trapped(error: &wasmtime::Error, fuel_max: u64) -> Refusal {
    if let Some(Ended(refusal)) = error.downcast_ref() {
        return refusal.clone();
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Refusal::Busy { retry_after_ms: POOL_RETRY_MS };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max: fuel_max },
        Some(trap) => Refusal::ProgramFailed(trap.to_string()),
        None => Refusal::ProgramFailed(cut(error.root_cause().to_string())),
    }
}

/// Why text did not become tokens, or tokens text: what was asked for cannot be done.
pub(crate) fn text(error: &TextError) -> Refusal {
    match error {
        TextError::TooLong { bytes_max, .. } => Refusal::TooLarge { bytes_max: *bytes_max },
        TextError::NoChatTemplate
        | TextError::Template(_)
        | TextError::UnknownToken { .. }
        | TextError::Tokenizer(_) => Refusal::Invalid(cut(error.to_string())),
    }
}

/// `text` within [`TEXT_BYTES_MAX`], ending at a whole character.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tracing::{
        Event, Level, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::*;

    #[test]
    fn the_hosts_own_reason_survives_a_program_that_rewords_it() {
        let refusal = Refusal::ModelNotReady { model: "a".into(), reason: "loading".into() };
        let Told::ModelNotReady(_) = tell(&refusal) else { panic!("told {:?}", tell(&refusal)) };
        let reworded = Told::ModelNotReady("all is well".into());
        assert_eq!(returned(reworded.clone(), Some(refusal.clone())), refusal);
        assert_eq!(returned(reworded, None), Refusal::ProgramFailed("all is well".into()));
        let own = Told::Failed("mine".into());
        assert_eq!(returned(own, Some(refusal)), Refusal::ProgramFailed("mine".into()));
    }

    #[test]
    fn the_log_has_the_cause_of_an_internal_error() {
        let seen = Arc::new(AtomicBool::new(false));
        tracing::subscriber::with_default(Seen(seen.clone()), || {
            assert_eq!(internal("on purpose"), Refusal::Internal);
        });
        assert!(seen.load(Ordering::Relaxed));
    }

    /// Sees events that are errors.
    struct Seen(Arc<AtomicBool>);

    impl Subscriber for Seen {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::ERROR
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.store(true, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_long_text_is_cut_at_a_whole_character() {
        let cut = cut("é".repeat(TEXT_BYTES_MAX));
        assert_eq!(cut.len(), TEXT_BYTES_MAX);
        let odd = super::cut(format!("a{}", "é".repeat(TEXT_BYTES_MAX)));
        assert_eq!(odd.len(), TEXT_BYTES_MAX - 1);
    }
}
