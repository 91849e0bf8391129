//! The typed values of a header, each kept in the type it was written in.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use super::{ARRAY_LEN_MAX, GgufError, STRING_BYTES_MAX, cursor::Cursor};

/// A value of the header.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one type of value.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The number of the array type, in a value's type field.
pub(super) const ARRAY: u32 = 9;

impl Value {
    pub const fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text.as_str()) } else { None }
    }

    /// A whole number of whichever width, where it fits.
    pub fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n),
            Self::U64(n) => n.try_into().ok(),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    pub const fn as_f32(&self) -> Option<f32> {
        if let Self::F32(x) = *self { Some(x) } else { None }
    }

    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = *self { Some(b) } else { None }
    }

    pub const fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(all)) = self { Some(all.as_slice()) } else { None }
    }

    pub const fn as_i32s(&self) -> Option<&[i32]> {
        if let Self::Array(Array::I32(all)) = self { Some(all.as_slice()) } else { None }
    }

    pub const fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::Array(Array::F32(all)) = self { Some(all.as_slice()) } else { None }
    }
}

pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let offset = cursor.at();
    let kind = cursor.u32("a value's type")?;
    let what = "a value";
    Ok(match kind {
        0 => Value::U8(cursor.array(what).map(u8::from_le_bytes)?),
        1 => Value::I8(cursor.array(what).map(i8::from_le_bytes)?),
        2 => Value::U16(cursor.array(what).map(u16::from_le_bytes)?),
        3 => Value::I16(cursor.array(what).map(i16::from_le_bytes)?),
        4 => Value::U32(cursor.array(what).map(u32::from_le_bytes)?),
        5 => Value::I32(cursor.array(what).map(i32::from_le_bytes)?),
        6 => Value::F32(cursor.array(what).map(f32::from_le_bytes)?),
        7 => Value::Bool(boolean(cursor)?),
        8 => Value::String(cursor.string(what, STRING_BYTES_MAX)?.to_owned()),
        ARRAY => Value::Array(array(cursor, key)?),
        10 => Value::U64(cursor.array(what).map(u64::from_le_bytes)?),
        11 => Value::I64(cursor.array(what).map(i64::from_le_bytes)?),
        12 => Value::F64(cursor.array(what).map(f64::from_le_bytes)?),
        kind => return Err(GgufError::ValueType { key: key.to_owned(), offset, kind }),
    })
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, GgufError> {
    let offset = cursor.at();
    match cursor.array("a boolean")? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(GgufError::Boolean { offset, found }),
    }
}

fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    let offset = cursor.at();
    let kind = cursor.u32("an array's type")?;
    Ok(match kind {
        0 => Array::U8(numbers(cursor, u8::from_le_bytes)?),
        1 => Array::I8(numbers(cursor, i8::from_le_bytes)?),
        2 => Array::U16(numbers(cursor, u16::from_le_bytes)?),
        3 => Array::I16(numbers(cursor, i16::from_le_bytes)?),
        4 => Array::U32(numbers(cursor, u32::from_le_bytes)?),
        5 => Array::I32(numbers(cursor, i32::from_le_bytes)?),
        6 => Array::F32(numbers(cursor, f32::from_le_bytes)?),
        7 => Array::Bool(elements(cursor, 1, boolean)?),
        // A string takes at least its own length's 8 bytes.
        8 => Array::String(elements(cursor, 8, |cursor| {
            cursor.string("a string of an array", STRING_BYTES_MAX).map(str::to_owned)
        })?),
        ARRAY => return Err(GgufError::NestedArray { key: key.to_owned(), offset }),
        10 => Array::U64(numbers(cursor, u64::from_le_bytes)?),
        11 => Array::I64(numbers(cursor, i64::from_le_bytes)?),
        12 => Array::F64(numbers(cursor, f64::from_le_bytes)?),
        kind => return Err(GgufError::ValueType { key: key.to_owned(), offset, kind }),
    })
}

fn numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    elements(cursor, N, |cursor| cursor.array("an array's element").map(&read))
}

fn elements<'a, T>(
    cursor: &mut Cursor<'a>,
    bytes_min: usize,
    read: impl Fn(&mut Cursor<'a>) -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    let count = cursor.count("the elements of an array", ARRAY_LEN_MAX, bytes_min)?;
    (0..count).map(|_| read(cursor)).collect()
}
