//! Why there is no link, or no longer.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use realm_proto::link::versions::Versions;
use rustls::pki_types::pem;
use thiserror::Error;
use tonic::{Code, Status};

use crate::convert::ConvertError;

/// Why there is no link, or no longer.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{} holds no token", path.display())]
    NoToken { path: PathBuf },
    #[error("{} holds no PEM certificates", path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("a certificate in {} cannot be trusted", path.display())]
    Root {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("find the addresses of `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("speak TLS with {address}")]
    Handshake {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("speak HTTP/2 with {address}")]
    Http {
        address: SocketAddr,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("no answer within {wait:?}")]
    Slow { wait: Duration },
    #[error("the operator there does not lead")]
    NotLeading,
    #[error("the operator refuses this agent")]
    Refused(#[source] Status),
    #[error(
        "the operator speaks the link's version {operator} and this agent {agent}: none that both do"
    )]
    Version { agent: Versions, operator: Versions },
    #[error("the operator speaks none of this agent's versions of the link")]
    VersionRefused(#[source] Status),
    #[error("the stream broke")]
    Broken(#[source] Status),
    #[error("the operator ended the stream")]
    Ended,
    #[error("nothing was heard for {beats} heartbeats")]
    Silent { beats: u32 },
    #[error("the operator said what makes no sense")]
    Message(#[source] ConvertError),
    #[error("the operator's first message is not a welcome, or it says it twice")]
    Welcome,
    #[error("the operator asks for a heartbeat every {asked:?}; {max:?} is the longest")]
    Heartbeat { asked: Duration, max: Duration },
    #[error("there is no operator to ask")]
    NoOperator,
}

impl LinkError {
    /// What a status of the operator means.
    pub(super) fn from_status(status: Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::unavailable(status),
            Code::FailedPrecondition => Self::VersionRefused(status),
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::NotFound
            | Code::AlreadyExists => Self::Refused(status),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss => Self::Broken(status),
        }
    }

    /// An operator that stands by says so itself; what a broken connection becomes has a cause.
    fn unavailable(status: Status) -> Self {
        if std::error::Error::source(&status).is_none() {
            Self::NotLeading
        } else {
            Self::Broken(status)
        }
    }

    /// The kind of error, one of a closed list.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::TooLarge { .. } => "File",
            Self::NoToken { .. } => "Token",
            Self::Bundle { .. } | Self::Root { .. } => "Bundle",
            Self::Tls(_) | Self::Handshake { .. } => "Tls",
            Self::Resolve { .. } => "Resolve",
            Self::Connect { .. } => "Connect",
            Self::Http { .. } => "Http",
            Self::Slow { .. } => "Slow",
            Self::NotLeading => "NotLeading",
            Self::Refused(_) => "Refused",
            Self::Version { .. } | Self::VersionRefused(_) => "Version",
            Self::Broken(_) => "Broken",
            Self::Ended => "Ended",
            Self::Silent { .. } => "Silent",
            Self::Message(_) | Self::Welcome | Self::Heartbeat { .. } => "Protocol",
            Self::NoOperator => "NoOperator",
        }
    }
}
