//! What a person types for a source.

use std::path::Path;

use anyhow::Context as _;

/// The source that `argument` means: itself when it has a scheme, else the file of that name.
pub(crate) fn of_argument(argument: &str) -> anyhow::Result<String> {
    if argument.contains("://") {
        return Ok(argument.to_owned());
    }
    let path = Path::new(argument).canonicalize().with_context(|| format!("open {argument}"))?;
    let path = path.to_str().with_context(|| format!("the path of {argument} is not UTF-8"))?;
    Ok(format!("file://{path}"))
}
