//! Why an agent is turned away or its stream ends, and how that is said on the wire.

use realm_proto::link::versions::Versions;
use thiserror::Error;
use tonic::{Code, Status};

use crate::link::{
    authority::AuthorityError,
    convert::ConvertError,
    identity::{IdentityError, Stranger},
    registry::TooManyNodes,
};

/// Why an agent is turned away, or its stream ends.
#[derive(Debug, Error)]
pub(super) enum Ending {
    #[error("this operator does not lead")]
    NotLeading,
    #[error("no `authorization: Bearer` with a token")]
    NoToken,
    #[error("the token proves no agent")]
    Identity(#[source] IdentityError),
    #[error("the agent's token proves nothing any more; it comes again with a newer one")]
    Refuted(#[source] IdentityError),
    #[error("the agent says that it is on `{said}`; its token is bound to `{proven}`")]
    OtherNode { said: String, proven: String },
    #[error("no hello within the time for it")]
    NoHello,
    #[error(
        "the agent speaks the link's version {agent} and this operator {operator}: none that both do"
    )]
    Version { agent: Versions, operator: Versions },
    #[error("the first message is not a hello")]
    NotAHello,
    #[error("a second hello")]
    SecondHello,
    #[error("a message that makes no sense")]
    Message(#[source] ConvertError),
    #[error("a message that cannot be read")]
    Unreadable(#[source] Status),
    #[error("the node cannot be added")]
    TooManyNodes(#[source] TooManyNodes),
    #[error("nothing was heard for {beats} heartbeats")]
    Silent { beats: u32 },
    #[error("a newer stream of the node has taken over")]
    Replaced,
    #[error("the node is no longer part of the cluster")]
    Forgotten,
    #[error("no certificate can be issued")]
    Enroll(#[source] AuthorityError),
    #[error("the agent has left")]
    Left,
}

impl Ending {
    /// The end as a metric's label has it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NotLeading => "NotLeading",
            Self::NoToken => "NoToken",
            Self::Identity(IdentityError::Review(_) | IdentityError::Busy) => "Review",
            Self::Identity(_) => "Identity",
            Self::Refuted(_) => "Refuted",
            Self::OtherNode { .. } => "OtherNode",
            Self::NoHello => "NoHello",
            Self::Version { .. } => "Version",
            Self::NotAHello | Self::SecondHello | Self::Message(_) => "Protocol",
            Self::Unreadable(_) => "Unreadable",
            Self::TooManyNodes(_) => "TooManyNodes",
            Self::Silent { .. } => "Silent",
            Self::Replaced => "Replaced",
            Self::Forgotten => "Forgotten",
            Self::Enroll(_) => "Enroll",
            Self::Left => "Left",
        }
    }

    /// What tells whoever came from an agent, where it is that which ended it.
    pub(super) const fn stranger(&self) -> Option<Stranger> {
        match self {
            Self::NoToken => Some(Stranger::NoToken),
            Self::Identity(error) => error.stranger(),
            Self::OtherNode { .. } => Some(Stranger::OtherNode),
            Self::NotLeading
            | Self::Refuted(_)
            | Self::NoHello
            | Self::Version { .. }
            | Self::NotAHello
            | Self::SecondHello
            | Self::Message(_)
            | Self::Unreadable(_)
            | Self::TooManyNodes(_)
            | Self::Silent { .. }
            | Self::Replaced
            | Self::Forgotten
            | Self::Enroll(_)
            | Self::Left => None,
        }
    }

    /// The end as the agent sees it; nothing when it is the agent's own doing.
    pub(super) fn into_status(self) -> Option<Status> {
        let code = match &self {
            Self::NotLeading => Code::Unavailable,
            Self::NoToken => Code::Unauthenticated,
            Self::Identity(error) | Self::Refuted(error) => identity_code(error),
            Self::OtherNode { .. } => Code::PermissionDenied,
            Self::NoHello | Self::Silent { .. } => Code::DeadlineExceeded,
            Self::NotAHello | Self::SecondHello | Self::Message(_) => Code::InvalidArgument,
            Self::Version { .. } => Code::FailedPrecondition,
            Self::Unreadable(status) => status.code(),
            Self::TooManyNodes(_) => Code::ResourceExhausted,
            Self::Replaced | Self::Forgotten => Code::Aborted,
            Self::Enroll(error) => authority_code(error),
            Self::Left => return None,
        };
        Some(Status::new(code, chain(&self)))
    }
}

const fn identity_code(error: &IdentityError) -> Code {
    match error {
        IdentityError::NotAuthenticated { .. }
        | IdentityError::Audience { .. }
        | IdentityError::Account { .. }
        | IdentityError::Extra { .. }
        | IdentityError::Node { .. } => Code::Unauthenticated,
        IdentityError::Review(_) | IdentityError::Busy => Code::Unavailable,
    }
}

const fn authority_code(error: &AuthorityError) -> Code {
    match error {
        AuthorityError::Request(_) | AuthorityError::RequestTooLarge { .. } => {
            Code::InvalidArgument
        }
        AuthorityError::Create(_)
        | AuthorityError::Certificates(_)
        | AuthorityError::Keys(_)
        | AuthorityError::Count { .. }
        | AuthorityError::Unreadable { .. }
        | AuthorityError::NotACa { .. }
        | AuthorityError::Key { .. }
        | AuthorityError::Mismatch { .. }
        | AuthorityError::Rotating
        | AuthorityError::Name { .. }
        | AuthorityError::Sign(_) => Code::Internal,
    }
}

/// An error and all its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
