//! Why an agent has no identity, and why a call could not be handed on.

use std::{io, path::PathBuf, time::Duration};

use rustls::{pki_types::pem, server::VerifierBuilderError};
use thiserror::Error;
use tonic::Status;

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
