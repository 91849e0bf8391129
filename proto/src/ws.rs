//! The frames of the WebSocket protocol `realm.v1`, described in `ws/v1/README.md`.

mod client;
mod server;

pub use client::{CallFrame, ClientFrame, ID_BYTES_MAX, Resume};
pub use server::{
    ConnectionFrame, ErrorBody, Finish, Logprobs, Piece, Progress, Quota, ReplyFrame, ScoredToken,
    ServerFrame, Usage,
};

/// What both sides offer and select as `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "realm.v1";

/// Largest message a client sends, in bytes.
///
/// A prompt as long as the longest context in use (131072 tokens at some four bytes each, plus
/// escapes) fits, and a thousand connections that each send one at once stay within a gigabyte.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Largest message a server sends, in bytes; clients may take a larger one for an error.
///
/// The longest result of the built-in program fits twice: the tokens of half a mebibyte of text,
/// at worst one a byte, seven digits each with a comma. It is also what a call that is not
/// streamed may hold in memory.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Close codes besides those of RFC 6455.
pub mod close {
    /// The tenant has as many sockets as it may. Registered for this meaning with IANA.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// The key is missing, wrong, expired or revoked.
    pub const UNAUTHENTICATED: u16 = 4401;
    /// No key came in time.
    pub const AUTH_TOO_LATE: u16 = 4408;
}
