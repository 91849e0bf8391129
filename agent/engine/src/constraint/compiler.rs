//! Constraints to grammars, on threads that no token waits for.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use realm_core::{constraint::Constraint, name::TenantName, refusal::Refusal};
use realm_grammar::{Grammar, Matcher, MatcherError, STACK_BYTES, Vocabulary, VocabularyError};

use super::{
    cache::Cache,
    masks::{Begin, Progress},
    places::{PLACES_MAX, Place},
};
use crate::{scheduler::BUSY_RETRY_MS, tokenizer::Tokenizer, turns::Turns};

/// Threads: a second one keeps a constraint that takes its longest from holding up the others.
const THREADS: usize = 2;

/// What is done with the outcome; called once, on a thread of the compiler.
pub(crate) type Then = Box<dyn FnOnce(Result<Begin, Refusal>) + Send>;

/// A constraint that somebody waits for.
pub(crate) struct Wanted {
    pub(crate) tenant: TenantName,
    pub(crate) place: Place,
    pub(crate) constraint: Constraint,
    /// The answer so far.
    pub(crate) resumed: Vec<u32>,
    /// Whether anybody still waits for the answer.
    pub(crate) has_reader: Box<dyn Fn() -> bool + Send>,
    pub(crate) then: Then,
}

/// The compiler of one engine. Its threads start with the first constraint.
pub(crate) struct Compiler {
    shop: Arc<Shop>,
    is_started: OnceLock<bool>,
}

/// What the threads share.
struct Shop {
    tokenizer: Arc<Tokenizer>,
    turns: Turns<Wanted>,
    /// Made by whoever needs it first.
    vocabulary: OnceLock<Result<Vocabulary, VocabularyError>>,
    cache: Mutex<Cache>,
}

impl Compiler {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let shop = Shop {
            tokenizer,
            // Each answer has one constraint, so this is never full.
            turns: Turns::new(PLACES_MAX),
            vocabulary: OnceLock::new(),
            cache: Mutex::default(),
        };
        Self { shop: Arc::new(shop), is_started: OnceLock::new() }
    }

    /// Queues a constraint.
    pub(crate) fn compile(&self, wanted: Wanted) -> Result<(), Refusal> {
        if !self.is_started.get_or_init(|| start(&self.shop)) {
            return Err(Refusal::Internal);
        }
        let tenant = wanted.tenant.clone();
        let queued = self.shop.turns.push(&tenant, wanted);
        queued.map_err(|_| Refusal::Busy { retry_after_ms: BUSY_RETRY_MS })
    }

    /// Drops what a tenant has that is gone.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        self.shop.cache().forget(tenant);
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.shop.turns.close();
    }
}

fn start(shop: &Arc<Shop>) -> bool {
    let started = (0..THREADS).try_for_each(|_| {
        let shop = shop.clone();
        let thread = thread::Builder::new().name("realm-grammars".to_owned());
        thread.stack_size(STACK_BYTES).spawn(move || shop.work()).map(drop)
    });
    if let Err(error) = &started {
        tracing::error!(%error, "the threads that compile grammars do not start");
    }
    started.is_ok()
}

impl Shop {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // An entry is there or not.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles until nobody wants anything any more.
    fn work(&self) {
        while let Some(wanted) = self.turns.pop() {
            let Wanted { tenant, place, constraint, resumed, has_reader, then } = wanted;
            then(if has_reader() {
                self.grammar(&tenant, constraint)
                    .and_then(|grammar| self.begin(grammar, place, &resumed))
            } else {
                Err(Refusal::Cancelled)
            });
        }
    }

    fn begin(
        &self,
        grammar: Arc<Grammar>,
        place: Place,
        resumed: &[u32],
    ) -> Result<Begin, Refusal> {
        if resumed.is_empty() {
            return Ok(Begin::Grammar(grammar, place));
        }
        let mut matcher = grammar.matcher();
        self.replay(&mut matcher, resumed).map_err(|error| super::refusal(&error))?;
        Ok(Begin::Progress(Box::new(Progress::new(matcher, place))))
    }

    fn grammar(
        &self,
        tenant: &TenantName,
        constraint: Constraint,
    ) -> Result<Arc<Grammar>, Refusal> {
        if let Some(grammar) = self.cache().get(tenant, &constraint) {
            return Ok(grammar);
        }
        let vocabulary = self.vocabulary.get_or_init(|| vocabulary(&self.tokenizer));
        let vocabulary = vocabulary.as_ref().map_err(super::refusal)?;
        let grammar = vocabulary.compile(&constraint);
        let grammar = Arc::new(grammar.map_err(|error| super::refusal(&error))?);
        self.cache().keep(tenant, constraint, grammar.clone());
        Ok(grammar)
    }

    /// Takes the tokens that an answer had when it was cut; an ending is the last of them.
    fn replay(&self, matcher: &mut Matcher, resumed: &[u32]) -> Result<(), MatcherError> {
        let text = resumed.iter().filter(|&&id| !self.tokenizer.is_ending(id));
        text.copied().try_for_each(|id| matcher.accept(id))
    }
}

fn vocabulary(tokenizer: &Tokenizer) -> Result<Vocabulary, VocabularyError> {
    let ids = || 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
    let endings: Vec<u32> = ids().filter(|&id| tokenizer.is_ending(id)).collect();
    Vocabulary::new(ids().map(|id| tokenizer.answer_bytes(id)), &endings)
}
