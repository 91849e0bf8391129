//! Calls from agent to agent.
//!
//! Each agent has one `identity`: a certificate of the installation's authority that names its
//! node, renewed while connections live, and `kept` for the next start. [`Peers`] hands calls on
//! (`dial`, `client`), [`PeerDoor`] takes them (`door`, `service`), and both believe only whom the
//! authority has named as an agent (`certificate`). All of it meets its protobuf form in `convert`.

use std::time::Duration;

mod certificate;
mod client;
mod convert;
mod dial;
mod door;
mod error;
mod identity;
mod kept;
mod service;

pub use client::{PeerEvent, PeerReply, Peers};
pub use door::{PeerDoor, PeerPorts};
pub use error::{IdentityError, PeerError};
pub use identity::{Identity, keep};

/// HTTP/2 pings, of both ends: a peer that is gone without a word is noticed after both, fifteen
/// seconds, and its calls end.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);

/// Calls of one connection at once: a door would need eight clients that each run all that one
/// socket may, and a node has fewer places for programs.
const STREAMS_MAX: u32 = 512;

/// Bytes of one call under way: some thousand pieces of text, so that a reader who falls behind is
/// felt where the tokens are made and not buffered on the way.
const WINDOW_BYTES: u32 = 64 << 10;

/// Bytes of one connection under way: all that its calls may have, so that no slow reader holds up
/// the others.
const CONNECTION_WINDOW_BYTES: u32 = WINDOW_BYTES * STREAMS_MAX;
