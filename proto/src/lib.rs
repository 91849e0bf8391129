//! Everything two processes of Realm say to each other; no logic.

/// Operator and agent, and the agent's ledger on disk.
pub mod link {
    #[expect(clippy::pedantic, clippy::derive_partial_eq_without_eq, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realm.link.v1.rs"));
    }
}

/// Client and agent over WebSocket.
pub mod ws;
