//! How a model makes one vector of a text, by its file.

use super::{ArchitectureError, WIDTH_MAX, reader::Reader};

/// Which of a text's tokens make its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean of all.
    Mean,
    /// The first, which stands before the text for just that.
    First,
    Last,
}

/// `None` where the file says that there is one vector for each token, or says nothing.
pub(super) fn pooling(reader: &Reader<'_>) -> Result<Option<Pooling>, ArchitectureError> {
    let name = "pooling_type";
    match reader.unsigned(name)? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::First)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(value) => {
            let wanted = "known are 0 to 3: none, the mean, the first and the last";
            reader.check(name, value, false, wanted)?;
            Ok(None)
        }
    }
}

/// Rows of the matrices behind the pooling: a file has none, or one or two.
pub(super) fn dense(reader: &Reader<'_>, width: usize) -> Result<Vec<usize>, ArchitectureError> {
    let mut all = Vec::new();
    let mut from = width;
    for name in ["dense_2", "dense_3"] {
        let Some(rows) = reader.optional_count(&format!("{name}_feat_out"), WIDTH_MAX)? else {
            break;
        };
        let key = format!("{name}_feat_in");
        if let Some(value) = reader.unsigned(&key)? {
            let holds = value as usize == from;
            reader.check(&key, value, holds, "it must be the width of what comes before")?;
        }
        all.push(rows);
        from = rows;
    }
    Ok(all)
}
