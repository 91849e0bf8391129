//! Why an agent has no identity, and why a call could not be handed on.

use std::{io, path::PathBuf, time::Duration};

use rustls::{pki_types::pem, server::VerifierBuilderError};
use thiserror::Error;
use tonic::{Code, Status};

use crate::{client::LinkError, convert::ConvertError};

/// Why an agent has no certificate of its own.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("make a key and a request for a certificate")]
    Request(#[source] rcgen::Error),
    #[error("be enrolled by the operator")]
    Enroll(#[source] LinkError),
    #[error("the operator's certificates are not PEM")]
    Pem(#[source] pem::Error),
    #[error("the operator's certificates cannot be used")]
    Use(#[source] rustls::Error),
    #[error("the operator's authority cannot be believed")]
    Roots(#[source] VerifierBuilderError),
    #[error("the operator has named another node in the certificate of `{node}`")]
    OtherNode { node: String },
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf },
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a call was not handed on, or not to its end.
#[derive(Debug, Error)]
pub enum PeerError {
    #[error("this agent has no certificate yet")]
    NoIdentity,
    #[error("`{address}` is not an address")]
    Address {
        address: String,
        #[source]
        source: std::net::AddrParseError,
    },
    #[error("connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("no answer from {address} within {wait:?}")]
    Slow { address: String, wait: Duration },
    #[error("the peer did not take the call")]
    NotTaken(#[source] Status),
    #[error("the answer broke off")]
    Broken(#[source] Status),
    #[error("the answer ended without an end")]
    Ended,
    #[error("the peer said what makes no sense")]
    Message(#[source] ConvertError),
}

impl PeerError {
    /// Whether the same call may fare better at another node, or later: it was not taken there, or
    /// something broke on the way. Whatever else is wrong is wrong with the call.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoIdentity
            | Self::Address { .. }
            | Self::Connect { .. }
            | Self::Tls(_)
            | Self::Slow { .. }
            | Self::Broken(_)
            | Self::Ended => true,
            Self::NotTaken(status) => is_passing(status),
            Self::Message(_) => false,
        }
    }
}

fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition => true,
        // Said on this side, of a message that is too large.
        Code::OutOfRange => false,
        // What a peer says has no cause on this side; what has one is of the connection.
        _ => std::error::Error::source(status).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_call_is_handed_to_another_node_only_if_that_may_help() {
        for status in [Status::unavailable("draining"), Status::failed_precondition("not here")] {
            assert!(PeerError::NotTaken(status).is_passing());
        }
        for status in [
            Status::invalid_argument("call.function is missing"),
            Status::unauthenticated("no certificate"),
            Status::out_of_range("too large"),
            Status::unimplemented("what"),
        ] {
            assert!(!PeerError::NotTaken(status.clone()).is_passing(), "{status:?}");
        }
        let mut broken = Status::unknown("transport error");
        broken.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(PeerError::NotTaken(broken).is_passing());
        assert!(PeerError::Ended.is_passing());
    }
}
