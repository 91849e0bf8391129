//! Why a call was not served, on its way from agent to agent: all of it, numbers too.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use prost::Message as _;
use realm_core::refusal::{ProgramLimit, Refusal};
use realm_proto::peer::v1::{self as proto, refusal as said};

use crate::convert::{ConvertError, required};

pub(super) fn refusal_to(refusal: Refusal) -> proto::Refusal {
    let nothing = said::Nothing {};
    let refusal = match refusal {
        Refusal::Unauthenticated => said::Refusal::Unauthenticated(nothing),
        Refusal::Suspended => said::Refusal::Suspended(nothing),
        Refusal::NotAllowed(what) => said::Refusal::NotAllowed(what),
        Refusal::UnknownFunction(name) => said::Refusal::UnknownFunction(name),
        Refusal::UnknownModel(name) => said::Refusal::UnknownModel(name),
        Refusal::UnknownPipeline(name) => said::Refusal::UnknownPipeline(name),
        Refusal::Invalid(message) => said::Refusal::Invalid(message),
        Refusal::TooLarge { bytes_max } => {
            said::Refusal::TooLarge(said::TooLarge { bytes_max: wide(bytes_max) })
        }
        Refusal::TooManyRequests { per_minute, retry_after_ms } => {
            said::Refusal::TooManyRequests(said::TooMany { per_minute, retry_after_ms })
        }
        Refusal::TooManyTokens { per_minute, retry_after_ms } => {
            said::Refusal::TooManyTokens(said::TooMany { per_minute, retry_after_ms })
        }
        Refusal::TooManyCalls { calls_max } => said::Refusal::TooManyCalls(calls_max),
        Refusal::TooLong { tokens, tokens_max } => too_long_to(None, tokens, tokens_max),
        Refusal::TextTooLong { at, tokens, tokens_max } => {
            too_long_to(Some(at), tokens, tokens_max)
        }
        Refusal::TooLongForLimit { tokens, per_minute } => said::Refusal::TooLong(said::TooLong {
            tokens: tokens.into(),
            tokens_max: per_minute.into(),
            text: None,
            is_per_minute: true,
        }),
        Refusal::Unsupported(what) => said::Refusal::Unsupported(what),
        Refusal::ModelNotReady { model, reason } => {
            said::Refusal::ModelNotReady(said::ModelNotReady { model, reason })
        }
        Refusal::ProgramNotReady { reason } => said::Refusal::ProgramNotReady(reason),
        Refusal::Busy { retry_after_ms } => said::Refusal::Busy(retry_after_ms),
        Refusal::Starting => said::Refusal::Starting(nothing),
        Refusal::Draining => said::Refusal::Draining(nothing),
        Refusal::Moved => said::Refusal::Moved(nothing),
        Refusal::DeadlineExceeded { deadline_ms } => said::Refusal::DeadlineExceeded(deadline_ms),
        Refusal::SlowReader => said::Refusal::SlowReader(nothing),
        Refusal::Cancelled => said::Refusal::Cancelled(nothing),
        Refusal::ProgramLimit { limit, max } => {
            said::Refusal::ProgramLimit(said::ProgramLimit { limit: limit_to(limit).into(), max })
        }
        Refusal::ProgramFailed(message) => said::Refusal::ProgramFailed(message),
        Refusal::Internal => said::Refusal::Internal(nothing),
    };
    proto::Refusal { refusal: Some(refusal) }
}

pub(super) fn refusal_from(refusal: proto::Refusal) -> Result<Refusal, ConvertError> {
    Ok(match required("reply.failed", refusal.refusal)? {
        said::Refusal::Unauthenticated(_) => Refusal::Unauthenticated,
        said::Refusal::Suspended(_) => Refusal::Suspended,
        said::Refusal::NotAllowed(what) => Refusal::NotAllowed(what),
        said::Refusal::UnknownFunction(name) => Refusal::UnknownFunction(name),
        said::Refusal::UnknownModel(name) => Refusal::UnknownModel(name),
        said::Refusal::UnknownPipeline(name) => Refusal::UnknownPipeline(name),
        said::Refusal::Invalid(message) => Refusal::Invalid(message),
        said::Refusal::TooLarge(said::TooLarge { bytes_max }) => {
            Refusal::TooLarge { bytes_max: narrow(bytes_max) }
        }
        said::Refusal::TooManyRequests(said::TooMany { per_minute, retry_after_ms }) => {
            Refusal::TooManyRequests { per_minute, retry_after_ms }
        }
        said::Refusal::TooManyTokens(said::TooMany { per_minute, retry_after_ms }) => {
            Refusal::TooManyTokens { per_minute, retry_after_ms }
        }
        said::Refusal::TooManyCalls(calls_max) => Refusal::TooManyCalls { calls_max },
        said::Refusal::TooLong(said::TooLong {
            tokens, tokens_max, is_per_minute: true, ..
        }) => {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            let per_minute = u32::try_from(tokens_max).unwrap_or(u32::MAX);
            Refusal::TooLongForLimit { tokens, per_minute }
        }
        said::Refusal::TooLong(said::TooLong { tokens, tokens_max, text, .. }) => {
            let (tokens, tokens_max) = (narrow(tokens), narrow(tokens_max));
            match text.map(narrow) {
                None => Refusal::TooLong { tokens, tokens_max },
                Some(at) => Refusal::TextTooLong { at, tokens, tokens_max },
            }
        }
        said::Refusal::Unsupported(what) => Refusal::Unsupported(what),
        said::Refusal::ModelNotReady(said::ModelNotReady { model, reason }) => {
            Refusal::ModelNotReady { model, reason }
        }
        said::Refusal::ProgramNotReady(reason) => Refusal::ProgramNotReady { reason },
        said::Refusal::Busy(retry_after_ms) => Refusal::Busy { retry_after_ms },
        said::Refusal::Starting(_) => Refusal::Starting,
        said::Refusal::Draining(_) => Refusal::Draining,
        said::Refusal::Moved(_) => Refusal::Moved,
        said::Refusal::DeadlineExceeded(deadline_ms) => Refusal::DeadlineExceeded { deadline_ms },
        said::Refusal::SlowReader(_) => Refusal::SlowReader,
        said::Refusal::Cancelled(_) => Refusal::Cancelled,
        said::Refusal::ProgramLimit(said::ProgramLimit { limit, max }) => {
            Refusal::ProgramLimit { limit: limit_from(limit)?, max }
        }
        said::Refusal::ProgramFailed(message) => Refusal::ProgramFailed(message),
        said::Refusal::Internal(_) => Refusal::Internal,
    })
}

fn too_long_to(text: Option<usize>, tokens: usize, tokens_max: usize) -> said::Refusal {
    said::Refusal::TooLong(said::TooLong {
        tokens: wide(tokens),
        tokens_max: wide(tokens_max),
        text: text.map(wide),
        is_per_minute: false,
    })
}

/// A refusal as the details of a status.
pub(in crate::peer) fn details_to(refusal: Refusal) -> Vec<u8> {
    refusal_to(refusal).encode_to_vec()
}

/// The refusal that the details of a status are, if they are one.
pub(in crate::peer) fn details_from(details: &[u8]) -> Option<Refusal> {
    refusal_from(proto::Refusal::decode(details).ok()?).ok()
}

const fn limit_to(limit: ProgramLimit) -> said::Limit {
    match limit {
        ProgramLimit::Memory => said::Limit::Memory,
        ProgramLimit::Fuel => said::Limit::Fuel,
        ProgramLimit::HostCalls => said::Limit::HostCalls,
        ProgramLimit::Output => said::Limit::Output,
    }
}

fn limit_from(value: i32) -> Result<ProgramLimit, ConvertError> {
    let field = "refusal.limit";
    match said::Limit::try_from(value) {
        Ok(said::Limit::Memory) => Ok(ProgramLimit::Memory),
        Ok(said::Limit::Fuel) => Ok(ProgramLimit::Fuel),
        Ok(said::Limit::HostCalls) => Ok(ProgramLimit::HostCalls),
        Ok(said::Limit::Output) => Ok(ProgramLimit::Output),
        Ok(said::Limit::Unspecified) => Err(ConvertError::Missing { field }),
        Err(prost::UnknownEnumValue(value)) => Err(ConvertError::UnknownValue { field, value }),
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn narrow(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
