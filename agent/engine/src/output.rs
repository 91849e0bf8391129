//! From the tokens of one sequence to the events of its stream.
//!
//! An answer that is resumed is pushed through again up to where it was cut, so that characters
//! and stop strings which are incomplete there come out as if it had never been.

use realm_core::{
    call::Resume,
    engine::{
        Finish, Generation, LOGPROB_MIN, Logprobs, ScoredToken, TOKENS_BUFFERED_MAX, Token,
        TokenEvent, TokenStream,
    },
    refusal::Refusal,
    sampling::check_stop,
};
use tokio::sync::mpsc;

use crate::{
    sampler::{Likely, Sampler, Scratch},
    stop::StopWatch,
    tokenizer::{Detokenizer, Tokenizer},
};

/// The writing end of one sequence's stream, with what turns its tokens into text.
#[derive(Debug)]
pub(crate) struct Output {
    sender: mpsc::Sender<TokenEvent>,
    pub(crate) sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopWatch,
    /// Of an answer that is resumed, until it is known whether more of it comes.
    replay: Option<Replay>,
}

/// An answer that was pushed through again.
#[derive(Debug)]
struct Replay {
    text: String,
    /// Bytes of `text` that the reader has.
    bytes_read: u64,
    /// How it has ended, if its own tokens end it.
    finish: Option<Finish>,
}

impl Output {
    /// Checks how a generation wants its tokens chosen and ended. Takes as long as the answer is
    /// that it resumes.
    pub(crate) fn new(
        generation: &Generation,
        seed: u64,
        tokenizer: &Tokenizer,
    ) -> Result<(Self, TokenStream), Refusal> {
        check_stop(&generation.stop)?;
        // One place more than tokens may take, so that the end always has room.
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX + 1);
        let mut output = Self {
            sender,
            sampler: Sampler::new(generation, seed, tokenizer.len())?,
            detokenizer: Detokenizer::default(),
            stop: StopWatch::new(generation.stop.clone()),
            replay: None,
        };
        if let Some(resume) = &generation.resume {
            output.replay = Some(output.replayed(resume, tokenizer)?);
        }
        Ok((output, stream))
    }

    fn replayed(&mut self, resume: &Resume, tokenizer: &Tokenizer) -> Result<Replay, Refusal> {
        let (mut text, mut finish) = (String::new(), None);
        for (at, &id) in resume.tokens().iter().enumerate() {
            if finish.is_some() {
                let message = format!("the answer to resume ended with its first {at} tokens");
                return Err(Refusal::Invalid(message));
            }
            let (token, end) = self.push(id, None, tokenizer);
            text.push_str(&token.text);
            finish = end;
        }
        Ok(Replay { text, bytes_read: resume.text_bytes(), finish })
    }

    /// How a resumed answer has ended by its own tokens, if it has.
    pub(crate) fn finish(&self) -> Option<Finish> {
        self.replay.as_ref()?.finish
    }

    /// The text of a resumed answer that its reader lacks; `ended` if no token of it is left.
    pub(crate) fn take_rest(&mut self, ended: Option<Finish>) -> Result<String, Refusal> {
        let Some(Replay { mut text, bytes_read, finish }) = self.replay.take() else {
            return Ok(String::new());
        };
        if ended.is_some() && finish.is_none() {
            text.push_str(&self.flush());
        }
        let rest = usize::try_from(bytes_read).ok().and_then(|read| text.get(read..));
        rest.map(str::to_owned).ok_or_else(|| {
            let bytes = text.len();
            Refusal::Invalid(format!(
                "{bytes_read} bytes of text to resume; the tokens have {bytes}, in whole characters"
            ))
        })
    }

    pub(crate) fn sender(&self) -> mpsc::Sender<TokenEvent> {
        self.sender.clone()
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the reader lags by all that may wait for it, with `behind` that are to come.
    pub(crate) fn is_full(&self, behind: usize) -> bool {
        self.sender.capacity() <= behind.saturating_add(1)
    }

    /// How likely the token was that was picked last with this scratch, where the reader asks for it
    /// and the token is a part of the answer.
    pub(crate) fn logprobs(
        &self,
        id: u32,
        scratch: &Scratch,
        tokenizer: &Tokenizer,
    ) -> Option<Logprobs> {
        if tokenizer.is_ending(id) {
            return None;
        }
        let Likely { own, top } = self.sampler.logprobs(id, scratch)?;
        let scored = |(id, logprob): (u32, f32)| ScoredToken {
            id,
            bytes: tokenizer.piece(id).to_vec(),
            logprob: logprob.max(LOGPROB_MIN),
        };
        Some(Logprobs { chosen: scored((id, own)), top: top.into_iter().map(scored).collect() })
    }

    /// The event of a token, and why the sequence is over if it is. `length` says that there is no
    /// room for another token.
    pub(crate) fn push(
        &mut self,
        id: u32,
        length: Option<Finish>,
        tokenizer: &Tokenizer,
    ) -> (Token, Option<Finish>) {
        self.sampler.remember(id);
        let new = self.detokenizer.push(tokenizer.answer_bytes(id));
        let released = self.stop.push(new);
        let mut text = released.text;
        if released.stopped {
            return (Token { id, text, logprobs: None }, Some(Finish::Stop));
        }
        let finish = if tokenizer.is_ending(id) { Some(Finish::Stop) } else { length };
        if finish.is_some() {
            text.push_str(&self.flush());
        }
        (Token { id, text, logprobs: None }, finish)
    }

    /// What was held back, when nothing more comes.
    fn flush(&mut self) -> String {
        let mut text = self.stop.push(self.detokenizer.finish()).text;
        text.push_str(&self.stop.finish());
        text
    }
}
