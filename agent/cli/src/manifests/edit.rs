//! Changes of manifests from the command line: a new file, or one field of an object that is there.
//!
//! Somebody's comments and order stay as they are: a change is a change of text, taken only if the
//! object that is read from it differs in that field and in nothing else.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use realm_crds::Tenant;
use thiserror::Error;

use super::{Document, Found, Object, document};

/// Why a manifest was not changed.
#[derive(Debug, Error)]
pub(crate) enum EditError {
    #[error("{path} is there already")]
    Exists { path: PathBuf },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{file} has changed meanwhile; try again")]
    Changed { file: String },
    #[error(
        "{file}:{line}: how this is written leaves no line to change alone; write `suspended: \
         {suspended}` under `spec` yourself"
    )]
    ByHand { file: String, line: usize, suspended: bool },
}

/// Writes a manifest whole into a file that is not there yet.
pub(crate) fn create(path: &Path, text: &str) -> Result<(), EditError> {
    match replace(path, text, None) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(EditError::Exists { path: path.to_owned() })
        }
        Err(source) => Err(EditError::Write { path: path.to_owned(), source }),
    }
}

/// Sets `spec.suspended` of a tenant in its file.
pub(crate) fn suspend(
    folder: &Path,
    document: &Document,
    tenant: &Tenant,
    suspended: bool,
) -> Result<(), EditError> {
    let file = &document.place.file;
    let path = folder.join(&**file);
    let read = |source| EditError::Read { path: path.clone(), source };
    // Through links, so that the link stays one.
    let path = path.canonicalize().map_err(read)?;
    let before = fs::read_to_string(&path).map_err(read)?;
    let mut after = String::with_capacity(before.len());
    let mut is_found = false;
    for (lines_before, text) in document::split(&before) {
        if lines_before == document.place.lines_before && *text == *document.text {
            is_found = true;
            let edited = suspended_text(document, tenant, suspended);
            after.push_str(&edited.ok_or_else(|| EditError::ByHand {
                file: file.to_string(),
                line: document.tree.line_of("spec"),
                suspended,
            })?);
        } else {
            after.push_str(text);
        }
    }
    if !is_found {
        return Err(EditError::Changed { file: file.to_string() });
    }
    let mode = fs::metadata(&path).map_err(read)?.permissions();
    replace(&path, &after, Some(mode)).map_err(|source| EditError::Write { path, source })
}

/// Puts a file in place whole or not at all; without `mode` it must not be there yet.
fn replace(path: &Path, text: &str, mode: Option<fs::Permissions>) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".realm-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match mode {
        Some(mode) => {
            file.as_file().set_permissions(mode)?;
            file.persist(path)?;
        }
        None => drop(file.persist_noclobber(path)?),
    }
    fs::File::open(folder)?.sync_all()
}

/// The document's text with the tenant suspended or not; `None` if no small change does that.
fn suspended_text(document: &Document, tenant: &Tenant, suspended: bool) -> Option<String> {
    let mut wanted = tenant.clone();
    wanted.spec.suspended = suspended;
    let is_it = |text: &String| match document::parse(document.place.clone(), text) {
        Some(Found::Whole(Document { object: Object::Tenant(found), .. })) => *found == wanted,
        _ => false,
    };
    candidates(document, suspended).into_iter().flatten().find(is_it)
}

/// Texts that may be meant: the field changed where it stands, else put first under `spec`.
fn candidates(document: &Document, suspended: bool) -> [Option<String>; 3] {
    let lines: Vec<&str> = document.text.split_inclusive('\n').collect();
    let index = |line: usize| line.checked_sub(document.place.lines_before)?.checked_sub(1);
    let with = |at: usize, line: String| {
        let text = lines.iter().enumerate().map(|(i, old)| if i == at { &line } else { *old });
        text.collect::<String>()
    };
    if let Some(at) = document.tree.find("spec.suspended").and_then(index) {
        let changed = lines.get(at).and_then(|line| changed(line, suspended));
        return [changed.map(|line| with(at, line)), None, None];
    }
    let Some(at) = document.tree.find("spec").and_then(index) else { return [None, None, None] };
    let Some(spec) = lines.get(at) else { return [None, None, None] };
    let rest = lines.get(at.saturating_add(1)..).unwrap_or_default();
    let is_code = |line: &&&str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let first = rest.iter().find(is_code).copied().unwrap_or_default();
    let indent = first.get(..first.len() - first.trim_start().len()).unwrap_or_default();
    let end = if spec.ends_with("\r\n") { "\r\n" } else { "\n" };
    let below = format!("{spec}{indent}suspended: {suspended}{end}");
    let within = spec.replacen('{', &format!("{{suspended: {suspended}, "), 1);
    let alone = spec.replacen("{}", &format!("{{suspended: {suspended}}}"), 1);
    [Some(with(at, below)), Some(with(at, alone)), Some(with(at, within))]
}

/// A line with the value of its `suspended` changed.
fn changed(line: &str, suspended: bool) -> Option<String> {
    let (head, rest) = line.split_once("suspended")?;
    let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?.trim_start();
    let between = rest.get(..rest.len() - value.len())?;
    let tail = value.strip_prefix("true").or_else(|| value.strip_prefix("false"))?;
    Some(format!("{head}suspended{between}{suspended}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests;

    const HEAD: &str = "apiVersion: realm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\n";

    /// Suspends `acme` in a file of `text`, and gives what the file holds then.
    fn check(text: &str, suspended: bool) -> Result<String, EditError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("t.yaml"), text).unwrap();
        let reading = manifests::read(folder.path());
        let tenant = reading.found.iter().find_map(|found| match found {
            Found::Whole(document) => match &document.object {
                Object::Tenant(tenant) => Some((document, tenant)),
                _ => None,
            },
            _ => None,
        });
        let (document, tenant) = tenant.unwrap();
        suspend(folder.path(), document, tenant, suspended)?;
        Ok(fs::read_to_string(folder.path().join("t.yaml")).unwrap())
    }

    #[test]
    fn one_line_changes_and_comments_stay() {
        for (before, after) in [
            (
                "spec:  # ours\n  # heavy\n  weight: 5\n",
                "spec:  # ours\n  suspended: true\n  # heavy\n  weight: 5\n",
            ),
            (
                "spec:\n    weight: 5 # five\n    suspended: false # not now\n",
                "spec:\n    weight: 5 # five\n    suspended: true # not now\n",
            ),
            ("spec: {weight: 5}\n", "spec: {suspended: true, weight: 5}\n"),
            ("spec: {}\n", "spec: {suspended: true}\n"),
        ] {
            assert_eq!(check(&format!("{HEAD}{before}"), true).unwrap(), format!("{HEAD}{after}"));
        }
    }

    #[test]
    fn the_other_documents_of_the_file_stay_as_they_are() {
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: k}\n";
        let text = format!("# Mine.\n{secret}---\n{HEAD}spec:\n  suspended: true\n{secret}");
        let expected = text.replace("suspended: true", "suspended: false");
        assert_eq!(check(&text, false).unwrap(), expected);
    }

    #[test]
    fn what_would_change_more_than_the_one_field_is_left_to_a_person() {
        let text = format!("{HEAD}spec:\n  weight: 5\n  suspended: !!bool\n    false\n");
        let error = check(&text, true).unwrap_err();
        assert!(matches!(error, EditError::ByHand { line: 4, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_there_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.yaml");
        create(&path, "one").unwrap();
        assert!(matches!(create(&path, "two"), Err(EditError::Exists { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "one");
    }
}
