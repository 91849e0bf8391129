//! A running generation, whose every token is paid for.

use std::sync::Arc;

use realm_core::{
    engine::{self, Engine, Finish, TokenEvent, TokenStream, Usage},
    refusal::Refusal,
};

use crate::{
    bindings::realm::tenant::{
        model::Summary,
        types::{self, Token},
    },
    meter::TokenMeter,
};

/// Tokens handed over at once when they are there already: a program that has fallen behind
/// catches up in a few calls, and a client still sees text flow.
const TOKENS_AT_ONCE_MAX: usize = 64;

/// A generation. Dropping it cancels it; a prompt that the engine was given is paid for however
/// the generation ends, or cancelling before the first token would make prompts free.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Generation {
    stream: TokenStream,
    tokens: Arc<TokenMeter>,
    /// What the prompt costs, until it is paid.
    prompt_due: Option<u32>,
    end: Option<Result<Summary, Refusal>>,
}

impl Generation {
    pub(super) fn start(
        engine: &dyn Engine,
        tokens: Arc<TokenMeter>,
        generation: engine::Generation,
    ) -> Result<Self, Refusal> {
        let prompt_due = u32::try_from(generation.prompt.len()).ok();
        let stream = engine.generate(tokens.admitted().caller(), generation)?;
        Ok(Self { stream, tokens, prompt_due, end: None })
    }

    /// The next tokens: waits for one, and takes those behind it that are there already.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Token>>, Refusal> {
        let mut tokens = Vec::new();
        while self.end.is_none() && tokens.len() < TOKENS_AT_ONCE_MAX {
            let event = if tokens.is_empty() {
                self.stream.recv().await
            } else {
                let Ok(event) = self.stream.try_recv() else { break };
                Some(event)
            };
            self.take(event, &mut tokens);
        }
        match &self.end {
            _ if !tokens.is_empty() => Ok(Some(tokens)),
            Some(Err(refusal)) => Err(refusal.clone()),
            Some(Ok(_)) | None => Ok(None),
        }
    }

    pub(super) fn summary(&self) -> Option<Summary> {
        self.end.as_ref()?.as_ref().ok().copied()
    }

    fn take(&mut self, event: Option<TokenEvent>, tokens: &mut Vec<Token>) {
        match event {
            Some(TokenEvent::Token(token)) => {
                self.tokens.spend(Usage { completion_tokens: 1, ..Usage::default() });
                tokens.push(Token { id: token.id, text: token.text });
            }
            Some(TokenEvent::Finished { finish, usage }) => {
                self.pay_prompt(usage.cached_tokens);
                self.end = Some(Ok(summary(finish, usage)));
            }
            Some(TokenEvent::Failed(refusal)) => self.end = Some(Err(refusal)),
            None => {
                tracing::error!("an engine dropped a generation without an end");
                self.end = Some(Err(Refusal::Internal));
            }
        }
    }

    fn pay_prompt(&mut self, cached_tokens: u32) {
        if let Some(prompt_tokens) = self.prompt_due.take() {
            self.tokens.spend(Usage { prompt_tokens, cached_tokens, completion_tokens: 0 });
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.pay_prompt(0);
    }
}

const fn summary(finish: Finish, usage: Usage) -> Summary {
    let finish = match finish {
        Finish::Stop => types::Finish::Stop,
        Finish::Length => types::Finish::Length,
    };
    let Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    Summary { finish, usage: types::Usage { prompt_tokens, cached_tokens, completion_tokens } }
}
