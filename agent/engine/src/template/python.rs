//! What templates written for Python expect of values: methods, and JSON in Python's spacing.

use std::io;

use minijinja::{
    Error, ErrorKind, State,
    value::{Kwargs, Value, ValueKind, from_args},
};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Calls a Python method that the template language itself does not have.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(text, name, args),
        (None, ValueKind::Map) => map_method(state, value, name, args),
        (None, _) => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("no method named {name}"))
}

fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let stripped = |args| -> Result<Vec<char>, Error> {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(chars.map_or_else(Vec::new, |chars| chars.chars().collect()))
    };
    let is_stripped = |chars: &[char], c: char| {
        if chars.is_empty() { c.is_whitespace() } else { chars.contains(&c) }
    };
    Ok(match name {
        "strip" => {
            let chars = stripped(args)?;
            Value::from(text.trim_matches(|c| is_stripped(&chars, c)))
        }
        "lstrip" => {
            let chars = stripped(args)?;
            Value::from(text.trim_start_matches(|c| is_stripped(&chars, c)))
        }
        "rstrip" => {
            let chars = stripped(args)?;
            Value::from(text.trim_end_matches(|c| is_stripped(&chars, c)))
        }
        "startswith" => Value::from(from_args::<(&str,)>(args).map(|(s,)| text.starts_with(s))?),
        "endswith" => Value::from(from_args::<(&str,)>(args).map(|(s,)| text.ends_with(s))?),
        "upper" => from_args::<()>(args).map(|()| Value::from(text.to_uppercase()))?,
        "lower" => from_args::<()>(args).map(|()| Value::from(text.to_lowercase()))?,
        "split" => split(text, args)?,
        "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            Value::from(text.replace(from, to))
        }
        _ => return Err(unknown(name)),
    })
}

fn split(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, splits_max): (Option<&str>, Option<i64>) = from_args(args)?;
    let pieces_max = splits_max
        .and_then(|most| usize::try_from(most).ok())
        .map_or(usize::MAX, |most| most.saturating_add(1));
    Ok(match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.splitn(pieces_max, separator).map(Value::from).collect(),
        None if splits_max.is_none() => text.split_whitespace().map(Value::from).collect(),
        None => return Err(unknown("split with a limit and no separator")),
    })
}

fn map_method(
    state: &mut State<'_, '_>,
    map: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match name {
        "items" => {
            from_args::<()>(args)?;
            state.apply_filter("items", std::slice::from_ref(map))
        }
        "keys" => {
            from_args::<()>(args)?;
            Ok(map.try_iter()?.collect())
        }
        "values" => {
            from_args::<()>(args)?;
            map.try_iter()?
                .map(|key| map.get_item(&key))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::from)
        }
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(&key)?;
            Ok(if found.is_undefined() {
                default.unwrap_or_else(|| Value::from(()))
            } else {
                found
            })
        }
        _ => Err(unknown(name)),
    }
}

/// `json.dumps` with `ensure_ascii=False`: a blank after each comma and colon, no escapes for HTML.
pub(super) fn to_json(value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let _: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
        Some(indent) => {
            let blanks = " ".repeat(indent.min(INDENT_MAX));
            let pretty = PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, pretty))
        }
    };
    let failed = |error: String| Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out).map(Value::from).map_err(|error| failed(error.to_string()))
}

/// Blanks of indentation, twice the widest style in use.
const INDENT_MAX: usize = 8;

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
