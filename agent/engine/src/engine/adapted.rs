//! A model with an adapter, as an engine of its own: it has the model's thread, batch and cache, and
//! its rows are computed with the adapter besides.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc::sync_channel},
};

use realm_core::{
    auth::Caller,
    desired::Sha256,
    engine::{
        ChatMessage, Engine, EngineInfo, EngineLoad, Generation, Kept, Prefix, TextError,
        TokenStream,
    },
    hook::Hooked,
    name::ModelName,
    refusal::Refusal,
};

use super::{Adapt, Command, EngineHandle, Interest};
use crate::{
    adapter::{Adapted, AdapterError, AdapterId},
    budget::MemoryBudget,
    gguf::Gguf,
};

/// How to load an adapter.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// What the model is called with it.
    pub name: ModelName,
    /// The digest of the adapter's file, which separates its cached prefixes from all others.
    pub sha256: Sha256,
    /// What the adapter takes is promised to it here for as long as it is loaded.
    pub budget: MemoryBudget,
}

/// What the sequences of one adapter are submitted with.
pub(super) struct WithAdapter {
    pub(super) adapter: Adapted,
    /// Held by whoever wants the adapter loaded.
    pub(super) wanted: Arc<Interest>,
}

/// A loaded model with one of its adapters. The adapter is forgotten when this is dropped and the
/// last of its sequences has ended.
pub struct AdaptedEngine {
    base: Arc<EngineHandle>,
    info: EngineInfo,
    with: WithAdapter,
}

impl EngineHandle {
    /// Loads the adapter in the file at `path` beside the model. Reads all of it, and waits for the
    /// end of a step, which waits for no disk.
    pub fn adapt(
        self: &Arc<Self>,
        path: &Path,
        options: AdapterOptions,
    ) -> Result<AdaptedEngine, AdapterError> {
        let AdapterOptions { name, sha256, budget } = options;
        let file = Gguf::open(path).map_err(AdapterError::File)?;
        warm(path, budget.left()).map_err(AdapterError::Read)?;
        let id = AdapterId(self.sequences.fetch_add(1, Ordering::Relaxed));
        let wanted = Arc::new(Interest(Arc::downgrade(&self.commands)));
        let (reply, told) = sync_channel(1);
        let adapt = Adapt { id, file, budget, wanted: Arc::downgrade(&wanted), reply };
        let sent = self.commands.send(Command::Adapt(Box::new(adapt)));
        sent.map_err(|_| AdapterError::Gone)?;
        let work = told.recv().map_err(|_| AdapterError::Gone)??;
        let with = WithAdapter { adapter: Adapted { id, sha256, work }, wanted };
        let info = EngineInfo { model: name, ..self.info.clone() };
        Ok(AdaptedEngine { base: self.clone(), info, with })
    }
}

/// Has the system read a file into its cache, if it has no more than `bytes_max` bytes, so that whoever
/// reads it next waits for no disk. Nothing of it stays with the process.
fn warm(path: &Path, bytes_max: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() <= bytes_max {
        io::copy(&mut file, &mut io::sink())?;
    }
    Ok(())
}

impl Engine for AdaptedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.base.tokenize(text, special)
    }

    fn detokenize(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        self.base.detokenize(ids)
    }

    fn tokenize_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        self.base.tokenize_chat(messages)
    }

    fn generate(&self, caller: &Caller, generation: Generation) -> Result<TokenStream, Refusal> {
        self.base.submit(caller, generation, (None, Some(&self.with)))
    }

    fn generate_hooked(
        &self,
        caller: &Caller,
        generation: Generation,
        hooked: Hooked,
    ) -> Result<TokenStream, Refusal> {
        self.base.submit_hooked(caller, generation, (hooked, Some(&self.with)))
    }

    fn keep(&self, caller: &Caller, prefix: Prefix) -> Result<Kept, Refusal> {
        self.base.keep_with(caller, prefix, Some(self.with.adapter))
    }

    fn draw_seed(&self) -> u64 {
        self.base.draw_seed()
    }

    /// Nothing: what runs here is the model's, and counted there.
    fn load(&self) -> EngineLoad {
        EngineLoad { failed: self.base.load().failed, ..EngineLoad::default() }
    }
}
