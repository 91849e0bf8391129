//! `hf://org/repo[@revision]/path`: a file in a repository of the model hub.

use super::{invalid, is_inner_path, is_name};
use crate::error::SourceError;

/// The branch that a repository begins with.
const REVISION: &str = "main";

/// A file in a repository, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubFile {
    pub(crate) org: String,
    pub(crate) repo: String,
    /// A branch, a tag or a commit. Slashes in it are part of its name.
    pub(crate) revision: String,
    pub(crate) path: String,
}

pub(super) fn parse(rest: &str) -> Result<HubFile, SourceError> {
    let parts = rest.split_once('/').and_then(|(org, rest)| {
        let (repo, path) = rest.split_once('/')?;
        let (repo, revision) = repo.split_once('@').unwrap_or((repo, REVISION));
        Some((org, repo, revision.replace("%2F", "/"), path))
    });
    let Some((org, repo, revision, path)) = parts else {
        return invalid("not of the form hf://org/repo[@revision]/path".to_owned());
    };
    if !is_name(org) || !is_name(repo) {
        return invalid("its organisation or repository is no name".to_owned());
    }
    if !revision.split('/').all(is_name) {
        return invalid("its revision is no branch, tag or commit; write / as %2F".to_owned());
    }
    if !is_inner_path(path) || path.contains(['?', '#']) {
        return invalid("its path is not that of a file in a repository".to_owned());
    }
    Ok(HubFile { org: org.to_owned(), repo: repo.to_owned(), revision, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_file_is_of_main_unless_a_revision_is_named() {
        let file = parse("org/Repo-1.5/a/b c.gguf").unwrap();
        assert_eq!((&*file.org, &*file.repo), ("org", "Repo-1.5"));
        assert_eq!((&*file.revision, &*file.path), ("main", "a/b c.gguf"));
        assert_eq!(parse("org/repo@v1.0/a").unwrap().revision, "v1.0");
        assert_eq!(parse("org/repo@refs%2Fpr%2F1/a").unwrap().revision, "refs/pr/1");
    }

    #[test]
    fn what_names_no_file_of_a_repository_is_refused() {
        for bad in [
            "",
            "org",
            "org/repo",
            "org/repo/",
            "/repo/a",
            "org//a",
            "org/repo@/a",
            "org/repo@../a",
            "org/repo@a%2F..%2Fb/a",
            "org/repo@a%2fb/a",
            "org/../a",
            "org/re po/a",
            "org/repo/../a",
            "org/repo/a?b",
            "org/repo/a#b",
            "org/repo/a\nb",
        ] {
            assert_eq!(parse(bad).unwrap_err().reason(), "SourceInvalid", "{bad}");
        }
    }
}
