//! Files in several parts: whether names and digests are of as many. The names are what the nodes
//! read, for the owner to hear first of what they would refuse.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_crds::model::PARTS_MAX;

/// Digits of a part's number, and of the number of parts.
const DIGITS: usize = 5;

/// The number of parts of the file that all of `sources` name, for which there are `given` digests;
/// or what is wrong with which source.
pub(super) fn count(sources: &[String], given: usize) -> Result<usize, (usize, String)> {
    let mut count = None;
    for (at, source) in sources.iter().enumerate() {
        let found = match named(source) {
            Some((number, found)) if number != 1 => {
                return Err((at, format!("names part {number} of {found}; name the first")));
            }
            Some((_, found)) if found > PARTS_MAX => {
                let message = format!("names a file in {found} parts; {PARTS_MAX} are the most");
                return Err((at, message));
            }
            Some((_, found)) => usize::try_from(found).unwrap_or(usize::MAX),
            // A layer without a title is found by its digest, and so is each of several.
            None if source.starts_with("oci://") && !source.contains('#') => given.max(1),
            None => 1,
        };
        let first = *count.get_or_insert(found);
        if first != found {
            let message = format!("names a file in {found} parts, and the first source {first}");
            return Err((at, message));
        }
    }
    Ok(count.unwrap_or(1))
}

/// The number of the part that a source names, and of all of them, where there are several.
fn named(source: &str) -> Option<(u32, u32)> {
    // Of all other schemes, these marks are part of a name.
    let is_address = source.starts_with("https://") || source.starts_with("s3://");
    let end = source.find(['?', '#']).filter(|_| is_address).unwrap_or(source.len());
    let name = source.get(..end)?.strip_suffix(".gguf")?;
    let (name, count) = name.rsplit_once("-of-")?;
    let (_, number) = name.rsplit_once('-')?;
    let (number, count) = (read(number)?, read(count)?);
    (count > 1 && (1..=count).contains(&number)).then_some((number, count))
}

fn read(digits: &str) -> Option<u32> {
    let is_number = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}
