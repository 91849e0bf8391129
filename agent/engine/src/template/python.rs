//! What templates written for Python expect of values: methods, and JSON in Python's spacing.

use std::{collections::HashSet, io};

use minijinja::{
    Error, ErrorKind, State,
    value::{Kwargs, Value, ValueKind, from_args},
};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::tokenizer::TEXT_BYTES_MAX;

/// Calls a Python method that the template language itself does not have.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(state, (value, text), name, args),
        (None, ValueKind::Map) => map_method(state, value, name, args),
        (None, _) => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("no method named {name}"))
}

fn text_method(
    state: &mut State<'_, '_>,
    (value, text): (&Value, &str),
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    pay_for_arguments(state, args)?;
    let stripped = |args| -> Result<HashSet<char>, Error> {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(chars.map_or_else(HashSet::new, |chars| chars.chars().collect()))
    };
    let is_stripped = |chars: &HashSet<char>, c: char| {
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
        "split" => split(state, text, args)?,
        "replace" => {
            let (_, _): (&str, &str) = from_args(args)?;
            let args: Vec<_> = std::iter::once(value).chain(args).cloned().collect();
            // The filter looks at the fuel before it makes the text.
            state.apply_filter("replace", &args)?
        }
        _ => return Err(unknown(name)),
    })
}

/// Bytes of a method's arguments that one unit of fuel pays for: the dearest method puts each
/// character into a set.
const ARGUMENT_BYTES_PER_FUEL: usize = 16;

fn pay_for_arguments(state: &State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    let bytes = args.iter().filter_map(Value::as_str).map(str::len).fold(0, usize::saturating_add);
    state.consume_fuel(u64::try_from(bytes / ARGUMENT_BYTES_PER_FUEL).unwrap_or(u64::MAX))
}

/// The bytes that one unit of fuel pays for, of what methods and filters make.
const FUEL_BYTES: usize = 64;

/// Bytes that the fuel still pays for. It is charged for what a method or filter has made, so each
/// looks here before it makes much of little.
pub(super) fn room(state: &State<'_, '_>) -> usize {
    let left = state.fuel_levels().map_or(u64::MAX, |(_, left)| left);
    usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(FUEL_BYTES)
}

/// Uses up the fuel, as what there is no room for would have done.
pub(super) fn out_of_fuel(state: &State<'_, '_>) -> Error {
    let spent = state.consume_fuel(u64::MAX);
    spent.err().unwrap_or_else(|| Error::from(ErrorKind::OutOfFuel))
}

fn split(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, splits_max): (Option<&str>, Option<i64>) = from_args(args)?;
    let pieces = match separator {
        Some("") => 0,
        Some(separator) => text.matches(separator).count(),
        None => text.split_whitespace().count(),
    };
    if pieces.saturating_mul(size_of::<Value>()) > room(state) {
        return Err(out_of_fuel(state));
    }
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
#[expect(clippy::needless_pass_by_value, reason = "filters are given their arguments")]
pub(super) fn to_json(state: &State<'_, '_>, value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let _: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    // More than this is no prompt, and a value that holds another many times takes long to write.
    let bytes_max = room(state).min(TEXT_BYTES_MAX);
    let mut out = Bounded { bytes: Vec::new(), bytes_max, is_full: false };
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
        Some(indent) => {
            let blanks = " ".repeat(indent.min(INDENT_MAX));
            let pretty = PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, pretty))
        }
    };
    if out.is_full {
        return Err(out_of_fuel(state));
    }
    let failed = |error: String| Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out.bytes).map(Value::from).map_err(|error| failed(error.to_string()))
}

/// Bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(more.len()) > self.bytes_max {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
