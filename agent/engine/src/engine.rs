//! A loaded model behind the port: everything that waits or computes is on the engine's thread.

mod adapted;
mod board;
mod embedding;
mod figures;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Instant,
};

use realm_core::{
    auth::Caller,
    books::{Books, Way},
    call::Resume,
    constraint::Constraint,
    desired::DesiredTenant,
    embed::{EmbedError, EmbedInfo, TakenTexts, TextBatch},
    engine::{
        ChatMessage, Engine, EngineInfo, EngineLoad, Generation, Kept, Ledger, Milestones, Prefix,
        TenantLoad, TextError, TokenEvent, TokenStream, Wait,
    },
    hook::Hooked,
    name::{ModelName, TenantName},
    refusal::Refusal,
};

use tokio::sync::watch;

pub use self::adapted::{AdaptedEngine, AdapterOptions};
use self::{
    adapted::WithAdapter,
    board::Board,
    embedding::Embedding,
    figures::Figures,
    worker::{Adapt, Interest, Keep, Pinned, Worker},
};
use crate::{
    adapter::Adapted,
    batch::SequenceId,
    budget::Reservation,
    constraint::{
        compiler::{Compiler, Wanted},
        masks::Begin,
        places::{PLACES_MAX, Place, Places},
    },
    forward::Executor,
    hook::{self, beside::Beside},
    kv::{Layout, Namespace, Owner, Public},
    output::Output,
    scheduler::{self, BUSY_RETRY_MS, Deadline, Scheduler, Submission, Terms, TextCall},
    template::ChatTemplate,
    tokenizer::{Special, Tokenizer},
    turns::Limits,
};

/// Commands that may wait for the end of a step: as many as may wait for their turn, because each
/// is one sequence, and two for each prefix, of its beginning and its end.
const COMMANDS_MAX: usize = crate::load::QUEUED_MAX + 2 * worker::PLACES_MAX.all;

/// What the thread is told. That a sequence is no longer wanted it sees by itself, when the reading
/// end of its stream is gone.
enum Command {
    Submit(Box<Submitted>),
    /// What turned out to be no sequence before it came here.
    Refuse(Box<Submitted>, Refusal),
    Embed(Box<(TextCall, Embedding)>),
    Keep(Box<Keep>),
    Adapt(Box<Adapt>),
    /// Nobody wants one of the prefixes or adapters any more.
    LetGo,
    Drain,
}

/// A sequence on its way to the thread.
struct Submitted {
    submission: Submission,
    /// Keeps the adapter that it is computed with.
    adapter: Option<Arc<Interest>>,
    output: Output,
    /// Of a constrained one.
    begin: Option<Begin>,
    /// Of one with a hook.
    beside: Option<Beside>,
    way: Way,
    figures: Arc<Figures>,
    milestones: Option<Arc<Milestones>>,
    at: Instant,
}

/// What an engine is made of.
pub(crate) struct Parts {
    pub(crate) model: ModelName,
    pub(crate) architecture: &'static str,
    pub(crate) generates: bool,
    pub(crate) embeds: Option<EmbedInfo>,
    pub(crate) context: u32,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) namespace: Namespace,
    pub(crate) scheduler: Scheduler,
    pub(crate) executor: Box<dyn Executor>,
    /// What the executor's memory was promised by.
    pub(crate) reservation: Reservation,
}

/// The engine of one loaded model. Dropping it ends its thread at the next step, and with it the
/// sequences that run.
pub struct EngineHandle {
    info: EngineInfo,
    generates: bool,
    embeds: Option<EmbedInfo>,
    device: String,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    namespace: Namespace,
    /// Alone in holding this: what is still being compiled keeps no engine alive.
    commands: Arc<SyncSender<Command>>,
    places: Arc<Places>,
    /// Those of hooks.
    hooks: Arc<Places>,
    /// Those of prefixes that are kept, and of their blocks.
    kept: [Arc<Places>; 2],
    /// Of the cache: how tokens lie in blocks, and how many there are.
    cache: (Layout, usize),
    compiler: Compiler,
    board: Arc<Board>,
    sequences: AtomicU64,
}

impl EngineHandle {
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let Parts { model, architecture, context, tokenizer, template, namespace, .. } = parts;
        let (generates, embeds) = (parts.generates, parts.embeds);
        let block_tokens = parts.scheduler.block_tokens();
        let cache = (*parts.scheduler.pool().layout(), parts.scheduler.pool().total());
        // What a tenant may have of these is its quota.
        let of_blocks = Limits { all: usize::MAX, of_tenant: 0 };
        let info = EngineInfo {
            model,
            architecture: architecture.to_owned(),
            context,
            vocabulary: u32::try_from(tokenizer.len()).unwrap_or(u32::MAX),
            block_tokens: u32::try_from(block_tokens).unwrap_or(u32::MAX),
            has_chat_template: template.is_some(),
        };
        let tokenizer = Arc::new(tokenizer);
        let board = Arc::new(Board::default());
        let device = parts.executor.describe();
        let (commands, received) = sync_channel(COMMANDS_MAX);
        let worker = Worker::new(
            received,
            parts.scheduler,
            parts.executor,
            tokenizer.clone(),
            board.clone(),
        );
        let reservation = parts.reservation;
        thread::Builder::new().name("realm-engine".to_owned()).spawn(move || {
            worker.run(reservation);
        })?;
        let compiler = Compiler::new(tokenizer.clone());
        Ok(Self {
            info,
            generates,
            embeds,
            device,
            tokenizer,
            template,
            namespace,
            commands: Arc::new(commands),
            places: Arc::new(Places::new(PLACES_MAX)),
            hooks: Arc::new(Places::new(hook::PLACES_MAX)),
            kept: [worker::PLACES_MAX, of_blocks].map(|limits| Arc::new(Places::new(limits))),
            cache,
            compiler,
            board,
            sequences: AtomicU64::new(0),
        })
    }

    /// Becomes `true` when the engine has given up and serves no more.
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.board.failed()
    }

    /// The device in words.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Refuses what comes from now on; what runs or waits goes on to its end.
    pub fn drain(&self) {
        self.board.drain();
        // The thread refuses by itself what is already on its way; a queue that is full of such
        // is refused by the board from here on.
        let _ = self.commands.try_send(Command::Drain);
    }

    /// The next sequence's number, and a seed that no other sequence gets.
    fn number(&self) -> (SequenceId, u64) {
        let number = self.sequences.fetch_add(1, Ordering::Relaxed);
        (SequenceId(number), self.namespace.draw(number))
    }

    fn submission(
        id: SequenceId,
        caller: &Caller,
        generation: Generation,
        now: Instant,
    ) -> Submission {
        let rights = caller.rights();
        let deadline = generation.deadline.map(|at| deadline(at, now));
        let public = public(rights, generation.shared_tokens);
        let mut prompt = generation.prompt;
        let resumed = generation.resume.as_ref().map_or(0, |resume| {
            prompt.extend(resume.tokens());
            resume.tokens().len()
        });
        Submission {
            id,
            tenant: caller.tenant().clone(),
            public,
            adapter: None,
            terms: terms(rights),
            kv_blocks_max: rights.limits.kv_blocks_max,
            context_max: rights.limits.context_max,
            prompt,
            resumed,
            tokens_max: generation.tokens_max,
            deadline,
        }
    }

    /// Checks a generation and sends it on its way.
    fn submit(
        &self,
        caller: &Caller,
        mut generation: Generation,
        (beside, with): (Option<Beside>, Option<&WithAdapter>),
    ) -> Result<TokenStream, Refusal> {
        self.check(&generation)?;
        generation.constraint.as_ref().map_or(Ok(()), Constraint::check)?;
        let (id, seed) = self.number();
        let (output, stream) = Output::new(&generation, seed, &self.tokenizer)?;
        let at = Instant::now();
        let (way, milestones) = (generation.way.clone(), generation.milestones.clone());
        let constraint = match generation.constraint.take() {
            None => None,
            Some(constraint) => Some((constraint, self.places.take(caller.tenant())?)),
        };
        let mut submission = Self::submission(id, caller, generation, at);
        submission.adapter = with.map(|with| with.adapter);
        let adapter = with.map(|with| with.wanted.clone());
        let figures = self.board.enter(caller.tenant(), &self.info.model)?;
        let submitted = Submitted {
            submission,
            adapter,
            output,
            begin: None,
            beside,
            way,
            figures,
            milestones,
            at,
        };
        match constraint {
            None => self.send(caller, Command::Submit(Box::new(submitted)))?,
            Some(constraint) => self.compile(submitted, constraint)?,
        }
        Ok(stream)
    }

    fn submit_hooked(
        &self,
        caller: &Caller,
        generation: Generation,
        (hooked, with): (Hooked, Option<&WithAdapter>),
    ) -> Result<TokenStream, Refusal> {
        if generation.resume.is_some() {
            let message = "an answer with hooks cannot be resumed".to_owned();
            return Err(Refusal::Unsupported(message));
        }
        let place = self.hooks.take(caller.tenant())?;
        let beside = Beside::new(hooked, place, Instant::now());
        self.submit(caller, generation, (Some(beside), with))
    }

    /// Wants a prefix kept of what the model computes, by itself or with an adapter.
    fn keep_with(
        &self,
        caller: &Caller,
        prefix: Prefix,
        adapter: Option<Adapted>,
    ) -> Result<Kept, Refusal> {
        let Prefix { tokens, kept_tokens, shared_tokens, way } = prefix;
        let (tenant, rights) = (caller.tenant(), caller.rights());
        let (layout, blocks_max) = self.cache;
        let quota = layout.in_bands(rights.limits.kv_blocks_max as usize);
        let blocks_max = blocks_max.min(quota);
        let kept_tokens = (kept_tokens as usize).min(tokens.len());
        let blocks = layout.kept_blocks(tokens.len(), kept_tokens);
        // What it goes on from stays kept as well, and is never let go for it.
        if blocks.max(layout.kept_blocks(tokens.len(), 0)) > blocks_max {
            let tokens_max = layout.tokens_max(blocks_max, 0);
            return Err(Refusal::TooLong { tokens: tokens.len(), tokens_max });
        }
        let [prefixes, of_blocks] = &self.kept;
        let places = [prefixes.take(tenant)?, of_blocks.take_many(tenant, blocks, blocks_max)?];
        let wanted = Arc::new(Interest(Arc::downgrade(&self.commands)));
        let public = public(rights, shared_tokens);
        let owner = Owner { tenant: tenant.clone(), public, adapter };
        let id = self.number().0;
        let keep = scheduler::Keep { id, owner, terms: terms(rights), tokens, kept_tokens };
        let pinned = Pinned { way, wanted: Arc::downgrade(&wanted), places };
        match self.commands.try_send(Command::Keep(Box::new(Keep { keep, pinned }))) {
            Ok(()) => Ok(Kept::while_held(wanted)),
            Err(TrySendError::Full(_)) => Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS }),
            Err(TrySendError::Disconnected(_)) => Err(Refusal::Internal),
        }
    }

    /// Sends what the board has counted in.
    fn send(&self, caller: &Caller, command: Command) -> Result<(), Refusal> {
        let refusal = match self.commands.try_send(command) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => Refusal::Busy { retry_after_ms: BUSY_RETRY_MS },
            Err(TrySendError::Disconnected(_)) => Refusal::Internal,
        };
        self.board.turn_back(caller.tenant());
        Err(refusal)
    }

    /// Sends a sequence that the board has counted in by way of the compiler.
    fn compile(
        &self,
        mut submitted: Submitted,
        (constraint, place): (Constraint, Place),
    ) -> Result<(), Refusal> {
        let Submission { tenant, prompt, resumed, .. } = &submitted.submission;
        let tenant = tenant.clone();
        let resumed = prompt.get(prompt.len().saturating_sub(*resumed)..).unwrap_or_default();
        let resumed = resumed.to_vec();
        let (commands, sender) = (Arc::downgrade(&self.commands), submitted.output.sender());
        let reader = sender.clone();
        let has_reader = Box::new(move || !reader.is_closed());
        let then = Box::new(move |begin: Result<Begin, Refusal>| {
            let command = match begin {
                Ok(begin) => {
                    submitted.begin = Some(begin);
                    Command::Submit(Box::new(submitted))
                }
                Err(refusal) => Command::Refuse(Box::new(submitted), refusal),
            };
            // Waits, if the queue is full, for the end of a step.
            let sent = commands.upgrade().is_some_and(|commands| commands.send(command).is_ok());
            if !sent {
                let _ = sender.try_send(TokenEvent::Failed(Refusal::Draining));
            }
        });
        let wanted =
            Wanted { tenant: tenant.clone(), place, constraint, resumed, has_reader, then };
        self.compiler.compile(wanted).inspect_err(|_| self.board.turn_back(&tenant))
    }

    /// Refuses what the thread need not see.
    fn check(&self, generation: &Generation) -> Result<(), Refusal> {
        let Generation { prompt, shared_tokens, resume, .. } = generation;
        if !self.generates {
            return Err(self.abilities().lacks(self.info.model.as_str(), "generate"));
        }
        let tokens_max = self.info.context as usize;
        if prompt.len() >= tokens_max {
            return Err(Refusal::TooLong { tokens: prompt.len(), tokens_max });
        }
        if *shared_tokens as usize > prompt.len() {
            let tokens = prompt.len();
            let message = format!("{shared_tokens} tokens to share of a prompt of {tokens}");
            return Err(Refusal::Invalid(message));
        }
        let resumed = resume.as_ref().map_or(&[][..], Resume::tokens);
        let room = tokens_max - prompt.len();
        if resumed.len() > room {
            let resumed = resumed.len();
            let message = format!("{resumed} tokens to resume; the context has room for {room}");
            return Err(Refusal::Invalid(message));
        }
        let vocabulary = self.info.vocabulary;
        match prompt.iter().chain(resumed).find(|&&id| id >= vocabulary) {
            Some(&id) => {
                Err(Refusal::Invalid(TextError::UnknownToken { id, vocabulary }.to_string()))
            }
            None => Ok(()),
        }
    }
}

/// What of a prompt is public in the tenant's group.
fn public(rights: &DesiredTenant, tokens: u32) -> Option<Public> {
    let group = rights.share_group.clone();
    group.map(|group| Public { group, tokens: tokens as usize })
}

/// What the tenant's turns in the batch go by.
const fn terms(rights: &DesiredTenant) -> Terms {
    Terms { weight: rights.weight, priority: rights.priority }
}

fn deadline(at: Instant, now: Instant) -> Deadline {
    let left = at.saturating_duration_since(now).as_millis();
    Deadline { at, ms: u64::try_from(left).unwrap_or(u64::MAX) }
}

impl Engine for EngineHandle {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, if special { Special::Token } else { Special::Text })
    }

    fn detokenize(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        self.tokenizer.decode(ids)
    }

    fn tokenize_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoChatTemplate)?;
        template.encode(messages, &self.tokenizer)
    }

    fn generate(&self, caller: &Caller, generation: Generation) -> Result<TokenStream, Refusal> {
        self.submit(caller, generation, (None, None))
    }

    fn generate_hooked(
        &self,
        caller: &Caller,
        generation: Generation,
        hooked: Hooked,
    ) -> Result<TokenStream, Refusal> {
        self.submit_hooked(caller, generation, (hooked, None))
    }

    fn keep(&self, caller: &Caller, prefix: Prefix) -> Result<Kept, Refusal> {
        self.keep_with(caller, prefix, None)
    }

    fn generates(&self) -> bool {
        self.generates
    }

    fn embeds(&self) -> Option<EmbedInfo> {
        self.embeds
    }

    fn embed(
        &self,
        caller: &Caller,
        batch: TextBatch,
        allow: &mut dyn FnMut(u32) -> Result<(), Refusal>,
    ) -> Result<TakenTexts, EmbedError> {
        let info = self.embeds.ok_or_else(|| EmbedError::NoPooling {
            model: self.info.model.clone(),
            abilities: self.abilities(),
        })?;
        let at = Instant::now();
        let rights = caller.rights();
        let reader = embedding::Reader {
            info: EmbedInfo {
                tokens_max: info.tokens_max.min(rights.limits.context_max as usize),
                ..info
            },
            tokenizer: &self.tokenizer,
        };
        let read = reader.read(&batch)?;
        let tokens = u32::try_from(read.tokens).unwrap_or(u32::MAX);
        allow(tokens).map_err(EmbedError::Refused)?;
        let figures = self.board.enter(caller.tenant(), &self.info.model);
        let figures = figures.map_err(EmbedError::Refused)?;
        let deadline = batch.deadline.map(|until| deadline(until, at));
        let (embedding, reply) = Embedding::new(
            (caller.tenant().clone(), batch.way),
            &read,
            (figures, batch.milestones),
            at,
        );
        let tenant = (caller.tenant().clone(), terms(rights));
        let call = TextCall::new(self.number().0, tenant, read.texts, deadline);
        let command = Command::Embed(Box::new((call, embedding)));
        self.send(caller, command).map_err(EmbedError::Refused)?;
        Ok(TakenTexts { tokens, reply })
    }

    fn draw_seed(&self) -> u64 {
        self.number().1
    }

    fn load(&self) -> EngineLoad {
        self.board.load()
    }

    fn books(&self) -> Books {
        self.board.books()
    }

    fn ledger(&self) -> Arc<dyn Ledger> {
        self.board.clone()
    }

    fn tenants(&self) -> Vec<(TenantName, TenantLoad)> {
        self.board.tenants()
    }

    fn take_waits(&self) -> Vec<(TenantName, Wait)> {
        self.board.take_waits()
    }

    fn forget(&self, tenant: &TenantName) {
        self.compiler.forget(tenant);
        self.board.forget(tenant);
    }
}

#[cfg(test)]
mod tests;
