//! What is wrong with a manifest, for the person who wrote it.

use std::{fmt, sync::Arc};

use realm_plan::Problem;
use thiserror::Error;

/// Longest cause in characters: enough for every message of ours, and a bound on what a text from
/// a manifest can make us write.
const MESSAGE_CHARS_MAX: usize = 400;

/// One thing that is wrong: where, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ManifestProblem {
    pub(crate) file: Arc<str>,
    /// Counted from 1; `None` where the problem is the whole file or folder.
    pub(crate) line: Option<usize>,
    pub(crate) cause: Cause,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, cause } = self;
        match line {
            Some(line) => write!(f, "{file}:{line}: {cause} ({})", cause.reason()),
            None => write!(f, "{file}: {cause} ({})", cause.reason()),
        }
    }
}

/// Why a manifest is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is not UTF-8 text")]
    NotText,
    #[error("has more than {bytes_max} bytes")]
    FileTooLarge { bytes_max: u64 },
    #[error("has more than {documents_max} documents")]
    TooManyDocuments { documents_max: usize },
    #[error("has more than {files_max} YAML files")]
    TooManyFiles { files_max: usize },
    #[error("{0}")]
    Syntax(String),
    #[error(
        "`{kind}` of `{api_version}` is none of Tenant, Model, Pipeline (realm.dev/v1alpha1) and Secret (v1)"
    )]
    UnknownKind { api_version: String, kind: String },
    #[error("metadata: {0}")]
    InvalidName(String),
    #[error("unknown field `{0}`")]
    UnknownField(String),
    #[error("{0}")]
    Malformed(String),
    #[error("{object} is also in {also}")]
    DuplicateObject { object: String, also: String },
    #[error("{path}: {message}")]
    Refused { path: String, reason: &'static str, message: String },
}

impl Cause {
    pub(crate) fn syntax(message: &str) -> Self {
        Self::Syntax(one_line(message))
    }

    pub(crate) fn malformed(message: &str) -> Self {
        Self::Malformed(one_line(message))
    }

    pub(crate) fn refused(problem: &Problem) -> Self {
        let Problem { path, reason, message } = problem;
        let (path, message) = (one_line(path), one_line(message));
        Self::Refused { path, reason: reason.as_str(), message }
    }

    /// The cause for programs, CamelCase.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::NotAFile => "NotAFile",
            Self::NotText => "NotText",
            Self::FileTooLarge { .. } => "FileTooLarge",
            Self::TooManyDocuments { .. } => "TooManyDocuments",
            Self::TooManyFiles { .. } => "TooManyFiles",
            Self::Syntax(_) => "Syntax",
            Self::UnknownKind { .. } => "UnknownKind",
            Self::InvalidName(_) => "InvalidName",
            Self::UnknownField(_) => "UnknownField",
            Self::Malformed(_) => "Malformed",
            Self::DuplicateObject { .. } => "DuplicateObject",
            Self::Refused { reason, .. } => reason,
        }
    }
}

/// Keeps what a manifest says from writing lines or terminal controls of its own into a log.
pub(crate) fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MESSAGE_CHARS_MAX).map(printable).collect()
}
