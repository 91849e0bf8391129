//! Everything two processes of Realm say to each other; no logic but what both ends reckon alike.

/// Operator and agent, and the agent's ledger on disk.
pub mod link {
    pub mod versions;

    /// Most bytes of one message of the operator: as much as an agent's ledger takes, and a
    /// little for the envelope. 1,000 tenants with 8 keys, 20 models and 10 pipelines each, 200
    /// models and 100 pipelines of five long prompts have 3 MB; ten thousand tenants that may
    /// each use a hundred models still pass.
    pub const OPERATOR_MESSAGE_BYTES_MAX: usize = (80 << 20) + 64;

    /// Most bytes of one message of an agent: a report in which 4,000 items have failed and say
    /// so at the greatest length, or 40,000 are ready under the longest names.
    pub const AGENT_MESSAGE_BYTES_MAX: usize = 8 << 20;

    /// Most bytes of one text of an agent. A longer one is cut by the agent, and refused by the
    /// operator, who shows these texts in the status of objects.
    pub const TEXT_BYTES_MAX: usize = 1 << 10;

    /// Most bytes that one entry of a ConfigMap has: as many as Kubernetes lets all of them have.
    pub const CONFIG_MAP_BYTES_MAX: usize = 1 << 20;

    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::derive_partial_eq_without_eq,
        clippy::excessive_nesting,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realm.link.v1.rs"));

        /// Says whose it is and how long, never what.
        impl std::fmt::Debug for Credential {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let Self { model, secret } = self;
                write!(f, "Credential({model}, {} bytes)", secret.len())
            }
        }

        impl std::fmt::Debug for ConfigMapPiece {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let Self { content, bytes_left } = self;
                write!(f, "ConfigMapPiece({} bytes, {bytes_left} left)", content.len())
            }
        }
    }
}

/// Agent and agent: a call that is handed to where its model is.
pub mod peer {
    /// Most bytes of one message, either way. The largest parameters are those of a pipeline's
    /// step, two texts of 1 MiB each, and JSON can make six bytes of one; the largest piece of an
    /// answer is a program's own result, of which clients take 10 MiB.
    pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::derive_partial_eq_without_eq,
        clippy::excessive_nesting,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realm.peer.v1.rs"));

        impl std::fmt::Debug for CallRequest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "CallRequest({}, {})", self.id, self.function)
            }
        }

        impl std::fmt::Debug for Chunk {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "Chunk({:?})", self.step)
            }
        }

        impl std::fmt::Debug for Done {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "Done({}, {:?})", self.finish, self.usage)
            }
        }

        impl std::fmt::Debug for Resume {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "Resume({} tokens)", self.tokens.len())
            }
        }
    }
}

/// Client and agent over WebSocket.
pub mod ws;
