//! Opens a model file: reads and checks it whole, then allocates once, then starts the engine.

use std::path::{Path, PathBuf};

use realm_core::{
    desired::Sha256,
    embed::EmbedInfo,
    name::ModelName,
    report::{MemoryFacts, ModelFacts, SequenceBlocks},
};
use realm_kernels::{
    backend::{Backend, BackendError, KvType},
    cpu::{self, Cpu},
};
use thiserror::Error;

use crate::{
    architecture::{Architecture, ArchitectureError, Bands},
    budget::{MemoryBudget, Reservation},
    engine::{EngineHandle, Parts},
    forward::{Capacity, Executor, Forward},
    gguf::{Gguf, GgufError},
    kv::{BlockPool, Layout, Namespace, Secret},
    scheduler::{Limits, Prices, Scheduler},
    template::ChatTemplate,
    tokenizer::{Tokenizer, TokenizerError},
    weights::{self, Weights, WeightsError},
};

/// Tokens in one KV block: small enough that the last, half-empty block of a sequence wastes
/// little, large enough that a context of 8192 is a table of 256.
pub const BLOCK_TOKENS: usize = 32;
/// Rows of one step. A small model prefills about two thousand tokens a second on two cores, so a
/// step that is full of prompts keeps a decoding sequence waiting for about an eighth of a second.
pub(crate) const BATCH_TOKENS: usize = 256;
/// Sequences that run at once: four for each of sixteen busy tenants.
pub(crate) const RUNNING_MAX: usize = 64;
/// Sequences that may wait: as many again for each that runs, sixteen times over; at a second an
/// answer the last of them waits a quarter of a minute.
pub(crate) const QUEUED_MAX: usize = 1024;
/// Tokens of one text to embed: what today's models of texts are trained for. It is computed in one
/// step, which nothing can cut short, and takes a small model a second on two cores.
const TEXT_TOKENS_MAX: u32 = 2048;
/// Whole contexts that the cache holds where nobody says how many blocks it should have.
const CONTEXTS_DEFAULT: u32 = 4;

/// How to open a model.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub name: ModelName,
    /// The digest of the file, which separates its cached prefixes from those of other files.
    pub sha256: Sha256,
    /// Tokens one sequence may hold; `None` takes what the file says.
    pub context: Option<u32>,
    /// Blocks of the cache; `None` takes four whole contexts, or what memory allows.
    pub kv_blocks: Option<u32>,
    pub kv_type: KvType,
    /// Threads to compute with; `None` takes one for each core there is to use.
    pub threads: Option<usize>,
    /// Whether the weights stay in memory, whatever else wants it.
    pub lock_weights: bool,
    /// Bytes the model may take; `None` leaves it to the budget.
    pub memory_bytes_max: Option<u64>,
    /// What the model takes is promised to it here for as long as its engine lives.
    pub budget: MemoryBudget,
    /// Random, from the caller, and the same for all models of a host or not.
    pub secret: Secret,
}

/// Why a model could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("reading the model file")]
    File(#[source] GgufError),
    #[error("the file is an adapter, and no model: `adapterOf` says which model it is of")]
    IsAdapter,
    #[error("the model cannot be run")]
    Architecture(#[source] ArchitectureError),
    #[error("the model's tokenizer cannot be built")]
    Tokenizer(#[source] TokenizerError),
    #[error("the vocabulary of {0} tokens is more than ids count")]
    Vocabulary(usize),
    #[error("a context of {wanted} tokens was asked for and the model was trained for {context}")]
    Context { wanted: u32, context: u32 },
    #[error("{blocks} KV blocks hold less than one context of {context} tokens")]
    TooFewBlocks { blocks: u32, context: u32 },
    #[error("{blocks} KV blocks were asked for, and {blocks_max} of this model's can be counted")]
    TooManyBlocks { blocks: u32, blocks_max: u32 },
    #[error("the model takes {needed} bytes and {max} are allowed")]
    TooLarge { needed: u64, max: u64 },
    #[error("loading the weights")]
    Weights(#[source] WeightsError),
    #[error("allocating on the device")]
    Device(#[source] BackendError),
    #[error("starting the engine's thread")]
    Thread(#[source] std::io::Error),
}

/// A model file that has been read and understood, before anything is allocated for it.
pub(crate) struct Opened {
    pub(crate) gguf: Gguf,
    pub(crate) facts: ModelFacts,
    pub(crate) architecture: Architecture,
    pub(crate) tokenizer: Tokenizer,
}

impl Opened {
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        Self::of(Gguf::open(path).map_err(LoadError::File)?)
    }

    fn of_parts(paths: &[PathBuf]) -> Result<Self, LoadError> {
        Self::of(Gguf::open_parts(paths).map_err(LoadError::File)?)
    }

    pub(crate) fn of(gguf: Gguf) -> Result<Self, LoadError> {
        if gguf.is_adapter().map_err(LoadError::File)? {
            return Err(LoadError::IsAdapter);
        }
        let architecture = Architecture::of(&gguf).map_err(LoadError::Architecture)?;
        let facts = gguf.facts().map_err(LoadError::File)?;
        let tokenizer = Tokenizer::of(&gguf).map_err(LoadError::Tokenizer)?;
        if u32::try_from(tokenizer.len()).is_err() {
            return Err(LoadError::Vocabulary(tokenizer.len()));
        }
        let mut opened = Self { gguf, facts, architecture, tokenizer };
        opened.facts.weights_bytes = opened.weights_bytes();
        Ok(opened)
    }

    /// Bytes the model takes at that capacity.
    pub(crate) fn memory_bytes(&self, capacity: &Capacity) -> u64 {
        let kv = capacity.kv_shape(&self.architecture).bytes();
        let kv = kv.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX);
        let activations = capacity.activation_bytes(&self.architecture, self.tokenizer.len());
        self.facts.weights_bytes.saturating_add(kv).saturating_add(activations)
    }

    /// Bytes of the tensors as the device holds them.
    fn weights_bytes(&self) -> u64 {
        let bytes = |tensor| weights::loaded_bytes(tensor, &self.architecture);
        self.gguf.tensors().iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The facts, with what loading takes.
    fn into_facts(self, kv_type: KvType) -> ModelFacts {
        let memory = Some(self.memory(kv_type));
        ModelFacts { memory, ..self.facts }
    }

    /// What loading the model takes besides its weights.
    fn memory(&self, kv_type: KvType) -> MemoryFacts {
        let capacity = self.capacity(1, kv_type, self.architecture.context);
        let kv = capacity.kv_shape(&self.architecture).bytes();
        let layout = self.layout();
        MemoryFacts {
            kv_bytes_per_block: kv.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX),
            activation_bytes: capacity.activation_bytes(&self.architecture, self.tokenizer.len()),
            kv_blocks_per_sequence: (layout.windowed > 0).then(|| SequenceBlocks {
                bands: count(layout.bands()),
                whole: count(layout.whole),
                windowed_max: count(layout.seen_max(BATCH_TOKENS)),
            }),
        }
    }

    /// How sequences lie in blocks.
    pub(crate) fn layout(&self) -> Layout {
        let a = &self.architecture;
        let Bands { whole, windowed, layers: _ } = a.bands();
        let window = a.window_max().unwrap_or(0);
        Layout { block_tokens: BLOCK_TOKENS, whole, windowed, window }
    }

    /// The blocks that one sequence of `context` tokens holds at most.
    fn sequence_blocks(&self, context: u32) -> u32 {
        let layout = self.layout();
        count(layout.in_all_layers(layout.held_max(context as usize, BATCH_TOKENS)))
    }

    /// The most blocks that a cache may have: places in it are counted with 32 bits.
    fn blocks_max(&self) -> u32 {
        count(self.layout().whole_blocks(u32::MAX as usize / BLOCK_TOKENS))
    }

    /// What serving takes, with so many blocks where the model needs any.
    pub(crate) fn capacity(&self, blocks: u32, kv_type: KvType, context: u32) -> Capacity {
        let a = &self.architecture;
        let generating = |size: usize| if a.generates { size } else { 0 };
        Capacity {
            rows: generating(BATCH_TOKENS),
            text_rows: self.text_tokens(context).map_or(0, |longest| longest.max(BATCH_TOKENS)),
            outputs: generating(RUNNING_MAX),
            blocks: generating(blocks as usize),
            block_tokens: BLOCK_TOKENS,
            kv_type,
            context,
        }
    }

    /// Tokens that one text to embed may have, if the model embeds any.
    pub(crate) fn text_tokens(&self, context: u32) -> Option<usize> {
        self.architecture.pooling.map(|_| context.min(TEXT_TOKENS_MAX) as usize)
    }

    /// Copies the weights to a device and allocates what steps will need.
    pub(crate) fn on<B: Backend>(
        &self,
        mut backend: B,
        capacity: Capacity,
    ) -> Result<Box<dyn Executor>, LoadError> {
        let architecture = self.architecture.clone();
        let vocabulary = self.tokenizer.len();
        let context = capacity.context;
        let weights = Weights::load(&mut backend, &self.gguf, &architecture, vocabulary, context)
            .map_err(LoadError::Weights)?;
        let forward = Forward::new(backend, architecture, weights, vocabulary, capacity)
            .map_err(LoadError::Device)?;
        Ok(Box::new(forward))
    }
}

/// What the model in the files at `paths` says of itself and of the memory it takes. Nothing is
/// loaded.
pub fn examine(paths: &[PathBuf], kv_type: KvType) -> Result<ModelFacts, LoadError> {
    Ok(Opened::of_parts(paths)?.into_facts(kv_type))
}

/// As [`examine`], of the headers of a file, or of all parts of one, in their order.
pub fn examine_heads(heads: Vec<Gguf>, kv_type: KvType) -> Result<ModelFacts, LoadError> {
    let gguf = Gguf::join(heads).map_err(LoadError::File)?;
    Ok(Opened::of(gguf)?.into_facts(kv_type))
}

/// Opens the model in the files at `paths`, all parts of one in their order or a whole one, and
/// starts its engine.
pub fn open(
    paths: &[PathBuf],
    options: OpenOptions,
) -> Result<(EngineHandle, ModelFacts), LoadError> {
    let opened = Opened::of_parts(paths)?;
    let context = options.context.unwrap_or(opened.architecture.context);
    if context == 0 || context > opened.architecture.context {
        let trained = opened.architecture.context;
        return Err(LoadError::Context { wanted: context, context: trained });
    }
    let (capacity, reservation) = capacity(&opened, &options, context)?;
    let threads = options.threads.unwrap_or_else(cpu::default_threads);
    let cpu = Cpu::detect(threads).locking_weights(options.lock_weights);
    let memory = opened.memory(options.kv_type);
    let embeds = opened.text_tokens(context);
    let layout = opened.layout();
    let executor = opened.on(cpu, capacity)?;
    let Opened { gguf, mut facts, architecture, tokenizer } = opened;
    facts.memory = Some(memory);
    facts.sha256 = Some(options.sha256);
    let template = ChatTemplate::of(&gguf, &tokenizer).map_err(LoadError::File)?;
    drop(gguf);

    let namespace = Namespace::new(options.secret, options.sha256, options.kv_type);
    let blocks = count(layout.in_bands(capacity.blocks));
    let pool = BlockPool::new(blocks, layout, namespace.clone());
    let limits = Limits {
        context: context as usize,
        batch_tokens: BATCH_TOKENS,
        running: RUNNING_MAX,
        queued: QUEUED_MAX,
    };
    let prices = Prices::for_model(architecture.ops_per_token());
    let handle = EngineHandle::start(Parts {
        model: options.name,
        architecture: architecture.name,
        generates: architecture.generates,
        embeds: embeds.map(|tokens_max| EmbedInfo {
            dimensions: architecture.vector_len(),
            tokens_max,
            shortens: architecture.shortens,
        }),
        context,
        tokenizer,
        template,
        namespace,
        scheduler: Scheduler::new(limits, pool, prices),
        executor,
        reservation,
    })
    .map_err(LoadError::Thread)?;
    Ok((handle, facts))
}

/// How much to allocate, promised before anything is.
fn capacity(
    opened: &Opened,
    options: &OpenOptions,
    context: u32,
) -> Result<(Capacity, Reservation), LoadError> {
    let context_blocks = opened.sequence_blocks(context);
    let with = |blocks: u32| opened.capacity(blocks, options.kv_type, context);
    let max = options.memory_bytes_max.unwrap_or(u64::MAX);
    let reserve = |blocks: u32| {
        let needed = opened.memory_bytes(&with(blocks));
        let reservation = (needed <= max).then(|| options.budget.reserve(needed)).flatten();
        reservation.map(|reservation| (with(blocks), reservation))
    };
    let (reserved, least) = match options.kv_blocks {
        Some(blocks) if blocks < context_blocks && opened.architecture.generates => {
            return Err(LoadError::TooFewBlocks { blocks, context });
        }
        Some(blocks) if blocks > opened.blocks_max() => {
            return Err(LoadError::TooManyBlocks { blocks, blocks_max: opened.blocks_max() });
        }
        Some(blocks) => (reserve(blocks), blocks),
        // As many whole contexts as fit.
        None => {
            let contexts = (1..=CONTEXTS_DEFAULT).rev();
            let blocks = contexts.map(|contexts| context_blocks.saturating_mul(contexts));
            (blocks.map(reserve).find_map(|reserved| reserved), context_blocks)
        }
    };
    reserved.ok_or_else(|| LoadError::TooLarge {
        needed: opened.memory_bytes(&with(least)),
        max: max.min(options.budget.left()),
    })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
