//! One model of the parts of a split file: all of them, in order, and of one and the same file.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::path::{Path, PathBuf};

use realm_core::split::{PARTS_MAX, PartName};

use super::{Gguf, GgufError, TENSORS_MAX, TensorInfo, Value, required};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// What the keys of a split begin with. A file that is whole again has none.
const PREFIX: &str = "split.";
/// What each part says of itself alone, beside its place.
const ALIGNMENT: &str = "general.alignment";

/// The files that make one with that at `path`, by its name.
pub fn beside(path: &Path) -> Result<Vec<PathBuf>, GgufError> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(PartName::of);
    let Some(name) = name else { return Ok(vec![path.to_owned()]) };
    if name.number != 1 {
        return Err(GgufError::PartNotFirst { number: name.number, count: name.count });
    }
    check_count(name.count)?;
    Ok((1..=name.count).map(|number| path.with_file_name(name.part(number))).collect())
}

fn check_count(count: u32) -> Result<(), GgufError> {
    if count <= PARTS_MAX {
        return Ok(());
    }
    Err(GgufError::PartsTooMany { count })
}

/// How many parts a file says that it has.
pub(super) fn count(part: &Gguf) -> Result<u32, GgufError> {
    let count = part.unsigned(COUNT)?.unwrap_or(1).max(1);
    check_count(count)?;
    Ok(count)
}

/// What `parts` are together: the metadata of the first, and the tensors of all.
pub(super) fn join(parts: Vec<Gguf>) -> Result<Gguf, GgufError> {
    let given = parts.len();
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or(GgufError::PartsMissing { count: 1, given })?;
    let count = count(&whole)?;
    if usize::try_from(count) != Ok(given) {
        return Err(GgufError::PartsMissing { count, given });
    }
    if count == 1 {
        return Ok(whole);
    }
    check_place(&whole, 1, count)?;
    let wanted = required(TENSORS, whole.unsigned(TENSORS)?)?;
    for (part, number) in parts.zip(2..) {
        check_place(&part, number, count)?;
        check_same(&whole, &part, number)?;
        append(&mut whole, part)?;
    }
    let found = whole.tensors.len();
    if usize::try_from(wanted) != Ok(found) {
        return Err(GgufError::PartsTensors { found, wanted });
    }
    forget_split(&mut whole);
    Ok(whole)
}

/// Whether `part` says that it is number `number`, from 1 on, of `count`.
fn check_place(part: &Gguf, number: u32, count: u32) -> Result<(), GgufError> {
    let found = required(COUNT, part.unsigned(COUNT)?)?;
    if found != count {
        return Err(GgufError::PartOfOther { number, key: COUNT.to_owned() });
    }
    let found = required(NUMBER, part.unsigned(NUMBER)?)?.saturating_add(1);
    if found != number {
        return Err(GgufError::PartNumber { number, found });
    }
    Ok(())
}

/// Whether `part` says what the first does, wherever it says anything.
fn check_same(first: &Gguf, part: &Gguf, number: u32) -> Result<(), GgufError> {
    let own = [NUMBER, ALIGNMENT];
    let differs = |(key, value): &&(String, Value)| {
        let is_own = own.contains(&key.as_str());
        !is_own && first.get(key).is_some_and(|of_first| of_first != value)
    };
    match part.metadata().iter().find(differs) {
        Some((key, _)) => Err(GgufError::PartOfOther { number, key: key.clone() }),
        None => Ok(()),
    }
}

/// Adds the tensors of `part`, and where their bytes are.
fn append(whole: &mut Gguf, part: Gguf) -> Result<(), GgufError> {
    let at = whole.sources.len();
    whole.sources.extend(part.sources);
    for tensor in part.tensors {
        let tensor = TensorInfo { part: at, ..tensor };
        if whole.names.insert(tensor.name.clone(), whole.tensors.len()).is_some() {
            return Err(GgufError::DuplicateTensor(tensor.name));
        }
        whole.tensors.push(tensor);
    }
    let count = u64::try_from(whole.tensors.len()).unwrap_or(u64::MAX);
    if count > TENSORS_MAX {
        let what = "the tensors of all parts";
        return Err(GgufError::TooMany { what, offset: 0, count, max: TENSORS_MAX });
    }
    Ok(())
}

fn forget_split(whole: &mut Gguf) {
    whole.metadata.retain(|(key, _)| !key.starts_with(PREFIX));
    let keys = whole.metadata.iter().map(|(key, _)| key.clone());
    whole.keys = keys.zip(0..).collect();
}
