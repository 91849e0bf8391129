//! What comes back from a call: chunks, then one end.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    engine::{Finish, Logprobs, Usage},
    refusal::Refusal,
};

/// Chunks that may wait for a slow client before its call ends with [`Refusal::SlowReader`].
///
/// One chunk is one token at most times: at 50 tokens a second this is about five seconds, longer
/// than a mobile hand-over and short enough that a stalled reader does not hold KV blocks others
/// wait for.
pub const CHUNKS_BUFFERED_MAX: usize = 256;

/// One step of a reply. `Done` and `Failed` are last.
#[derive(Clone, Debug)]
pub enum ReplyEvent {
    Chunk(Chunk),
    Done(Done),
    Failed(Refusal),
}

/// A piece of a streamed reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The pipeline step it belongs to.
    pub step: Option<Arc<str>>,
    pub body: ChunkBody,
    /// How likely the tokens since the chunk before were, where the client has asked for it. Their
    /// text is in this chunk, but for what a stop string or a cut character keeps of it.
    pub logprobs: Vec<Logprobs>,
    /// Where the answer can be resumed behind this chunk; `None` where it cannot be.
    pub progress: Option<Progress>,
}

/// How far a resumable answer is, in tokens: what [`crate::call::Resume`] is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The place in the answer of the first of `tokens`.
    pub first: u64,
    /// Ids of the tokens since the chunk before. Their text is in this chunk, with the ones behind
    /// it where a long text is cut.
    pub tokens: Vec<u32>,
    /// What the answer is drawn with; told with the first chunk of a call.
    pub seed: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkBody {
    Text(String),
    /// A value of the program's own making.
    Json(serde_json::Value),
}

/// The end of a reply that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The function's result besides its streamed text; `null` where the text is all.
    pub data: serde_json::Value,
    pub finish: Finish,
    pub usage: Usage,
}

/// The reading end of a reply. Dropping it cancels the call.
pub type Reply = mpsc::Receiver<ReplyEvent>;

/// The writing end of a reply.
pub type ReplySender = mpsc::Sender<ReplyEvent>;

/// A reply that holds [`CHUNKS_BUFFERED_MAX`] events.
pub fn channel() -> (ReplySender, Reply) {
    mpsc::channel(CHUNKS_BUFFERED_MAX)
}
