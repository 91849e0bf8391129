//! What computes on this node: the one place that knows which backends a build has.

use std::{fs, io, path::Path};

use realm_core::{
    desired::{DesiredModel, Sha256},
    report::ModelFacts,
};
use realm_engine::{EngineHandle, LoadError, OpenOptions, Secret};
use realm_kernels::{
    backend::{Backend as _, KvType},
    cpu::{self, Cpu},
};
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

/// A device that models are loaded on.
#[derive(Clone, Debug)]
pub struct Device {
    threads: usize,
    /// Where every KV hash chain of this process starts.
    secret: Secret,
}

impl Device {
    /// The CPU with `threads` threads, or as many as the process may use.
    pub fn open(threads: Option<usize>) -> Result<Self, DeviceError> {
        let threads = threads.unwrap_or_else(cpu::default_threads);
        if threads == 0 {
            return Err(DeviceError::NoThreads(threads));
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(DeviceError::Random)?;
        Ok(Self { threads, secret: Secret(secret) })
    }

    /// The device in words.
    pub fn describe(&self) -> String {
        Cpu::detect(self.threads).describe()
    }

    /// Bytes that models may still take.
    pub fn memory_bytes(&self) -> Result<u64, DeviceError> {
        let free = memory_available().map_err(DeviceError::Memory)?;
        Ok(free - free / RESERVE_PARTS)
    }
}

/// Why a model is not loaded.
#[derive(Debug, Error)]
pub(crate) enum DeviceLoadError {
    #[error("find room for the model")]
    Device(#[source] DeviceError),
    #[error("load the model")]
    Load(#[source] LoadError),
}

impl DeviceLoadError {
    /// The CamelCase reason of a condition.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Device(_) => "DeviceFailed",
            Self::Load(error) => match error {
                LoadError::File(_) | LoadError::Tokenizer(_) | LoadError::Vocabulary(_) => {
                    "ModelFileInvalid"
                }
                LoadError::Architecture(_) => "ArchitectureUnknown",
                LoadError::Context { .. } | LoadError::TooFewBlocks { .. } => "CapacityInvalid",
                LoadError::TooLarge { .. } => "DoesNotFit",
                LoadError::Weights(_) => "WeightsInvalid",
                LoadError::Device(_) | LoadError::Thread(_) => "DeviceFailed",
            },
        }
    }
}

/// Loads the file at `path`. Reads the whole file and may take seconds.
pub(crate) fn load(
    device: &Device,
    path: &Path,
    sha256: Sha256,
    model: &DesiredModel,
) -> Result<(EngineHandle, ModelFacts), DeviceLoadError> {
    let options = OpenOptions {
        name: model.name.clone(),
        sha256,
        context: model.context,
        kv_blocks: model.kv_blocks,
        kv_type: KvType::F16,
        threads: Some(device.threads),
        memory_bytes_max: Some(device.memory_bytes().map_err(DeviceLoadError::Device)?),
        secret: device.secret.clone(),
    };
    realm_engine::open(path, options).map_err(DeviceLoadError::Load)
}

/// Reads what the file at `path` says of itself and of the memory it will take.
pub(crate) fn examine(path: &Path) -> Result<ModelFacts, DeviceLoadError> {
    realm_engine::examine(path, KvType::F16).map_err(DeviceLoadError::Load)
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
