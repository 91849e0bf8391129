//! From the tokens of one sequence to the events of its stream.

use realm_core::{
    engine::{Finish, Generation, TOKENS_BUFFERED_MAX, Token, TokenEvent, TokenStream},
    refusal::Refusal,
};
use tokio::sync::mpsc;

use crate::{
    sampler::Sampler,
    stop::{STOP_BYTES_MAX, STOPS_MAX, StopWatch},
    tokenizer::{Detokenizer, Tokenizer},
};

/// The writing end of one sequence's stream, with what turns its tokens into text.
#[derive(Debug)]
pub(crate) struct Output {
    sender: mpsc::Sender<TokenEvent>,
    pub(crate) sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopWatch,
}

impl Output {
    /// Checks how a generation wants its tokens chosen and ended.
    pub(crate) fn new(generation: &Generation, seed: u64) -> Result<(Self, TokenStream), Refusal> {
        let refuse = |message: String| Err(Refusal::Invalid(message));
        if generation.stop.len() > STOPS_MAX {
            return refuse(format!("more than {STOPS_MAX} stop strings"));
        }
        if generation.stop.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
            return refuse(format!("a stop string must have 1 to {STOP_BYTES_MAX} bytes"));
        }
        // One place more than tokens may take, so that the end always has room.
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX + 1);
        let output = Self {
            sender,
            sampler: Sampler::new(generation.sampling, seed)?,
            detokenizer: Detokenizer::default(),
            stop: StopWatch::new(generation.stop.clone()),
        };
        Ok((output, stream))
    }

    pub(crate) fn sender(&self) -> mpsc::Sender<TokenEvent> {
        self.sender.clone()
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the reader lags by all that may wait for it.
    pub(crate) fn is_full(&self) -> bool {
        self.sender.capacity() <= 1
    }

    /// The event of a token, and why the sequence is over if it is. `length` says that there is no
    /// room for another token.
    pub(crate) fn push(
        &mut self,
        id: u32,
        length: Option<Finish>,
        tokenizer: &Tokenizer,
    ) -> (Token, Option<Finish>) {
        let new = self.detokenizer.push(tokenizer.answer_bytes(id));
        let released = self.stop.push(&new);
        let mut text = released.text;
        if released.stopped {
            return (Token { id, text }, Some(Finish::Stop));
        }
        let finish = if tokenizer.is_ending(id) { Some(Finish::Stop) } else { length };
        if finish.is_some() {
            let last = self.stop.push(&self.detokenizer.finish());
            text.push_str(&last.text);
            text.push_str(&self.stop.finish());
        }
        (Token { id, text }, finish)
    }
}
