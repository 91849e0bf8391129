//! Reads a header whole: magic, version, key-value pairs, tensor list, then where the data lies.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::HashMap;

use realm_kernels::format::Format;

use super::{
    ALIGNMENT_MAX, DIMENSIONS_MAX, GgufError, KEY_BYTES_MAX, NAME_BYTES_MAX, PAIRS_MAX,
    TENSORS_MAX, TensorInfo, Value, cursor::Cursor, kind, value,
};

const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data where a file names none; the format's own default.
pub(super) const ALIGNMENT_DEFAULT: u64 = 32;
/// The least a pair takes: a key's length, a type and one byte.
const PAIR_BYTES_MIN: usize = 8 + 4 + 1;
/// The least a tensor's entry takes: a name's length, dimensions, type and offset.
const TENSOR_BYTES_MIN: usize = 8 + 4 + 4 + 8;

pub(super) struct Header {
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) keys: HashMap<String, usize>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) names: HashMap<String, usize>,
}

/// A tensor's entry before the start of the data is known.
struct Entry {
    name: String,
    shape: Vec<u64>,
    format: Format,
    offset: u64,
}

/// Reads the header that `bytes` begin with, of a file that has `file_len` of them.
pub(super) fn read(bytes: &[u8], file_len: u64) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(bytes);
    let found = cursor.array("the magic")?;
    if found != MAGIC {
        return Err(GgufError::Magic { found });
    }
    let version = cursor.u32("the version")?;
    if !matches!(version, 2 | 3) {
        return Err(GgufError::Version { found: version });
    }
    let tensor_count = cursor.count("the tensors", TENSORS_MAX, TENSOR_BYTES_MIN)?;
    let pair_count = cursor.count("the key-value pairs", PAIRS_MAX, PAIR_BYTES_MIN)?;

    let (metadata, keys) = read_pairs(&mut cursor, pair_count)?;
    let mut entries = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        entries.push(read_entry(&mut cursor)?);
    }

    let alignment = alignment(&metadata, &keys)?;
    let data_start = u64::try_from(cursor.at())
        .ok()
        .and_then(|at| at.checked_next_multiple_of(alignment))
        .ok_or(GgufError::Alignment(alignment))?;
    let mut tensors = Vec::with_capacity(tensor_count);
    let mut names = HashMap::with_capacity(tensor_count);
    for entry in entries {
        let tensor = place(entry, data_start, alignment, file_len)?;
        if names.insert(tensor.name.clone(), tensors.len()).is_some() {
            return Err(GgufError::DuplicateTensor(tensor.name));
        }
        tensors.push(tensor);
    }
    Ok(Header { metadata, keys, tensors, names })
}

type Pairs = (Vec<(String, Value)>, HashMap<String, usize>);

fn read_pairs(cursor: &mut Cursor<'_>, count: usize) -> Result<Pairs, GgufError> {
    let mut metadata = Vec::with_capacity(count);
    let mut keys = HashMap::with_capacity(count);
    for at in 0..count {
        let key = cursor.string("a key", KEY_BYTES_MAX)?.to_owned();
        let value = value::read(cursor, &key)?;
        if keys.insert(key.clone(), at).is_some() {
            return Err(GgufError::DuplicateKey(key));
        }
        metadata.push((key, value));
    }
    Ok((metadata, keys))
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<Entry, GgufError> {
    let name = cursor.string("a tensor's name", NAME_BYTES_MAX)?.to_owned();
    let offset = cursor.at();
    let what = "a tensor's dimensions";
    let dimensions = cursor.u32(what)?;
    if dimensions > DIMENSIONS_MAX {
        let (count, max) = (dimensions.into(), DIMENSIONS_MAX.into());
        return Err(GgufError::TooMany { what, offset, count, max });
    }
    let shape = (0..dimensions)
        .map(|_| cursor.u64("a tensor's dimension"))
        .collect::<Result<Vec<_>, _>>()?;
    let format = kind::format(cursor.u32("a tensor's type")?)
        .map_err(|format| GgufError::Format { tensor: name.clone(), format })?;
    let offset = cursor.u64("a tensor's offset")?;
    Ok(Entry { name, shape, format, offset })
}

fn alignment(
    metadata: &[(String, Value)],
    keys: &HashMap<String, usize>,
) -> Result<u64, GgufError> {
    let key = "general.alignment";
    let Some((_, value)) = keys.get(key).and_then(|&at| metadata.get(at)) else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    let alignment = value.as_u32().ok_or_else(|| GgufError::Type {
        key: key.to_owned(),
        wanted: "a whole number of 32 bits",
    })?;
    let alignment = u64::from(alignment);
    if alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&alignment) {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment(alignment))
    }
}

/// Turns an entry into a tensor whose bytes are known to be inside the file.
fn place(
    entry: Entry,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<TensorInfo, GgufError> {
    let Entry { name, shape, format, offset } = entry;
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { tensor: name, offset, alignment });
    }
    let Some(len) = tensor_len(&shape, format) else {
        return Err(match shape.first() {
            Some(&columns) if !whole_blocks(columns, format) => {
                GgufError::Blocks { tensor: name, columns, block: format.block_len() }
            }
            Some(_) | None => GgufError::Shape { tensor: name, shape },
        });
    };
    let end = data_start.checked_add(offset).and_then(|start| start.checked_add(len));
    let placed = end.filter(|&end| end <= file_len).and_then(|end| {
        Some((usize::try_from(end.checked_sub(len)?).ok()?, usize::try_from(len).ok()?))
    });
    let Some((start, len)) = placed else {
        let missing = end.unwrap_or(u64::MAX).saturating_sub(file_len);
        return Err(GgufError::OutOfFile { tensor: name, missing });
    };
    Ok(TensorInfo { name, shape, format, part: 0, start, len })
}

fn whole_blocks(columns: u64, format: Format) -> bool {
    u64::try_from(format.block_len()).is_ok_and(|block| columns.is_multiple_of(block))
}

/// Bytes of a tensor; `None` where rows are no whole blocks, a dimension is 0 or the product
/// overflows.
fn tensor_len(shape: &[u64], format: Format) -> Option<u64> {
    let (&columns, rest) = shape.split_first()?;
    if columns == 0 || !whole_blocks(columns, format) {
        return None;
    }
    let block = u64::try_from(format.block_len()).ok()?;
    let block_bytes = u64::try_from(format.block_bytes()).ok()?;
    let row = columns.checked_div(block)?.checked_mul(block_bytes)?;
    rest.iter().try_fold(row, |bytes, &d| bytes.checked_mul(d)).filter(|&bytes| bytes > 0)
}
