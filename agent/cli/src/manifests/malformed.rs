//! A value that is not of its field's type, in one sentence: which field, what it says, what it takes.

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

/// What a reader's `error` means, at the `value` it is about: its path, and its text if it is one.
pub(super) fn message(error: &Error, value: Option<(String, Option<&str>)>) -> String {
    let said = DefaultMessageFormatter.format_message(error);
    let Some((path, text)) = value else { return said.into_owned() };
    let wanted = match error {
        Error::InvalidScalar { ty, .. } => Some(scalar(ty)),
        Error::Unexpected { expected, .. } => Some(shape(expected)),
        Error::InvalidBooleanStrict { .. } => Some("true or false".to_owned()),
        // It names the field itself, and where it stands may be where another value begins.
        Error::SerdeUnknownField { .. } => return said.into_owned(),
        // The reader says these well enough itself; its enum grows.
        _ => None,
    };
    match (wanted, text) {
        (Some(wanted), Some(text)) => format!("{path}: `{text}` is not {wanted}"),
        (Some(wanted), None) => format!("{path}: takes {wanted}"),
        (None, _) => format!("{path}: {said}"),
    }
}

/// A type of the reader's in a person's words.
fn scalar(ty: &str) -> String {
    match ty {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" => format!("a whole number from 0 to {}", u64::MAX),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "floating point" | "f32" | "f64" => "a number".to_owned(),
        _ if ty.starts_with("boolean") => "true or false".to_owned(),
        other => format!("a {other}"),
    }
}

fn shape(expected: &str) -> String {
    match expected {
        "sequence start" => "a list".to_owned(),
        "mapping start" => "a mapping of fields".to_owned(),
        "scalar" | "string scalar" => "one value".to_owned(),
        other => format!("a {other}"),
    }
}
