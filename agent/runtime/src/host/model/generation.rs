//! A running generation, whose every token is paid for.

use std::{sync::Arc, time::Instant};

use realm_core::{
    call::Resume,
    engine::{self, Engine, Finish, Milestones, TokenEvent, TokenStream, Usage},
    hook::Hooked,
    limit::Reserve,
    refusal::Refusal,
    trace::Open,
};

use super::sequence::Traced;
use crate::{
    asks::Asked,
    bindings::realm::tenant::{
        model::Summary,
        types::{self, Token},
    },
    host::scored,
    meter::TokenMeter,
    refusal::internal,
};

/// Tokens handed over at once when they are there already: a program that has fallen behind
/// catches up in a few calls, and a client still sees text flow.
const TOKENS_AT_ONCE_MAX: usize = 64;

/// A generation. Dropping it cancels it.
///
/// Tokens for the prompt are set aside before the engine has it, and paid when it takes it, so that
/// generations which a program runs side by side see each other's; what of it was cached is given
/// back when the engine says so, and all of it where the engine never began.
///
/// A token is paid for before the program has it. Where the tenant has none left the generation ends
/// with what had come, and the engine makes no more of it from its next step on. Tokens that the
/// engine made and the program did not take are paid for as far as there are any: a program that
/// never reads would otherwise compute for nothing, and one that is cut owes nothing.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Generation {
    stream: TokenStream,
    tokens: Arc<TokenMeter>,
    reserve: Reserve,
    /// Tokens of the prompt, resumed ones with them.
    prompt_tokens: u32,
    milestones: Arc<Milestones>,
    /// Whether the engine has said that it computes any of it.
    has_begun: bool,
    /// Whether a hook hears every token before the program does.
    is_heard: bool,
    /// Tokens of the prompt that were cached, and have been given back.
    cached: u32,
    /// The last token that was resumed, whose text is what is left of theirs.
    resumed: u32,
    /// Ids of the tokens that `next` has returned and the host has not taken note of.
    made: Vec<u32>,
    end: Option<Result<Summary, Refusal>>,
    traced: Traced,
}

impl Generation {
    pub(super) fn start(
        engine: &dyn Engine,
        tokens: Arc<TokenMeter>,
        (mut generation, hooked): (engine::Generation, Option<(Hooked, Asked)>),
        span: Open,
    ) -> Result<Self, Refusal> {
        let resumed = generation.resume.as_ref().map_or(&[][..], Resume::tokens);
        let last = resumed.last().copied().unwrap_or_default();
        let count = |ids: &[u32]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let (prompt_tokens, resumed_tokens) = (count(&generation.prompt), count(resumed));
        let mut traced = Traced::begin(span, &mut generation);
        let milestones = generation.milestones.get_or_insert_default().clone();
        let admitted = tokens.admitted();
        let reserve = admitted.reserve_resumed(prompt_tokens, resumed_tokens, Instant::now());
        let reserve = reserve.inspect_err(|refusal| traced.end(refusal.code()))?;
        let caller = tokens.admitted().caller();
        let is_heard = hooked.is_some();
        let stream = match hooked {
            None => engine.generate(caller, generation),
            Some((hooked, _asked)) => engine.generate_hooked(caller, generation, hooked),
        };
        let stream = stream.inspect_err(|refusal| traced.end(refusal.code()))?;
        // Tokens that are resumed are computed as a prompt is, and cost the same.
        let prompt_tokens = prompt_tokens.saturating_add(resumed_tokens);
        let mut started = Self::of(stream, tokens, (reserve, prompt_tokens), traced);
        (started.resumed, started.milestones, started.is_heard) = (last, milestones, is_heard);
        Ok(started)
    }

    fn of(
        stream: TokenStream,
        tokens: Arc<TokenMeter>,
        (mut reserve, prompt_tokens): (Reserve, u32),
        mut traced: Traced,
    ) -> Self {
        tokens.spend_input(&mut reserve, prompt_tokens);
        traced.paid(prompt_tokens);
        Self {
            stream,
            tokens,
            reserve,
            prompt_tokens,
            milestones: Arc::default(),
            has_begun: false,
            is_heard: false,
            cached: 0,
            resumed: 0,
            made: Vec::new(),
            end: None,
            traced,
        }
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

    /// Ids of the tokens that were made since the last time, without those that were resumed.
    pub(super) fn take_made(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.made)
    }

    pub(super) fn summary(&self) -> Option<Summary> {
        self.end.as_ref()?.as_ref().ok().copied()
    }

    fn take(&mut self, event: Option<TokenEvent>, tokens: &mut Vec<Token>) {
        if let Some(event) = &event {
            self.hear(event);
        }
        match event {
            Some(TokenEvent::Cached(cached)) => self.found_cached(cached),
            Some(TokenEvent::Rest(text)) => {
                tokens.push(Token { id: self.resumed, text, logprobs: None });
            }
            Some(TokenEvent::Token(engine::Token { id, text, logprobs })) => {
                if let Err(refusal) = self.tokens.take_token(&mut self.reserve) {
                    return self.cut(refusal);
                }
                self.made.push(id);
                tokens.push(Token { id, text, logprobs: logprobs.map(scored::tell) });
            }
            Some(TokenEvent::Unsaid(made)) => {
                // A hook has had them, and they are no part of the answer that could be cut.
                self.tokens.spend_unread(&mut self.reserve, made, true);
            }
            Some(TokenEvent::Finished { finish, usage }) => {
                self.found_cached(usage.cached_tokens);
                self.end = Some(Ok(summary(finish, usage)));
            }
            Some(TokenEvent::Failed(refusal)) => self.end = Some(Err(refusal)),
            None => {
                self.end = Some(Err(internal("an engine dropped a generation without an end")));
            }
        }
    }

    fn hear(&mut self, event: &TokenEvent) {
        self.has_begun |= match event {
            TokenEvent::Token(_) | TokenEvent::Unsaid(_) | TokenEvent::Cached(_) => true,
            // An answer that was resumed when it was whole ends, and nothing of it is computed.
            TokenEvent::Finished { usage, .. } => usage.cached_tokens > 0,
            TokenEvent::Rest(_) | TokenEvent::Failed(_) => false,
        };
        self.traced.heard(event);
    }

    /// Ends the generation before a token that the tenant has no more of, which was made.
    fn cut(&mut self, refusal: Refusal) {
        self.traced.end(refusal.code());
        self.close(1);
        // What hooks have heard beyond it is a debt, which is to be waited for as well.
        let owes = self.tokens.admitted().check(Instant::now()).err();
        self.end = Some(Err(owes.unwrap_or(refusal)));
    }

    /// Takes nothing more of the engine, which ends the sequence at its next step, and pays for what
    /// it made meanwhile, and for so many `tokens` before.
    fn close(&mut self, tokens: u32) {
        self.stream.close();
        let mut tokens = tokens;
        while let Ok(event) = self.stream.try_recv() {
            match &event {
                TokenEvent::Token(_) => tokens = tokens.saturating_add(1),
                TokenEvent::Unsaid(made) => tokens = tokens.saturating_add(*made),
                TokenEvent::Cached(cached) => self.found_cached(*cached),
                TokenEvent::Finished { usage, .. } => self.found_cached(usage.cached_tokens),
                TokenEvent::Rest(_) | TokenEvent::Failed(_) => {}
            }
            self.hear(&event);
        }
        if tokens > 0 {
            self.tokens.spend_unread(&mut self.reserve, tokens, self.is_heard);
        }
    }

    /// Gives back what turned out to be cached, once.
    fn found_cached(&mut self, cached: u32) {
        let more = cached.saturating_sub(self.cached);
        if more > 0 {
            self.tokens.found_cached(more);
            self.cached = cached;
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.close(0);
        if self.milestones.started.get().is_none() && !self.has_begun {
            self.tokens.not_begun(self.prompt_tokens);
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use realm_core::{
        auth::{self, Credential, Roster},
        call::{Call, CallId},
        desired::{
            ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, ProgramLimits,
        },
        engine::TOKENS_BUFFERED_MAX,
        limit::{Admitted, Limiter},
        name::TenantName,
    };
    use tokio::sync::mpsc;

    use super::*;
    use crate::host::model::sequence::tests::generation;

    const LIMITS: Limits = Limits {
        requests_per_minute: 10,
        input_tokens_per_minute: 1000,
        output_tokens_per_minute: 1000,
        calls_max: 1,
        context_max: 1000,
        output_tokens_max: 1000,
        kv_blocks_max: 100,
        program: ProgramLimits {
            memory_bytes_max: 1 << 20,
            fuel_max: 1,
            host_calls_max: 1,
            output_bytes_max: 1,
            deadline_ms: 1,
            token_fuel_max: 1_000_000,
            token_deadline_ms: 1_000,
            instances_max: 64,
            memory64: false,
        },
    };

    fn admitted() -> Admitted {
        let sha256 = Credential::of("key").digest();
        let key = ApiKey { name: "main".into(), sha256, expires_at: None, disabled: false };
        let tenant = DesiredTenant {
            name: TenantName::new("tests", "unread").unwrap(),
            weight: 1,
            priority: Priority::Normal,
            suspended: false,
            limits_mode: LimitsMode::Enforce,
            share_group: None,
            limits: LIMITS,
            models: Vec::new(),
            pipelines: BTreeMap::new(),
            keys: vec![key],
            program: Some(HostedProgram::built_in()),
        };
        let roster = Roster::new([Arc::new(tenant)]);
        let caller = auth::verify(&roster, Credential::of("key"), 0).unwrap();
        let (id, params) = (CallId("1".into()), serde_json::Value::Null);
        let call = Call::new(id, "chat", params);
        Limiter::default().admit(caller, call, Instant::now()).unwrap()
    }

    fn token() -> TokenEvent {
        TokenEvent::Token(engine::Token { id: 1, text: "a".into(), logprobs: None })
    }

    fn untraced() -> Traced {
        Traced::begin(Open::OFF, &mut generation())
    }

    fn started(stream: TokenStream, tokens: &Arc<TokenMeter>, prompt_tokens: u32) -> Generation {
        let reserve = tokens.admitted().reserve(prompt_tokens, Instant::now()).unwrap();
        Generation::of(stream, tokens.clone(), (reserve, prompt_tokens), untraced())
    }

    /// What a generation with a prompt of ten tokens has cost once it is dropped unread.
    fn cost_unread(events: impl IntoIterator<Item = TokenEvent>) -> Usage {
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        for event in events {
            sender.try_send(event).unwrap();
        }
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        drop(started(stream, &tokens, 10));
        tokens.total()
    }

    #[test]
    fn generations_side_by_side_see_what_each_others_prompts_cost() {
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        let (_sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let _first = started(stream, &tokens, 1000);
        let refusal = tokens.admitted().check(Instant::now()).unwrap_err();
        assert!(matches!(refusal, Refusal::TooManyTokens { .. }), "{refusal:?}");
    }

    #[test]
    fn tokens_that_a_program_never_takes_are_paid_for() {
        let cost = cost_unread([token(), token(), token()]);
        let expected = Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 3 };
        assert_eq!(cost, expected);
        let usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 1 };
        let end = TokenEvent::Finished { finish: Finish::Stop, usage };
        assert_eq!(cost_unread([token(), end.clone()]), usage, "cached tokens stay free");
        let whole = Usage { prompt_tokens: 10, ..Usage::default() };
        let whole = TokenEvent::Finished { finish: Finish::Stop, usage: whole };
        assert_eq!(cost_unread([whole]), Usage::default(), "it was resumed when it was whole");
        let told = TokenEvent::Cached(4);
        assert_eq!(cost_unread([told, token(), end]), usage, "they are given back once");
    }

    #[tokio::test]
    async fn what_was_cached_is_given_back_long_before_the_end() {
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        let mut generation = started(stream, &tokens, 1000);
        tokens.admitted().check(Instant::now()).unwrap_err();
        sender.try_send(TokenEvent::Cached(900)).unwrap();
        sender.try_send(token()).unwrap();
        generation.next().await.unwrap();
        tokens.admitted().check(Instant::now()).unwrap();
        let expected = Usage { prompt_tokens: 1000, cached_tokens: 900, completion_tokens: 1 };
        assert_eq!(tokens.total(), expected);
    }

    #[tokio::test]
    async fn a_generation_ends_before_the_token_that_its_tenant_has_no_more_of() {
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        // All but two, of which one is set aside for the generation.
        let usage = Usage { completion_tokens: 998, ..Usage::default() };
        tokens.admitted().charge(usage, Instant::now());
        let mut generation = started(stream, &tokens, 10);
        for _ in 0..20 {
            sender.try_send(token()).unwrap();
        }
        // A thousand a minute may earn one meanwhile.
        let had = generation.next().await.unwrap().unwrap();
        assert!((2..=4).contains(&had.len()), "{}", had.len());
        let refusal = generation.next().await.unwrap_err();
        let Refusal::TooManyTokens { per_minute: 1000, retry_after_ms } = refusal else {
            panic!("{refusal:?}")
        };
        assert!(retry_after_ms <= 60, "it has no debt: {retry_after_ms}");
        assert!(sender.is_closed(), "the engine makes no more");
        drop(generation);
        assert_eq!(tokens.total().completion_tokens, 20, "of whom it was made for");
    }

    /// A generation that a hook stands beside, of a tenant that has spent so much of a minute's
    /// thousand tokens.
    fn hooked(spent: u32) -> (mpsc::Sender<TokenEvent>, Arc<TokenMeter>, Generation) {
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        let usage = Usage { completion_tokens: spent, ..Usage::default() };
        tokens.admitted().charge(usage, Instant::now());
        let mut generation = started(stream, &tokens, 10);
        generation.is_heard = true;
        (sender, tokens, generation)
    }

    #[test]
    fn what_a_hook_has_heard_is_paid_for_whatever_is_left() {
        let (sender, tokens, generation) = hooked(900);
        for _ in 0..200 {
            sender.try_send(token()).unwrap();
        }
        drop(generation);
        let refusal = tokens.admitted().check(Instant::now()).unwrap_err();
        // A hundred in debt, at a thousand a minute.
        assert!(refusal.retry_after_ms() > Some(5_000), "{refusal:?}");
    }

    #[tokio::test]
    async fn an_answer_that_its_hook_has_ended_is_whole_whatever_was_made_behind_it() {
        let (sender, tokens, mut generation) = hooked(998);
        let usage = Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 201 };
        let end = TokenEvent::Finished { finish: Finish::Stop, usage };
        for event in [token(), TokenEvent::Unsaid(200), end] {
            sender.try_send(event).unwrap();
        }
        assert_eq!(generation.next().await.unwrap().unwrap().len(), 1);
        assert!(generation.next().await.unwrap().is_none());
        assert!(generation.summary().is_some());
        assert_eq!(tokens.total(), usage);
        let owes = tokens.admitted().check(Instant::now()).unwrap_err();
        // Two hundred in debt, at a thousand a minute.
        assert!(owes.retry_after_ms() > Some(11_000), "{owes:?}");
    }

    #[tokio::test]
    async fn who_is_cut_is_told_to_wait_for_what_hooks_have_heard_as_well() {
        let (sender, tokens, mut generation) = hooked(998);
        for _ in 0..200 {
            sender.try_send(token()).unwrap();
        }
        generation.next().await.unwrap();
        let refusal = generation.next().await.unwrap_err();
        // Nearly two hundred in debt, at a thousand a minute.
        assert!(refusal.retry_after_ms() > Some(11_000), "{refusal:?}");
        drop(generation);
        let still = tokens.admitted().check(Instant::now()).unwrap_err();
        assert!(still.retry_after_ms() <= refusal.retry_after_ms(), "{still:?}");
    }

    #[test]
    fn a_prompt_that_nobody_began_costs_nothing() {
        let tokens = Arc::new(TokenMeter::new(Arc::new(admitted())));
        let dropped = |begun: bool| {
            let (_sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
            let generation = started(stream, &tokens, 1000);
            if begun {
                generation.milestones.started.set((Instant::now(), 0)).unwrap();
            }
        };
        dropped(false);
        assert_eq!(tokens.total(), Usage::default());
        dropped(true);
        assert_eq!(tokens.total().prompt_tokens, 1000);
        tokens.admitted().check(Instant::now()).unwrap_err();
    }
}
