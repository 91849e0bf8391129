//! The port to the engine: one loaded model, from prompt to tokens.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use thiserror::Error;
use tokio::sync::mpsc;

use crate::{
    auth::Caller,
    books::{Books, Way},
    call::Resume,
    embed::{Abilities, EmbedError, EmbedInfo, TakenTexts, TextBatch},
    hook::Hooked,
    name::{ModelName, TenantName},
    refusal::Refusal,
};

pub use crate::{constraint::Constraint, sampling::Sampling};

/// A loaded model that every tenant with the right to it shares.
///
/// Nothing here waits: the engine has its own thread, and what it produces comes through a
/// bounded [`TokenStream`].
pub trait Engine: Send + Sync {
    fn info(&self) -> &EngineInfo;

    /// Token ids of `text`. With `special`, text that spells a control token becomes that token;
    /// only trusted text may set it.
    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError>;

    /// The bytes of `ids`, which need not be whole UTF-8 characters.
    fn detokenize(&self, ids: &[u32]) -> Result<Vec<u8>, TextError>;

    /// Token ids of a conversation through the model's own chat template, ready for an answer.
    fn tokenize_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError>;

    /// Queues a generation for `caller`. Dropping the stream cancels it and frees its KV blocks
    /// at the next step.
    fn generate(&self, caller: &Caller, generation: Generation) -> Result<TokenStream, Refusal>;

    /// The same, with a hook beside it. What the stream brings has been through the hook.
    fn generate_hooked(
        &self,
        _caller: &Caller,
        _generation: Generation,
        _hooked: Hooked,
    ) -> Result<TokenStream, Refusal> {
        Err(Refusal::Unsupported("this engine lets no hooks stand beside it".to_owned()))
    }

    /// Wants a prefix kept until what is returned is dropped: of all that the cache holds for
    /// `caller` and nobody uses, that goes last, and is paid for as if it were in use. Nothing is
    /// computed: what is not there yet comes with the first generation that begins so.
    fn keep(&self, _caller: &Caller, _prefix: Prefix) -> Result<Kept, Refusal> {
        Err(Refusal::Unsupported("this engine keeps no prefixes".to_owned()))
    }

    /// Whether the model generates; one that only reads does not.
    fn generates(&self) -> bool {
        true
    }

    /// What the model makes of texts; `None` where it embeds none.
    fn embeds(&self) -> Option<EmbedInfo> {
        None
    }

    /// Queues texts of `caller` to turn into vectors, if `allow` lets it have so many tokens, which
    /// is asked when nothing but the engine's own room may still refuse them, and before anything is
    /// computed. Dropping the reply cancels them: no more are computed from the next step on.
    fn embed(
        &self,
        _caller: &Caller,
        _texts: TextBatch,
        _allow: &mut dyn FnMut(u32) -> Result<(), Refusal>,
    ) -> Result<TakenTexts, EmbedError> {
        Err(EmbedError::NoPooling { model: self.info().model.clone(), abilities: self.abilities() })
    }

    /// What the model can be asked for.
    fn abilities(&self) -> Abilities {
        let (generates, embeds) = (self.generates(), self.embeds());
        Abilities { generates, chats: generates && self.info().has_chat_template, embeds }
    }

    /// A seed that no other generation gets, for one that names none and must know its own.
    fn draw_seed(&self) -> u64;

    fn load(&self) -> EngineLoad;

    /// Who has used how much since the model was loaded. One that counts nothing has nothing to
    /// tell.
    fn books(&self) -> Books {
        Books::default()
    }

    /// The same books for whoever outlives the engine, and holds nothing else of it. Nobody adds to
    /// them any more once nobody else holds them.
    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(NoLedger)
    }

    /// How each tenant is served by this engine. One that counts nothing has nothing to tell.
    fn tenants(&self) -> Vec<(TenantName, TenantLoad)> {
        Vec::new()
    }

    /// Whose calls have waited since this was asked the last time, and for what. One that counts nothing has nothing to tell.
    fn take_waits(&self) -> Vec<(TenantName, Wait)> {
        Vec::new()
    }

    /// Drops what is counted of a tenant that is gone: names would pile up for as long as the
    /// model is loaded.
    fn forget(&self, _tenant: &TenantName) {}
}

/// What keeps a tenant's calls from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Its own sequences hold all the KV blocks that it may.
    OwnBlocks,
    /// Tenants of its class, or of a higher one, have theirs computed; one call has waited for a
    /// second or longer while they had.
    Others,
}

/// The books of an engine, apart from it.
pub trait Ledger: Send + Sync {
    fn books(&self) -> Books;

    /// Drops what is counted of a tenant that is gone.
    fn forget(&self, tenant: &TenantName);
}

/// Of an engine that counts nothing.
struct NoLedger;

impl Ledger for NoLedger {
    fn books(&self) -> Books {
        Books::default()
    }

    fn forget(&self, _tenant: &TenantName) {}
}

/// What is fixed about a loaded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    pub model: ModelName,
    pub architecture: String,
    /// Tokens one sequence may hold.
    pub context: u32,
    pub vocabulary: u32,
    /// Tokens in one KV block.
    pub block_tokens: u32,
    pub has_chat_template: bool,
}

/// How busy an engine is, for metrics and placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    pub sequences_queued: u32,
    pub sequences_running: u32,
    pub kv_blocks_used: u32,
    /// Blocks that hold finished prefixes and can be taken at once.
    pub kv_blocks_cached: u32,
    pub kv_blocks_total: u32,
    pub prompt_tokens_total: u64,
    pub cached_tokens_total: u64,
    pub generated_tokens_total: u64,
    /// The forward pass failed several times in a row; nothing more is served.
    pub failed: bool,
}

/// How one tenant is served by an engine, and what it holds of it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenantLoad {
    pub sequences_queued: u32,
    pub sequences_running: u32,
    pub kv_blocks_used: u32,
    pub kv_blocks_cached: u32,
    /// From the call to the first step with the sequence in it.
    pub queue: Distribution,
    /// From the call to the first token.
    pub first_token: Distribution,
    /// From one token to the next.
    pub inter_token: Distribution,
}

/// Times, counted by how long they were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Seconds, rising, and how many times were at most that long.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub seconds_total: f64,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
}

/// Why text could not become tokens, or tokens text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    #[error("the model has no chat template")]
    NoChatTemplate,
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    #[error("token {id} is not in the vocabulary of {vocabulary}")]
    UnknownToken { id: u32, vocabulary: u32 },
    #[error("the text has {bytes} bytes; {bytes_max} are the most")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("the text could not be tokenized: {0}")]
    Tokenizer(String),
}

/// One sequence to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Token ids, never empty.
    pub prompt: Vec<u32>,
    /// Of `prompt`, the tokens from the first on that are public in the caller's share group: the
    /// KV blocks that they fill may be used by its other members, and theirs by the caller. Without
    /// a group nothing is shared.
    pub shared_tokens: u32,
    pub sampling: Sampling,
    /// What is added to the logits of some tokens, by id.
    pub bias: Vec<(u32, f32)>,
    /// Tokens to generate at most; `None` means as many as the context holds.
    pub tokens_max: Option<u32>,
    /// The text ends before the first of these; it is never part of the text.
    pub stop: Vec<String>,
    /// What the answer keeps to, before all else that chooses tokens. It ends as soon as it is
    /// whole.
    pub constraint: Option<Constraint>,
    pub deadline: Option<Instant>,
    /// The answer to go on with, as if it had never been cut: its tokens follow the prompt, and
    /// count within `tokens_max` and for `stop`. What it was drawn with is `sampling.seed`.
    pub resume: Option<Resume>,
    /// What it is booked under, besides its caller.
    pub way: Way,
    /// Where the engine notes how far it is, for whoever wants to know.
    pub milestones: Option<Arc<Milestones>>,
}

/// What generations may begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub tokens: Vec<u32>,
    /// Tokens of it, from the first on, that the caller has kept already as a prefix of their own.
    pub kept_tokens: u32,
    /// As of a [`Generation`].
    pub shared_tokens: u32,
    /// As of a [`Generation`].
    pub way: Way,
}

/// A prefix that is wanted for as long as this is there.
pub struct Kept {
    _held: Box<dyn Any + Send + Sync>,
}

impl Kept {
    /// For as long as there is `held`.
    pub fn while_held(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// When a sequence came how far; each once, whatever happens to it.
#[derive(Debug, Default)]
pub struct Milestones {
    /// It was in a step for the first time, with so many prompt tokens from the cache.
    pub started: OnceLock<(Instant, u32)>,
    pub first_token: OnceLock<Instant>,
    pub ended: OnceLock<Instant>,
}

/// Tokens that may wait for a slow program, by the reasoning of
/// [`crate::reply::CHUNKS_BUFFERED_MAX`].
pub const TOKENS_BUFFERED_MAX: usize = 256;

/// The reading end of a generation. Dropping it cancels the generation.
pub type TokenStream = mpsc::Receiver<TokenEvent>;

/// One step of a generation. `Finished` and `Failed` are last.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// Text of resumed tokens that the client lacks. Comes once and first, if at all.
    Rest(String),
    /// So many tokens of the prompt are in the cache and need not be computed. Comes
    /// when the prompt's turn has come, and only where there are any.
    Cached(u32),
    Token(Token),
    /// So many tokens were made behind where a hook has ended the answer: no part of it, and paid
    /// for. Comes at most once, and before the end.
    Unsaid(u32),
    Finished {
        finish: Finish,
        usage: Usage,
    },
    Failed(Refusal),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Whole characters only: empty while a character, or a possible stop string, is incomplete.
    pub text: String,
    /// Where [`Sampling::logprobs`] asks for them. `None` with the token that ends the answer,
    /// which is no part of it.
    pub logprobs: Option<Logprobs>,
}

/// How likely a token was to the model itself, before constraints, penalties, biases and
/// temperature, and which tokens were likeliest.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    pub chosen: ScoredToken,
    /// The likeliest first, and of equals the one with the lowest id.
    pub top: Vec<ScoredToken>,
}

impl Logprobs {
    /// About what these take of an answer, in bytes, whatever its form.
    pub fn output_bytes(&self) -> usize {
        /// An id, a number of seven digits, and the names of both.
        const TOKEN_BYTES: usize = 64;
        let tokens = self.top.iter().chain([&self.chosen]);
        let bytes = tokens.map(|token| token.bytes.len().saturating_add(TOKEN_BYTES));
        bytes.fold(0, usize::saturating_add)
    }
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    pub id: u32,
    /// What it is in a text, which need not be whole characters; of a control token its spelling.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability, at least [`LOGPROB_MIN`].
    pub logprob: f32,
}

/// The logarithm of a probability that is next to nothing: JSON has no infinity, and the common
/// APIs say this number.
pub const LOGPROB_MIN: f32 = -9999.0;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its answer, or a stop string was met.
    Stop,
    /// `tokens_max` or the context was reached.
    Length,
}

/// What a call cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// With those of a resumed answer, which are computed as a prompt is.
    pub prompt_tokens: u32,
    /// Of `prompt_tokens`, those whose keys and values this tenant's own cache, or what is public in
    /// its share group, already held.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}
