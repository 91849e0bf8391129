//! The writing end of a reply: bounded, patient with a slow reader for a while, always able to
//! say how the call ended.

use std::{sync::Arc, time::Duration};

use realm_core::{
    engine::Logprobs,
    refusal::Refusal,
    reply::{Chunk, ChunkBody, Done, ReplyEvent, ReplySender},
};
use tokio::{
    sync::mpsc::{OwnedPermit, error::TrySendError},
    time::timeout,
};

use crate::{meter::Countdown, refusal::Ended, tracker::Tracker};

/// How long a program waits for a reader that has let every place of its reply fill up. As long
/// as those places last at 50 tokens a second: a reader that needs more is not reading.
const READER_WAIT: Duration = Duration::from_secs(5);

/// Bytes of text in one chunk. A client sees text flow, a message stays far below what readers of
/// WebSockets take by default, and a token never comes near it.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// The place that every reply keeps for its last event. Dropped unused, the call has panicked or
/// was cancelled, and it says which.
#[derive(Debug)]
pub struct End(Option<OwnedPermit<ReplyEvent>>);

impl End {
    /// Keeps a place in a reply that nothing has been written to.
    pub fn of(sender: &ReplySender) -> Self {
        Self(sender.clone().try_reserve_owned().ok())
    }

    pub fn send(mut self, end: Result<Done, Refusal>) {
        let event = end.map_or_else(ReplyEvent::Failed, ReplyEvent::Done);
        if let Some(place) = self.0.take() {
            place.send(event);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            let panicked = std::thread::panicking();
            let refusal = if panicked { Refusal::Internal } else { Refusal::Cancelled };
            place.send(ReplyEvent::Failed(refusal));
        }
    }
}

/// What a program writes through.
pub(crate) struct Writer {
    sender: ReplySender,
    bytes: Countdown,
    step: Option<Step>,
    tracker: Tracker,
}

/// A pipeline's step, whose text is also kept for the steps after it.
struct Step {
    name: Arc<str>,
    text: String,
}

impl Writer {
    pub(crate) fn new(
        sender: ReplySender,
        step: Option<Arc<str>>,
        bytes: Countdown,
        tracker: Tracker,
    ) -> Self {
        let step = step.map(|name| Step { name, text: String::new() });
        Self { sender, bytes, step, tracker }
    }

    /// What knows of which tokens the next chunk is made.
    pub(crate) const fn tracker(&mut self) -> &mut Tracker {
        &mut self.tracker
    }

    pub(crate) async fn write_text(&mut self, text: String) -> Result<(), Ended> {
        self.write_scored(text, Vec::new()).await
    }

    /// Text, and how likely the tokens were that the client is told of with it.
    pub(crate) async fn write_scored(
        &mut self,
        text: String,
        mut logprobs: Vec<Logprobs>,
    ) -> Result<(), Ended> {
        self.count(&text)?;
        self.take(logprobs.iter().map(Logprobs::output_bytes).fold(0, usize::saturating_add))?;
        if text.is_empty() && logprobs.is_empty() {
            return Ok(());
        }
        if let Some(step) = &mut self.step {
            step.text.push_str(&text);
        }
        if text.len() <= TEXT_BYTES_MAX {
            return self.send(ChunkBody::Text(text), logprobs).await;
        }
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(TEXT_BYTES_MAX));
            // Like `progress`, they go with the first piece.
            let logprobs = std::mem::take(&mut logprobs);
            self.send(ChunkBody::Text(piece.to_owned()), logprobs).await?;
            rest = after;
        }
        Ok(())
    }

    pub(crate) async fn write_json(&mut self, json: &str) -> Result<(), Ended> {
        let value = self.parse(json)?;
        self.tracker.stop();
        self.send(ChunkBody::Json(value), Vec::new()).await
    }

    /// Reads JSON of the program's making, as part of its output.
    pub(crate) fn parse(&self, json: &str) -> Result<serde_json::Value, Ended> {
        self.count(json)?;
        serde_json::from_str(json).map_err(|error| {
            Ended(Refusal::ProgramFailed(format!("what it wrote is not JSON: {error}")))
        })
    }

    /// The text of this step, or nothing outside of one.
    pub(crate) fn into_text(self) -> String {
        self.step.map(|step| step.text).unwrap_or_default()
    }

    fn count(&self, text: &str) -> Result<(), Ended> {
        self.take(text.len())
    }

    fn take(&self, bytes: usize) -> Result<(), Ended> {
        self.bytes.take(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    async fn send(&mut self, body: ChunkBody, logprobs: Vec<Logprobs>) -> Result<(), Ended> {
        let step = self.step.as_ref().map(|step| step.name.clone());
        // Of a long text the first piece names the tokens, so that a client never has text of
        // tokens that it does not know.
        let progress = self.tracker.tell();
        deliver(&self.sender, Chunk { step, body, logprobs, progress }).await.map_err(Ended)
    }
}

/// Delivers a chunk to a reader that may be slow for a while.
pub async fn deliver(sender: &ReplySender, chunk: Chunk) -> Result<(), Refusal> {
    let event = match sender.try_send(ReplyEvent::Chunk(chunk)) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Closed(_)) => return Err(Refusal::Cancelled),
        Err(TrySendError::Full(event)) => event,
    };
    match timeout(READER_WAIT, sender.send(event)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_closed)) => Err(Refusal::Cancelled),
        Err(_elapsed) => Err(Refusal::SlowReader),
    }
}

#[cfg(test)]
mod tests {
    use realm_core::{
        engine::ScoredToken,
        refusal::ProgramLimit,
        reply::{CHUNKS_BUFFERED_MAX, channel},
    };

    use super::*;

    fn writer(sender: ReplySender) -> Writer {
        let bytes = Countdown::new(ProgramLimit::Output, u64::MAX);
        Writer::new(sender, None, bytes, Tracker::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_ends_the_call_and_is_still_told() {
        let (sender, mut reply) = channel();
        let end = End::of(&sender);
        let mut writer = writer(sender);
        for _ in 1..CHUNKS_BUFFERED_MAX {
            writer.write_text("a".into()).await.unwrap();
        }
        let Ended(refusal) = writer.write_text("b".into()).await.unwrap_err();
        assert_eq!(refusal, Refusal::SlowReader);
        end.send(Err(refusal));
        drop(writer);
        let mut last = None;
        while let Some(event) = reply.recv().await {
            last = Some(event);
        }
        assert!(matches!(last, Some(ReplyEvent::Failed(Refusal::SlowReader))), "{last:?}");
    }

    #[tokio::test]
    async fn a_long_text_goes_in_pieces_of_whole_characters() {
        let (sender, mut reply) = channel();
        let text = format!("a{}", "é".repeat(TEXT_BYTES_MAX));
        let mut writer = writer(sender);
        writer.write_text(text.clone()).await.unwrap();
        drop(writer);
        let mut pieces = Vec::new();
        while let Some(event) = reply.recv().await {
            let ReplyEvent::Chunk(Chunk { body: ChunkBody::Text(piece), .. }) = event else {
                panic!("{event:?}")
            };
            assert!((1..=TEXT_BYTES_MAX).contains(&piece.len()), "{}", piece.len());
            pieces.push(piece);
        }
        assert_eq!((pieces.len(), pieces.concat()), (3, text));
    }

    #[tokio::test]
    async fn probabilities_go_once_with_the_first_piece_even_where_there_is_no_text() {
        let (sender, mut reply) = channel();
        let chosen = ScoredToken { id: 1, bytes: vec![b'a'], logprob: -1.0 };
        let told = vec![Logprobs { chosen, top: Vec::new() }];
        let mut writer = writer(sender);
        writer.write_scored("a".repeat(TEXT_BYTES_MAX + 1), told.clone()).await.unwrap();
        writer.write_scored(String::new(), told.clone()).await.unwrap();
        drop(writer);
        let mut seen = Vec::new();
        while let Some(ReplyEvent::Chunk(Chunk { logprobs, .. })) = reply.recv().await {
            seen.push(logprobs);
        }
        assert_eq!(seen, [told.clone(), Vec::new(), told]);
    }

    #[tokio::test]
    async fn a_call_whose_task_panics_ends_with_internal() {
        let (sender, mut reply) = channel();
        let end = End::of(&sender);
        let task = tokio::spawn(async move {
            let _end = end;
            panic!("on purpose");
        });
        task.await.unwrap_err();
        let event = reply.recv().await;
        assert!(matches!(event, Some(ReplyEvent::Failed(Refusal::Internal))), "{event:?}");
    }
}
