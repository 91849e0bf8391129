//! The CUDA backend: every operation on an NVIDIA GPU, with kernels that are compiled where they run.
//!
//! A build needs neither a GPU nor a toolkit: the driver and NVRTC are looked for when a device is
//! opened ([`Cuda::open`]), and the sources of the kernels (`kernels/`) are part of the program. In the
//! order of a load: [`device`] (the driver: memory, copies, launches), [`nvrtc`] and [`cache`] (a
//! source becomes machine code once for each machine), [`program`] (which sources and definitions a
//! kernel is made of), [`layout`] (how weights lie), [`spans`] (which block attends what), [`list`]
//! (what the host tells in each step), [`cuda`] (the operations).

mod cache;
mod cuda;
mod device;
mod layout;
mod list;
mod nvrtc;
mod program;
mod spans;

pub use cuda::{Ceilings, Cuda, CudaBuffer, CudaKvCache, CudaMatrix, OpenOptions};
pub use device::Facts;
pub use nvrtc::CompileError;
pub use program::{Precompiled, precompile};

use std::path::PathBuf;

/// Why no device was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This machine has no driver for NVIDIA GPUs, or the process may not see it.
    #[error("no CUDA driver is installed here")]
    NoDriver,
    /// Every kernel and call here is in drivers from 12.0 on.
    #[error("the driver knows CUDA {}.{} and {}.{} is the least", have / 1000, have % 1000 / 10, need / 1000, need % 1000 / 10)]
    DriverTooOld { have: i32, need: i32 },
    #[error("GPU {ordinal} was asked for and there are {count}")]
    NoDevice { ordinal: usize, count: usize },
    /// Tensor cores with bf16 and int8, and asynchronous copies, came with 8.0.
    #[error("{name} has compute capability {}.{}; 8.0 is the least", have.0, have.1)]
    DeviceTooOld { name: String, have: (i32, i32) },
    #[error("the CUDA driver failed: {error}")]
    Driver { error: String },
    /// NVRTC comes with the toolkit and not with the driver.
    #[error("NVRTC, CUDA's run-time compiler, is not installed here; tried {tried:?}")]
    NoCompiler { tried: Vec<PathBuf> },
    #[error("compiling the kernels")]
    Compile(#[source] CompileError),
    #[error("allocating on the device")]
    Allocate(#[source] realm_kernels::backend::BackendError),
}
