//! What the operator says as protobuf, and protobuf as what an agent said.
//!
//! Encoding cannot fail. Decoding trusts nothing: an agent proves its node, not that it says what
//! makes sense, and what it says becomes the status of objects.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{collections::HashSet, net::AddrParseError, sync::Arc, time::Duration};

use realm_plan::{Name, NameError, desired::Sha256, shares::PARTS};
use realm_proto::link::{TEXT_BYTES_MAX, v1 as proto, versions::Versions};
use thiserror::Error;

use super::supply::Credentials;

mod desired;
mod report;
mod slices;
mod supply;

pub(super) use desired::Encoder;
pub(super) use report::{refused_from, report_from};
pub(super) use slices::{slices_from, slices_to, spends_from};
pub(super) use supply::{hello_from, supply_from, uses_from};

/// What is wrong with something that an agent said.
#[derive(Debug, Error)]
pub enum ConvertError {
    #[error("field `{field}` is missing, or of a kind that this operator does not know")]
    Missing { field: &'static str },
    #[error("field `{field}` holds no name")]
    Name {
        field: &'static str,
        #[source]
        source: NameError,
    },
    #[error("field `{field}` holds `{text}`, which is not of the form namespace/name")]
    NotTwoParts { field: &'static str, text: String },
    #[error("field `{field}` holds {bytes} bytes and a SHA-256 digest has 32")]
    Digest { field: &'static str, bytes: usize },
    #[error("field `{field}` holds the unknown value {value}")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("field `{field}` has {bytes} bytes; {bytes_max} are the most")]
    TooLong { field: &'static str, bytes: usize, bytes_max: usize },
    #[error("field `{field}` holds `{text}`, which is no CamelCase reason")]
    Reason { field: &'static str, text: String },
    #[error("field `{field}` holds {parts} parts of a limit, which has {PARTS}")]
    Parts { field: &'static str, parts: u32 },
    #[error("field `facts.memory.sequence_blocks` says that {whole} of {bands} parts are whole")]
    Bands { whole: u32, bands: u32 },
    #[error("field `{field}` is not of the form ip:port")]
    Address {
        field: &'static str,
        #[source]
        source: AddrParseError,
    },
    #[error("field `{field}` holds `{name}` twice")]
    Duplicate { field: &'static str, name: String },
}

pub(super) fn welcome_to(heartbeat: Duration) -> proto::OperatorMessage {
    let heartbeat_ms = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX).max(1);
    let (link_oldest, link_newest) = (Versions::OURS.oldest(), Versions::OURS.newest());
    let welcome = proto::Welcome { heartbeat_ms, link_oldest, link_newest };
    message(proto::operator_message::Message::Welcome(welcome))
}

pub(super) const fn heartbeat_to() -> proto::OperatorMessage {
    message(proto::operator_message::Message::Heartbeat(proto::Heartbeat {}))
}

pub(super) fn credentials_to(credentials: &Credentials) -> proto::OperatorMessage {
    let Credentials(models) = credentials;
    let credential = |(model, secret): (&Name, &Arc<[u8]>)| proto::Credential {
        model: model.to_string(),
        secret: secret.to_vec(),
    };
    let models = models.iter().map(credential).collect();
    message(proto::operator_message::Message::Credentials(proto::Credentials { models }))
}

pub(super) const fn message(message: proto::operator_message::Message) -> proto::OperatorMessage {
    proto::OperatorMessage { message: Some(message) }
}

fn all<A, B>(
    items: Vec<A>,
    convert: impl FnMut(A) -> Result<B, ConvertError>,
) -> Result<Vec<B>, ConvertError> {
    items.into_iter().map(convert).collect()
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

fn named(field: &'static str, text: &str) -> Result<Name, ConvertError> {
    let Some((namespace, name)) = text.split_once('/') else {
        let text = text.chars().take(TEXT_BYTES_MAX).collect();
        return Err(ConvertError::NotTwoParts { field, text });
    };
    Name::new(namespace, name).map_err(|source| ConvertError::Name { field, source })
}

fn digest_from(field: &'static str, bytes: &[u8]) -> Result<Sha256, ConvertError> {
    let digest = bytes.try_into();
    digest.map(Sha256).map_err(|_| ConvertError::Digest { field, bytes: bytes.len() })
}

/// A text that is kept and shown, so not of any length.
fn text_from(field: &'static str, text: String) -> Result<String, ConvertError> {
    let (bytes, bytes_max) = (text.len(), TEXT_BYTES_MAX);
    if bytes > bytes_max {
        return Err(ConvertError::TooLong { field, bytes, bytes_max });
    }
    Ok(text)
}

/// What Kubernetes takes as the reason of a condition.
fn reason_from(field: &'static str, text: String) -> Result<String, ConvertError> {
    let text = text_from(field, text)?;
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts_well && text.chars().all(|c| c.is_ascii_alphanumeric()) {
        Ok(text)
    } else {
        Err(ConvertError::Reason { field, text })
    }
}

fn unique<'a, N: std::hash::Hash + Eq + ToString + ?Sized + 'a>(
    field: &'static str,
    names: impl Iterator<Item = &'a N>,
) -> Result<(), ConvertError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ConvertError::Duplicate { field, name: name.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a wrong index fails the test, as it should")]
mod tests;
