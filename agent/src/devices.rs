//! What computes on this node: the one place that knows which backends a build has.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use realm_core::{
    desired::{Accelerator, DesiredModel, KvCache},
    name::ModelName,
    report::ModelFacts,
};
use realm_engine::{
    AdaptedEngine, AdapterError, AdapterOptions, EngineHandle, LoadError, Memory, MemoryBudget,
    OpenOptions, Secret, WeightsError,
    gguf::{Gguf, Head},
};
use realm_kernels::{
    backend::{Backend as _, BackendError, KvType},
    cpu::{self, Cpu},
};
use realm_store::Stored;
use thiserror::Error;

/// Part of the free memory that stays free when a model is loaded: an eighth for everybody else's
/// page cache, sockets and programs.
const RESERVE_PARTS: u64 = 8;

#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
    #[error("{0} threads were asked for; at least 1 computes")]
    NoThreads(usize),
    #[error("read how much memory is free")]
    Memory(#[source] io::Error),
}

/// How a process computes.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct DeviceOptions {
    /// Threads that compute; all that the process may use when absent.
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,
    /// Lock weights in memory, so that they are never written to swap. A model for which the
    /// system's limit (RLIMIT_MEMLOCK) leaves no room is refused.
    #[arg(long)]
    pub lock_weights: bool,
}

/// A device that models are loaded on.
#[derive(Clone, Debug)]
pub struct Device {
    threads: usize,
    lock_weights: bool,
    budget: MemoryBudget,
    memory_bytes_total: u64,
    /// Where every KV hash chain of this process starts.
    secret: Secret,
}

impl Device {
    /// The CPU, with as many threads as the process may use unless the options say how many.
    pub fn open(options: DeviceOptions) -> Result<Self, DeviceError> {
        let DeviceOptions { threads, lock_weights } = options;
        let threads = threads.unwrap_or_else(cpu::default_threads);
        if threads == 0 {
            return Err(DeviceError::NoThreads(threads));
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(DeviceError::Random)?;
        // Asked once here, so that a system that does not say is an error and not a full one.
        let Memory { free_bytes, resident_bytes } = memory().map_err(DeviceError::Memory)?;
        let memory_bytes_total = free_bytes.saturating_add(resident_bytes);
        let budget =
            MemoryBudget::new(|| memory().unwrap_or(Memory { free_bytes: 0, resident_bytes: 0 }));
        let secret = Secret(secret);
        Ok(Self { threads, lock_weights, budget, memory_bytes_total, secret })
    }

    /// The device in words.
    pub fn describe(&self) -> String {
        Cpu::detect(self.threads).describe()
    }

    /// Refuses a model that asks for what this node does not have: it must not be computed by
    /// something else without a word.
    pub(crate) fn check(&self, model: &DesiredModel) -> Result<(), DeviceLoadError> {
        let accelerator = match model.accelerator {
            Accelerator::Any | Accelerator::Cpu => return Ok(()),
            Accelerator::Cuda => "cuda",
            Accelerator::WebGpu => "webgpu",
        };
        Err(DeviceLoadError::NoAccelerator { accelerator, device: self.describe() })
    }

    /// Bytes that all models together may take.
    pub const fn memory_bytes_total(&self) -> u64 {
        self.memory_bytes_total
    }

    /// Bytes that models may still take.
    pub fn memory_bytes(&self) -> u64 {
        self.budget.left()
    }
}

/// Why a model is not loaded.
#[derive(Debug, Error)]
pub(crate) enum DeviceLoadError {
    #[error("load the model")]
    Load(#[source] LoadError),
    #[error("load the adapter")]
    Adapter(#[source] AdapterError),
    #[error("the model asks for `{accelerator}`, and this node has {device}")]
    NoAccelerator { accelerator: &'static str, device: String },
    #[error("{} changed while it was loaded", path.display())]
    Changed { path: PathBuf },
}

impl DeviceLoadError {
    /// The CamelCase reason of a condition.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "SourceChanged",
            Self::NoAccelerator { .. } => "AcceleratorMissing",
            Self::Load(error) => match error {
                LoadError::File(_) | LoadError::Tokenizer(_) | LoadError::Vocabulary(_) => {
                    "ModelFileInvalid"
                }
                LoadError::IsAdapter => "IsAdapter",
                LoadError::Architecture(_) => "ArchitectureUnknown",
                LoadError::Context { .. }
                | LoadError::TooFewBlocks { .. }
                | LoadError::TooManyBlocks { .. } => "CapacityInvalid",
                LoadError::TooLarge { .. } => "DoesNotFit",
                LoadError::Weights(WeightsError::Device {
                    source: BackendError::NotLocked { .. },
                    ..
                }) => "WeightsNotLocked",
                LoadError::Weights(_) => "WeightsInvalid",
                LoadError::Device(_) | LoadError::Thread(_) => "DeviceFailed",
            },
            Self::Adapter(error) => match error {
                AdapterError::File(_) | AdapterError::Read(_) => "ModelFileInvalid",
                AdapterError::NotAnAdapter(_)
                | AdapterError::Kind(_)
                | AdapterError::Alpha(_)
                | AdapterError::Empty
                | AdapterError::Rank { .. } => "AdapterInvalid",
                AdapterError::Architecture { .. }
                | AdapterError::ReadsOnly
                | AdapterError::Weights(_) => "AdapterMismatch",
                AdapterError::TooLarge { .. } => "DoesNotFit",
                AdapterError::Gone => "EngineFailed",
                AdapterError::Device(_) => "DeviceFailed",
                AdapterError::Panicked => "LoadFailed",
            },
        }
    }
}

/// Loads a file. Reads all of it and may take seconds.
pub(crate) fn load(
    device: &Device,
    stored: &Stored,
    model: &DesiredModel,
) -> Result<(EngineHandle, ModelFacts), DeviceLoadError> {
    let options = OpenOptions {
        name: model.name.clone(),
        sha256: stored.sha256,
        context: model.context,
        kv_blocks: model.kv_blocks,
        kv_type: kv_type(model.kv_cache),
        threads: Some(device.threads),
        lock_weights: device.lock_weights,
        memory_bytes_max: None,
        budget: device.budget.clone(),
        secret: device.secret.clone(),
    };
    let loaded = realm_engine::open(&stored.paths(), options);
    unchanged(stored)?;
    loaded.map_err(DeviceLoadError::Load)
}

/// Loads an adapter's file beside the model that `base` serves. Waits for the end of a step of it.
pub(crate) fn load_adapter(
    device: &Device,
    base: &Arc<EngineHandle>,
    stored: &Stored,
    name: ModelName,
) -> Result<(AdaptedEngine, ModelFacts), DeviceLoadError> {
    let facts = realm_engine::examine_adapter(&stored.path).map_err(DeviceLoadError::Adapter)?;
    let options = AdapterOptions { name, sha256: stored.sha256, budget: device.budget.clone() };
    let loaded = base.adapt(&stored.path, options);
    unchanged(stored)?;
    Ok((loaded.map_err(DeviceLoadError::Adapter)?, facts))
}

/// Asked last: a file of somebody else's may change at any moment until all of it is loaded, and is
/// then not what was verified.
fn unchanged(stored: &Stored) -> Result<(), DeviceLoadError> {
    match stored.has_changed() {
        Ok(false) => Ok(()),
        _ => Err(DeviceLoadError::Changed { path: stored.path.clone() }),
    }
}

const fn kv_type(kv_cache: KvCache) -> KvType {
    match kv_cache {
        KvCache::F16 => KvType::F16,
        KvCache::Q8_0 => KvType::Q8_0,
    }
}

/// What is free for models now, and what the process has.
fn memory() -> io::Result<Memory> {
    let free = memory_available()?;
    Ok(Memory { free_bytes: free - free / RESERVE_PARTS, resident_bytes: memory_resident()? })
}

/// Bytes of memory that the process has now.
fn memory_resident() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no resident pages in statm"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// What a file is to be: it says so itself, and must say the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    Model(KvCache),
    Adapter,
}

impl Use {
    pub(crate) const fn of(model: &DesiredModel) -> Self {
        match model.base {
            Some(_) => Self::Adapter,
            None => Self::Model(model.kv_cache),
        }
    }
}

/// Reads what a file says of itself and of the memory it will take.
pub(crate) fn examine(stored: &Stored, of: Use) -> Result<ModelFacts, DeviceLoadError> {
    match of {
        Use::Model(kv_cache) => {
            realm_engine::examine(&stored.paths(), kv_type(kv_cache)).map_err(DeviceLoadError::Load)
        }
        Use::Adapter => {
            realm_engine::examine_adapter(&stored.path).map_err(DeviceLoadError::Adapter)
        }
    }
}

/// The same of the headers of all parts of a file.
pub(crate) fn examine_heads(heads: Vec<Gguf>, of: Use) -> Result<ModelFacts, DeviceLoadError> {
    match of {
        Use::Model(kv_cache) => {
            realm_engine::examine_heads(heads, kv_type(kv_cache)).map_err(DeviceLoadError::Load)
        }
        Use::Adapter => Gguf::join(heads)
            .map_err(AdapterError::File)
            .and_then(|head| realm_engine::examine_adapter_head(&head))
            .map_err(DeviceLoadError::Adapter),
    }
}

/// The header of a file, or of one part of it, that begins with `bytes` and has `bytes_total`, if
/// anybody knows.
pub(crate) fn parse_head(bytes: &[u8], bytes_total: Option<u64>) -> Result<Head, DeviceLoadError> {
    Gguf::parse_head(bytes, bytes_total)
        .map_err(|error| DeviceLoadError::Load(LoadError::File(error)))
}

/// Bytes the process may still take: what the system has, within the limit of its cgroup (v2).
fn memory_available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemAvailable in meminfo"))?;
    let system = kilobytes.saturating_mul(1024);
    let number = |name: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // Without a limit the file says `max`, and at the root of the hierarchy it is not there.
    let group = number("memory.max").zip(number("memory.current"));
    Ok(group.map_or(system, |(limit, used)| system.min(limit.saturating_sub(used))))
}
