//! Writes model files: the other direction of the reader, for converting between formats.

use std::io::{self, Write};

use realm_kernels::format::Format;

use super::{Array, Value, header::ALIGNMENT_DEFAULT, kind, value};

/// A tensor to write. Its first dimension is the contiguous one.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub format: Format,
    pub bytes: Vec<u8>,
}

/// What a header says of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub shape: &'a [u64],
    pub format: Format,
    /// How many follow, before its [`padding`].
    pub bytes: u64,
}

/// The value of `general.file_type` for a file that mostly holds `format`.
pub fn file_type(format: Format) -> Option<Value> {
    kind::file_type(format).map(Value::U32)
}

/// Writes a whole file of version 3, with the default alignment whatever the pairs came from.
pub fn write(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: &[Tensor],
) -> io::Result<()> {
    let entries = tensors.iter().map(|Tensor { name, shape, format, bytes }| Entry {
        name,
        shape,
        format: *format,
        bytes: length(bytes.len()),
    });
    out.write_all(&header(metadata, &entries.collect::<Vec<_>>()))?;
    for tensor in tensors {
        out.write_all(&tensor.bytes)?;
        out.write_all(&padding(length(tensor.bytes.len())))?;
    }
    Ok(())
}

/// What a file begins with; the tensors follow in the order of their entries, each with its padding.
pub fn header(metadata: &[(String, Value)], entries: &[Entry<'_>]) -> Vec<u8> {
    let pairs = metadata.iter().filter(|(key, _)| key != "general.alignment");
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3_u32.to_le_bytes());
    put_len(&mut header, entries.len());
    put_len(&mut header, pairs.clone().count());
    for (key, value) in pairs {
        put_string(&mut header, key);
        put_value(&mut header, value);
    }
    let mut offset = 0_u64;
    for Entry { name, shape, format, bytes } in entries {
        put_string(&mut header, name);
        header.extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        shape.iter().for_each(|d| header.extend(d.to_le_bytes()));
        header.extend(kind::number(*format).to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset = offset.saturating_add(padded(*bytes));
    }
    header.extend(padding(length(header.len())));
    header
}

/// Bytes that a tensor of so many takes with its padding.
pub fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT_DEFAULT)
}

/// The zeros behind so many bytes.
pub fn padding(bytes: u64) -> Vec<u8> {
    vec![0; usize::try_from(padded(bytes).saturating_sub(bytes)).unwrap_or(0)]
}

fn length(len: usize) -> u64 {
    u64::try_from(len).expect("lengths count in 64 bits")
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend(length(len).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => put(out, 0, &x.to_le_bytes()),
        Value::I8(x) => put(out, 1, &x.to_le_bytes()),
        Value::U16(x) => put(out, 2, &x.to_le_bytes()),
        Value::I16(x) => put(out, 3, &x.to_le_bytes()),
        Value::U32(x) => put(out, 4, &x.to_le_bytes()),
        Value::I32(x) => put(out, 5, &x.to_le_bytes()),
        Value::F32(x) => put(out, 6, &x.to_le_bytes()),
        Value::Bool(x) => put(out, 7, &[u8::from(*x)]),
        Value::String(text) => {
            put(out, 8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(out, value::ARRAY, &[]);
            put_array(out, array);
        }
        Value::U64(x) => put(out, 10, &x.to_le_bytes()),
        Value::I64(x) => put(out, 11, &x.to_le_bytes()),
        Value::F64(x) => put(out, 12, &x.to_le_bytes()),
    }
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(all) => put_all(out, 0, all, |out, x| out.push(*x)),
        Array::I8(all) => put_all(out, 1, all, |out, x| out.extend(x.to_le_bytes())),
        Array::U16(all) => put_all(out, 2, all, |out, x| out.extend(x.to_le_bytes())),
        Array::I16(all) => put_all(out, 3, all, |out, x| out.extend(x.to_le_bytes())),
        Array::U32(all) => put_all(out, 4, all, |out, x| out.extend(x.to_le_bytes())),
        Array::I32(all) => put_all(out, 5, all, |out, x| out.extend(x.to_le_bytes())),
        Array::F32(all) => put_all(out, 6, all, |out, x| out.extend(x.to_le_bytes())),
        Array::Bool(all) => put_all(out, 7, all, |out, x| out.push(u8::from(*x))),
        Array::String(all) => put_all(out, 8, all, |out, text| put_string(out, text)),
        Array::U64(all) => put_all(out, 10, all, |out, x| out.extend(x.to_le_bytes())),
        Array::I64(all) => put_all(out, 11, all, |out, x| out.extend(x.to_le_bytes())),
        Array::F64(all) => put_all(out, 12, all, |out, x| out.extend(x.to_le_bytes())),
    }
}

fn put_all<T>(out: &mut Vec<u8>, kind: u32, all: &[T], put_one: impl Fn(&mut Vec<u8>, &T)) {
    out.extend(kind.to_le_bytes());
    put_len(out, all.len());
    for x in all {
        put_one(out, x);
    }
}
