//! An engine whose answer is its prompt: one token a byte, deterministic, and as patient or as
//! broken as a test needs. It goes on with an answer where that was cut.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use realm_core::{
    auth::Caller,
    embed::{EmbedError, EmbedInfo, Embedded, TakenTexts, Text, TextBatch},
    engine::{
        ChatMessage, Engine, EngineInfo, EngineLoad, Finish, Generation, Kept, Logprobs, Prefix,
        ScoredToken, TOKENS_BUFFERED_MAX, TextError, Token, TokenEvent, TokenStream, Usage,
    },
    hook::{Hooked, Question, Steer, Verdict},
    name::ModelName,
    refusal::Refusal,
};
use tokio::sync::{mpsc, oneshot, watch};

/// What an engine does with a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Echo,
    /// Answers after the first token only when it is told to.
    Hold,
    Busy,
    /// Fails after the first token.
    Fail,
    /// Goes away without an end.
    Vanish,
    /// Generates nothing, and makes a vector of a text: how long it is, and what it begins with.
    /// One that begins with 0 it makes only when it is told to.
    Reads,
    /// Makes the largest vectors of which two thousand fit in an answer.
    Wide,
    /// Takes texts and never says what became of them.
    Forgets,
    /// Tokenizes only when it is told to; a thread that may block waits for it.
    Stall,
}

type Steers = Arc<Mutex<Vec<Option<Steer>>>>;

pub(crate) struct Echo {
    info: EngineInfo,
    mood: Mood,
    pub(crate) asked: Mutex<Vec<Generation>>,
    pub(crate) texts: Mutex<Vec<TextBatch>>,
    /// Prefixes that were to be kept, and what is held by those that still are.
    pub(crate) kept: Mutex<Vec<Prefix>>,
    pub(crate) held: Arc<()>,
    /// What hooks said of the next token, of all generations in order.
    pub(crate) steers: Steers,
    /// Turns that hooks had, of all generations.
    pub(crate) turns: Arc<AtomicUsize>,
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) release: watch::Sender<bool>,
}

impl Echo {
    pub(crate) fn new(model: &str, mood: Mood) -> Arc<Self> {
        let info = EngineInfo {
            model: ModelName::parse(model).unwrap(),
            architecture: "echo".into(),
            context: 100_000,
            vocabulary: 256,
            block_tokens: 16,
            has_chat_template: true,
        };
        let (asked, texts, running) = (Mutex::default(), Mutex::default(), Arc::default());
        let (release, steers, turns) = (watch::Sender::new(false), Arc::default(), Arc::default());
        let (kept, held) = (Mutex::default(), Arc::default());
        Arc::new(Self { info, mood, asked, texts, kept, held, steers, turns, running, release })
    }
}

impl Engine for Echo {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, _special: bool) -> Result<Vec<u32>, TextError> {
        if self.mood == Mood::Stall {
            self.running.fetch_add(1, Ordering::SeqCst);
            let mut release = self.release.subscribe();
            let told = release.wait_for(|released| *released);
            drop(tokio::runtime::Handle::current().block_on(told).unwrap());
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(text.bytes().map(u32::from).collect())
    }

    fn detokenize(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        Ok(ids.iter().map(|id| u8::try_from(*id).unwrap()).collect())
    }

    fn tokenize_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        let lines =
            messages.iter().map(|message| format!("{}: {}\n", message.role, message.content));
        self.tokenize(&lines.collect::<String>(), false)
    }

    fn generate(&self, _caller: &Caller, generation: Generation) -> Result<TokenStream, Refusal> {
        self.asked.lock().unwrap().push(generation.clone());
        if self.mood == Mood::Busy {
            return Err(Refusal::Busy { retry_after_ms: 77 });
        }
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let (mood, running, release) = (self.mood, self.running.clone(), self.release.subscribe());
        running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = answer(mood, &generation, &sender, release) => {}
            }
            running.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(stream)
    }

    /// As slow as its hook, one token after the other.
    fn generate_hooked(
        &self,
        caller: &Caller,
        generation: Generation,
        hooked: Hooked,
    ) -> Result<TokenStream, Refusal> {
        let made = self.generate(caller, generation)?;
        let (sender, stream) = mpsc::channel(TOKENS_BUFFERED_MAX);
        let said = (self.steers.clone(), self.turns.clone());
        // As an engine's thread does, which no runtime of anybody's is.
        std::thread::spawn(move || beside(hooked, made, &sender, &said));
        Ok(stream)
    }

    fn keep(&self, _caller: &Caller, prefix: Prefix) -> Result<Kept, Refusal> {
        self.kept.lock().unwrap().push(prefix);
        if self.mood == Mood::Busy {
            return Err(Refusal::Busy { retry_after_ms: 77 });
        }
        Ok(Kept::while_held(self.held.clone()))
    }

    fn generates(&self) -> bool {
        self.embeds().is_none()
    }

    fn embeds(&self) -> Option<EmbedInfo> {
        let info = EmbedInfo { dimensions: 2, tokens_max: 1000, shortens: false };
        matches!(self.mood, Mood::Reads | Mood::Wide | Mood::Forgets).then_some(info)
    }

    fn embed(
        &self,
        _caller: &Caller,
        batch: TextBatch,
        allow: &mut dyn FnMut(u32) -> Result<(), Refusal>,
    ) -> Result<TakenTexts, EmbedError> {
        self.texts.lock().unwrap().push(batch.clone());
        let ids = |text: &Text| match text {
            Text::Words(words) => words.bytes().map(u32::from).collect(),
            Text::Tokens(ids) => ids.clone(),
        };
        let texts: Vec<Vec<u32>> = batch.texts.iter().map(ids).collect();
        let length = |text: &Vec<u32>| u32::try_from(text.len()).unwrap();
        let tokens: Vec<u32> = texts.iter().map(length).collect();
        if let Some(at) = tokens.iter().position(|&tokens| tokens > 1000) {
            return Err(EmbedError::TooLong { at, tokens: texts[at].len(), tokens_max: 1000 });
        }
        let (sender, reply) = oneshot::channel();
        let all = tokens.iter().sum();
        allow(all).map_err(EmbedError::Refused)?;
        let wide = if self.mood == Mood::Wide { 748 } else { 0 };
        let vector = |text: &Vec<u32>| {
            let first = text.first().copied().unwrap_or(0);
            let (length, first) = (text.len() as f32, first as f32);
            [vec![length, first], vec![0.1; wide]].concat()
        };
        let vectors: Vec<Vec<f32>> = texts.iter().map(vector).collect();
        let holds = vectors.iter().any(|vector| vector[1] == 0.0);
        let (mood, running, mut release) =
            (self.mood, self.running.clone(), self.release.subscribe());
        running.fetch_add(1, Ordering::SeqCst);
        // As an engine's thread does, which no runtime of anybody's is.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut sender = sender;
            let is_wanted = runtime.block_on(async {
                tokio::select! {
                    () = sender.closed() => false,
                    _ = release.wait_for(|released| *released || !holds) => true,
                }
            });
            if is_wanted && mood != Mood::Forgets {
                drop(sender.send(Ok(Embedded { vectors, tokens })));
            }
            running.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(TakenTexts { tokens: all, reply })
    }

    fn draw_seed(&self) -> u64 {
        u64::MAX
    }

    fn load(&self) -> EngineLoad {
        EngineLoad::default()
    }
}

async fn answer(
    mood: Mood,
    generation: &Generation,
    sender: &mpsc::Sender<TokenEvent>,
    mut release: watch::Receiver<bool>,
) {
    let asked = generation.tokens_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap());
    let count = asked.min(generation.prompt.len());
    let resume = generation.resume.clone().unwrap_or_default();
    let resumed = resume.tokens().len();
    let text: String =
        resume.tokens().iter().map(|id| char::from(u8::try_from(*id).unwrap())).collect();
    let rest = &text[usize::try_from(resume.text_bytes()).unwrap()..];
    if !rest.is_empty() {
        sender.send(TokenEvent::Rest(rest.to_owned())).await.unwrap();
    }
    for (index, id) in generation.prompt.iter().take(count).enumerate().skip(resumed) {
        let text = char::from(u8::try_from(*id).unwrap()).to_string();
        let logprobs = generation.sampling.logprobs.map(|count| logprobs(*id, count));
        let token = TokenEvent::Token(Token { id: *id, text, logprobs });
        if sender.send(token).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
        match mood {
            Mood::Hold if index == 0 => drop(release.wait_for(|released| *released).await),
            Mood::Fail => {
                let refusal = Refusal::DeadlineExceeded { deadline_ms: 42 };
                return drop(sender.send(TokenEvent::Failed(refusal)).await);
            }
            Mood::Vanish => return,
            Mood::Echo
            | Mood::Hold
            | Mood::Busy
            | Mood::Stall
            | Mood::Reads
            | Mood::Wide
            | Mood::Forgets => {}
        }
    }
    let tokens = |count: usize| u32::try_from(count).unwrap();
    let usage = Usage {
        prompt_tokens: tokens(generation.prompt.len() + resumed),
        cached_tokens: 2,
        completion_tokens: tokens(count - resumed),
    };
    let finish = if count < generation.prompt.len() { Finish::Length } else { Finish::Stop };
    drop(sender.send(TokenEvent::Finished { finish, usage }).await);
}

/// Of a token whose logarithm is its id below 0, among the ids below it.
#[expect(clippy::cast_precision_loss, reason = "ids are bytes")]
pub(crate) fn logprobs(id: u32, count: u32) -> Logprobs {
    let scored =
        |id: u32| ScoredToken { id, bytes: vec![u8::try_from(id).unwrap()], logprob: -(id as f32) };
    Logprobs { chosen: scored(id), top: (0..count).map(scored).collect() }
}

/// Lets a hook stand beside a stream.
fn beside(
    mut hooked: Hooked,
    mut made: TokenStream,
    sender: &mpsc::Sender<TokenEvent>,
    (steers, turns): &(Steers, Arc<AtomicUsize>),
) {
    let mut ask = |question: Question| {
        hooked.hook.ask(question);
        let mut work = || {
            turns.fetch_add(1, Ordering::SeqCst);
            hooked.hook.work()
        };
        let answer = std::iter::repeat_with(&mut work).flatten().next().unwrap()?;
        steers.lock().unwrap().push(answer.steer);
        Ok::<_, Refusal>(answer.verdict)
    };
    let ended = ask(Question::Begin).and_then(|_| {
        let mut last: Option<Token> = None;
        loop {
            let event = made.blocking_recv().unwrap();
            let finish = match &event {
                TokenEvent::Finished { finish, .. } => Some(*finish),
                _ => None,
            };
            if let Some(Token { id, text, .. }) = last.take() {
                let question = Question::Token { id, text: text.clone(), finish };
                let (text, stops) = match ask(question)? {
                    Verdict::Pass => (text, false),
                    Verdict::Rewrite(text) => (text, false),
                    Verdict::Stop(text) => (text, true),
                };
                let token = Token { id, text, logprobs: None };
                drop(sender.blocking_send(TokenEvent::Token(token)));
                if stops {
                    let (finish, usage) = (Finish::Stop, Usage::default());
                    return Ok(TokenEvent::Finished { finish, usage });
                }
            }
            match event {
                TokenEvent::Token(token) => last = Some(token),
                last => return Ok(last),
            }
        }
    });
    drop(sender.blocking_send(ended.unwrap_or_else(TokenEvent::Failed)));
}
