//! Files that are split: how their parts are named, and which artifacts they are.
//!
//! A source names the first part, `name-00001-of-0000N.gguf`, and says thereby how many there are
//! and what the others are called.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use sha2::Digest as _;
use thiserror::Error;

use crate::desired::{Artifact, Sha256};

/// Parts one file may have. The largest open weights are a terabyte, and no tool makes parts of
/// less than 4 GB of such a file.
pub const PARTS_MAX: u32 = 256;

/// Digits of a part's number, and of the number of parts.
const DIGITS: usize = 5;

/// Why an artifact is not that of a whole file, nor of all parts of one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SplitError {
    #[error("a source names part {number} of {count}; name the first")]
    NotFirst { number: u32, count: u32 },
    #[error("a source names a file in {count} parts, and {PARTS_MAX} are the most")]
    TooMany { count: u32 },
    #[error("a source names a file in {found} parts, and another one in {count}")]
    Different { found: u32, count: u32 },
    #[error("the file has {count} parts, each with a digest of its own, and {given} are given")]
    Digests { count: u32, given: usize },
    #[error("{given} digests of parts are given for a file that is not split by its name")]
    NotSplit { given: usize },
}

/// The name of one part of a file, or whatever ends with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName<'a> {
    stem: &'a str,
    /// From 1 on.
    pub number: u32,
    pub count: u32,
    /// What follows the name in an address.
    rest: &'a str,
}

impl<'a> PartName<'a> {
    /// Reads the name that `text` ends with, if that is one of several parts.
    pub fn of(text: &'a str) -> Option<Self> {
        let name = text.strip_suffix(".gguf")?;
        let (name, count) = name.rsplit_once("-of-")?;
        let (stem, number) = name.rsplit_once('-')?;
        let (number, count) = (read(number)?, read(count)?);
        let is_part = count > 1 && (1..=count).contains(&number);
        is_part.then_some(Self { stem, number, count, rest: "" })
    }

    /// As [`Self::of`], where a query or a fragment may follow the name.
    fn of_source(source: &'a str) -> Option<Self> {
        // Of all other schemes, these marks are part of a name.
        let is_address = ["https://", "http://", "s3://"].iter().any(|s| source.starts_with(s));
        let end = source.find(['?', '#']).filter(|_| is_address).unwrap_or(source.len());
        let (text, rest) = source.split_at_checked(end)?;
        Some(Self { rest, ..Self::of(text)? })
    }

    /// The name of another part of the same file.
    pub fn part(&self, number: u32) -> String {
        let Self { stem, count, rest, .. } = self;
        format!("{stem}-{number:0DIGITS$}-of-{count:0DIGITS$}.gguf{rest}")
    }
}

fn read(digits: &str) -> Option<u32> {
    let is_number = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// The artifacts that make a file together, in the order of its parts; of a whole file, its own.
pub fn parts(artifact: &Artifact) -> Result<Vec<Artifact>, SplitError> {
    let Some(count) = count(artifact)? else { return Ok(vec![artifact.clone()]) };
    let digests = &artifact.parts;
    let is_told = usize::try_from(count) == Ok(digests.len());
    if artifact.sha256.is_some() || !(is_told || digests.is_empty()) {
        return Err(SplitError::Digests { count, given: digests.len() });
    }
    let part = |number: u32| {
        let sources = artifact.sources.iter().map(|source| {
            PartName::of_source(source).map_or_else(|| source.clone(), |name| name.part(number))
        });
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let sha256 = at.and_then(|at| digests.get(at)).copied();
        Artifact { sources: sources.collect(), sha256, parts: Vec::new() }
    };
    Ok((1..=count).map(part).collect())
}

/// How many parts the file has, where it is split.
fn count(artifact: &Artifact) -> Result<Option<u32>, SplitError> {
    let given = artifact.parts.len();
    let mut count = None;
    for source in &artifact.sources {
        let found = match PartName::of_source(source) {
            Some(PartName { number, count, .. }) if number != 1 => {
                return Err(SplitError::NotFirst { number, count });
            }
            Some(PartName { count, .. }) if count > PARTS_MAX => {
                return Err(SplitError::TooMany { count });
            }
            Some(name) => name.count,
            // A layer without a title is found by its digest, and so is each of several.
            None if given > 1 && source.starts_with("oci://") && !source.contains('#') => {
                u32::try_from(given).unwrap_or(u32::MAX)
            }
            None => 1,
        };
        let count = *count.get_or_insert(found);
        if count != found {
            return Err(SplitError::Different { found, count });
        }
    }
    match count.filter(|&count| count > 1) {
        None if given > 0 => Err(SplitError::NotSplit { given }),
        count => Ok(count),
    }
}

/// The digest by which a file in several parts is known: of the digests of its parts, as bytes, one
/// behind the other.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a Sha256>) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update(part.0);
    }
    Sha256(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn artifact(sources: &[&str], parts: usize) -> Artifact {
        Artifact {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            sha256: None,
            parts: (0..parts).map(|n| Sha256([u8::try_from(n).unwrap(); 32])).collect(),
        }
    }

    #[track_caller]
    fn third(source: &str) -> String {
        let parts = parts(&artifact(&[source], 3)).unwrap();
        let [_, _, Artifact { sources, sha256, .. }] = parts.as_slice() else { panic!("three") };
        assert_eq!(*sha256, Some(Sha256([2; 32])));
        sources.concat()
    }

    #[test]
    fn the_first_part_names_the_others_in_every_kind_of_source() {
        for (first, other) in [
            ("file:///a/b-00001-of-00003.gguf", "file:///a/b-00003-of-00003.gguf"),
            ("hf://o/r@v1/q/b-00001-of-00003.gguf", "hf://o/r@v1/q/b-00003-of-00003.gguf"),
            ("pvc://claim/b-00001-of-00003.gguf", "pvc://claim/b-00003-of-00003.gguf"),
            ("https://h/b-00001-of-00003.gguf?x=1", "https://h/b-00003-of-00003.gguf?x=1"),
            ("s3://b/k-00001-of-00003.gguf?region=r", "s3://b/k-00003-of-00003.gguf?region=r"),
            ("oci://h/r:t#b-00001-of-00003.gguf", "oci://h/r:t#b-00003-of-00003.gguf"),
            ("oci://h/r:t", "oci://h/r:t"),
        ] {
            assert_eq!(third(first), other);
        }
    }

    #[test]
    fn a_file_that_is_not_split_is_its_own_only_part() {
        for source in ["file:///a.gguf", "hf://o/r/b-00001-of-00001.gguf", "oci://h/r"] {
            let whole = artifact(&[source], 0);
            assert_eq!(parts(&whole), Ok(vec![whole]));
        }
    }

    #[test]
    fn what_is_not_all_parts_of_one_file_is_refused() {
        let first = "hf://o/r/b-00001-of-00003.gguf";
        let refusal = |sources: &[&str], digests| parts(&artifact(sources, digests)).unwrap_err();
        assert_eq!(refusal(&[first], 2), SplitError::Digests { count: 3, given: 2 });
        assert_eq!(refusal(&["file:///a.gguf"], 2), SplitError::NotSplit { given: 2 });
        let second = "hf://o/r/b-00002-of-00003.gguf";
        assert_eq!(refusal(&[second], 3), SplitError::NotFirst { number: 2, count: 3 });
        let others = [first, "hf://o/r/b-00001-of-00004.gguf"];
        assert_eq!(refusal(&others, 3), SplitError::Different { found: 4, count: 3 });
        let many = "hf://o/r/b-00001-of-00257.gguf";
        assert_eq!(refusal(&[many], 0), SplitError::TooMany { count: 257 });
        let whole = Artifact { sha256: Some(Sha256([1; 32])), ..artifact(&[first], 0) };
        assert_eq!(parts(&whole), Err(SplitError::Digests { count: 3, given: 0 }));
    }

    proptest! {
        #[test]
        fn a_name_that_is_read_is_written_the_same(text in "[a-z]{0,3}-0000[0-9]-of-0000[0-9].gguf") {
            if let Some(name) = PartName::of(&text) {
                prop_assert_eq!(name.part(name.number), text);
            }
        }

        #[test]
        fn any_source_is_of_parts_or_not(text in ".{0,40}(-00001-of-00002.gguf)?.{0,8}") {
            let _ = parts(&artifact(&[&text], 0));
        }
    }
}
