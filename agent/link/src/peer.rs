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
mod trace;

pub use client::{PeerEvent, PeerReply, Peers};
pub use door::{PeerDoor, PeerPorts};
pub use error::{IdentityError, PeerError};
pub use identity::{Identity, keep};

/// HTTP/2 pings, of both ends: a peer that is gone without a word is noticed after both, fifteen
/// seconds, and its calls end.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);

/// Calls that one door hands to one peer at once: it would need eight clients that each run all
/// that one socket may, and a node has fewer places for programs. Who has as many in hand at a peer
/// asks another one.
pub const CALLS_MAX: u32 = 512;

/// Streams of one connection at once: the calls and some looks at programs, which take
/// milliseconds, so that these never wait for a call to end.
const STREAMS_MAX: u32 = CALLS_MAX + 32;

/// Bytes of one call under way: some thousand pieces of text, so that a reader who falls behind is
/// felt where the tokens are made and not buffered on the way.
const WINDOW_BYTES: u32 = 64 << 10;

/// Bytes of one connection under way: the most that HTTP/2 has. What bounds them are the windows of
/// its calls, 34 MiB together, so that no slow reader holds up the others.
///
/// Half of it is also what the frames that wait for their readers may lack of 256 bytes each before
/// the connection is given up as an attack. The smallest frame that carries an event has 12 bytes,
/// so that the full windows of all calls lack 725 MB, and never come to that as long as each frame
/// that nobody reads is given back, for which see [`RESETS_REMEMBERED_MAX`].
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Streams that a door remembers after it has reset them. What still comes for one of these is
/// dropped without giving back what it lacked of 256 bytes, so that a connection on which calls are
/// given up for long enough would be taken for an attack. What comes for a stream that is forgotten
/// is answered with another reset, of which there may be as many as [`ERROR_RESETS_MAX`], and costs
/// nothing else.
const RESETS_REMEMBERED_MAX: usize = 0;

/// The most that hyper's own limit on resets for the life of one connection takes. Calls that are
/// given up are reset while pieces of their answers are still on the way, as often as clients like,
/// and both ends of the connection are agents: ending it would end everybody's calls.
const ERROR_RESETS_MAX: usize = usize::MAX;

/// Calls that were given up before the peer has looked at them, on one connection.
///
/// One look of the peer at a connection reads 128 times, a TLS record of 16 KiB at most, and then
/// takes all that has come: 2 MiB. `RST_STREAM` has 13 bytes, and HEADERS 9 and a byte for each of
/// the seven fields at least, all of which a connection may have seen before: 29 bytes for a call,
/// so that one look sees 72 316 at most. No agent comes to this number, whatever its clients do.
const PENDING_RESETS_MAX: usize = 128 << 10;
