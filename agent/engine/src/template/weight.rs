//! What a value weighs when all that it holds is written out.
//!
//! A value may hold another many times, and so weigh more than any memory. The template language
//! pays for what it makes, not for what it walks to compare or to write, so each value is weighed
//! when it is made and again before it is walked.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use minijinja::{
    Error, ErrorKind, State,
    value::{DynObject, ObjectRepr, Value},
};

use super::python::{out_of_fuel, room};
use crate::tokenizer::TEXT_BYTES_MAX;

/// Values that one value may hold, over all levels. A conversation has three for each message and
/// `range` makes 100 000, so this is more than either and takes some milliseconds to walk.
const VALUES_MAX: usize = 1 << 17;
/// Bytes of text in one value: a list of all messages, four times.
const BYTES_MAX: usize = 4 * TEXT_BYTES_MAX;
/// Lists around a value. The deepest in use are schemas of tools, with some ten.
const DEPTH_MAX: usize = 64;
/// Values that one unit of fuel pays to walk: about as much work as an instruction, or two.
const VALUES_PER_FUEL: usize = 16;

/// Whether a namespace may be what is weighed. Inside of another value it never may: it is the one
/// value that changes, and so could come to hold itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespaces {
    Outermost,
    Never,
}

/// Fails unless what was made may be kept. Always true: a test is what costs a template the least.
pub(super) fn made(state: &State<'_, '_>, value: &Value) -> Result<bool, Error> {
    weigh(state, value, Namespaces::Outermost).map(|()| true)
}

/// Fails unless there is fuel to walk `value`, which is used up.
pub(super) fn walked(state: &State<'_, '_>, value: &Value) -> Result<bool, Error> {
    weigh(state, value, Namespaces::Never).map(|()| true)
}

/// `values` from the last to the first, each paid for: they are pushed back in turn.
///
/// Named arguments are one of them, which only a borrowed list lets through.
pub(super) fn arguments(state: &State<'_, '_>, values: &Value) -> Result<Value, Error> {
    let mut values = values.try_iter()?.collect::<Vec<_>>();
    for value in &values {
        weigh(state, value, Namespaces::Never)?;
    }
    values.reverse();
    Ok(values.into())
}

/// The list that `value` stands for. One that is made only where it is walked, out of another such
/// list, would otherwise grow a level each time.
pub(super) fn list_of(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    weigh(state, &value, Namespaces::Never)?;
    match value.as_object().map(DynObject::repr) {
        Some(ObjectRepr::Iterable) => value.try_iter().map(Iterator::collect),
        _ => Ok(value),
    }
}

fn weigh(state: &State<'_, '_>, value: &Value, namespaces: Namespaces) -> Result<(), Error> {
    let left = state.fuel_levels().map_or(u64::MAX, |(_, left)| left);
    let left = usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(VALUES_PER_FUEL);
    let values_max = left.min(VALUES_MAX);
    let mut scale = Scale { values_left: values_max, bytes_left: room(state).min(BYTES_MAX) };
    scale.add(value, 0, namespaces).map_err(|too_much| match too_much {
        TooMuch::Weight => out_of_fuel(state),
        TooMuch::Depth => refused("a value has too many lists around it"),
        TooMuch::Namespace => refused("a namespace is used as a value"),
    })?;
    let values = values_max.saturating_sub(scale.values_left);
    state.consume_fuel(u64::try_from(values / VALUES_PER_FUEL).unwrap_or(u64::MAX))
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

enum TooMuch {
    Weight,
    Depth,
    Namespace,
}

struct Scale {
    values_left: usize,
    bytes_left: usize,
}

impl Scale {
    fn add(&mut self, value: &Value, depth: usize, namespaces: Namespaces) -> Result<(), TooMuch> {
        self.values_left = self.values_left.checked_sub(1).ok_or(TooMuch::Weight)?;
        let bytes = value.as_bytes().map_or(0, <[u8]>::len);
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(TooMuch::Weight)?;
        let Some(object) = value.as_object() else { return Ok(()) };
        if namespaces == Namespaces::Never && object.type_name().ends_with("::Namespace") {
            return Err(TooMuch::Namespace);
        }
        if depth > DEPTH_MAX {
            return Err(TooMuch::Depth);
        }
        let deeper = depth.saturating_add(1);
        match object.repr() {
            ObjectRepr::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.add(&key, deeper, Namespaces::Never)?;
                    self.add(&value, deeper, Namespaces::Never)?;
                }
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                for value in object.try_iter().into_iter().flatten() {
                    self.add(&value, deeper, Namespaces::Never)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
