//! The driver: a device's context and stream, memory on it, copies, machine code and launches.
//!
//! Everything a backend does goes through one stream, in the order in which it is asked for. Only
//! [`Device::read`] and [`Device::write`] wait for it.

#![expect(unsafe_code, reason = "the driver is a C library")]

use std::{
    ffi::{CString, c_void},
    panic::catch_unwind,
    sync::Arc,
};

use cudarc::driver::{
    result::{self, DriverError},
    sys::{
        self, CUcontext, CUdevice_attribute as Attribute, CUfunction, CUmodule, CUresult, CUstream,
    },
};
use realm_kernels::backend::BackendError;

use crate::OpenError;

/// The CUDA version of the oldest driver that has every call here, times a thousand.
const DRIVER_MIN: i32 = 12_000;
/// The oldest GPUs that have every instruction here.
const CAPABILITY_MIN: (i32, i32) = (8, 0);
/// GPUs on which a kernel may start before those before it have ended, and wait by itself.
const CAPABILITY_EARLY: (i32, i32) = (9, 0);
/// Parameters of a launch: the kernel with most has nine.
const PARAMS_MAX: usize = 12;

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub processors: usize,
    pub memory_bytes: usize,
    /// The CUDA version that the driver knows, times a thousand.
    pub driver: i32,
}

/// An open device.
pub(crate) struct Device {
    handle: sys::CUdevice,
    context: CUcontext,
    stream: CUstream,
    pub(crate) facts: Facts,
}

// SAFETY: a context and a stream are handles that the driver lets any thread use, several at a time;
// every call here makes the context current on its own thread first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

fn failed(error: DriverError) -> OpenError {
    OpenError::Driver { error: said(error) }
}

/// The driver's name of an error and its words for it.
fn said(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{}: {}", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("error {}", error.0 as u32),
    }
}

fn device_error(op: &'static str) -> impl Fn(DriverError) -> BackendError {
    move |error| BackendError::Device { op, error: said(error) }
}

impl Device {
    /// Opens GPU number `ordinal`.
    pub(crate) fn open(ordinal: usize) -> Result<Self, OpenError> {
        // SAFETY: looks for the driver's library by its names. What its initialisers do is not ours
        // to prove; it is the driver of the machine's GPUs.
        if !unsafe { sys::is_culib_present() } {
            return Err(OpenError::NoDriver);
        }
        // The loader panics where a library lacks a symbol: then it is not a driver that we know.
        let driver = catch_unwind(|| result::init().and_then(|()| driver_version()));
        let driver = driver.map_err(|_| OpenError::NoDriver)?.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => OpenError::NoDevice { ordinal, count: 0 },
            _ => failed(error),
        })?;
        if driver < DRIVER_MIN {
            return Err(OpenError::DriverTooOld { have: driver, need: DRIVER_MIN });
        }
        let count = result::device::get_count().map_err(failed)?;
        let count = usize::try_from(count).unwrap_or(0);
        let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number = number.ok_or(OpenError::NoDevice { ordinal, count })?;
        let device = result::device::get(number).map_err(failed)?;
        let facts = facts(device, driver).map_err(failed)?;
        if facts.capability < CAPABILITY_MIN {
            return Err(OpenError::DeviceTooOld { name: facts.name, have: facts.capability });
        }
        // SAFETY: the device was just given out by the driver; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        let stream = current(context)
            .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        match stream {
            Ok(stream) => Ok(Self { handle: device, context, stream, facts }),
            Err(error) => {
                // SAFETY: retained above, and nobody holds it.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(failed(error))
            }
        }
    }

    /// Allocates `bytes` bytes, all zero.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Memory, BackendError> {
        let error = |error: DriverError| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY | CUresult::CUDA_ERROR_INVALID_VALUE => {
                BackendError::OutOfMemory { bytes }
            }
            _ => device_error("allocate")(error),
        };
        current(self.context).map_err(error)?;
        // An address is wanted even of nothing.
        let len = bytes.max(1);
        // SAFETY: the memory is filled before anything reads it, and freed in `Memory::drop`.
        let at = unsafe { result::malloc_sync(len) }.map_err(error)?;
        let memory = Memory { device: Arc::clone(self), at, bytes };
        // SAFETY: all of an allocation that was just made, on the stream all its users are on.
        unsafe { result::memset_d8_async(at, 0, len, self.stream) }.map_err(error)?;
        Ok(memory)
    }

    /// Copies bytes into memory from byte `at` on, and waits for that.
    pub(crate) fn write(
        &self,
        memory: &Memory,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let (op, to) = ("write", memory.part("write", at, bytes.len())?);
        current(self.context).map_err(device_error(op))?;
        // SAFETY: `part` has checked that the bytes lie within the allocation, and they outlive the
        // copy, which is waited for.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(device_error(op))?;
        self.wait(op)
    }

    /// Copies bytes out of memory from byte `at` on, once everything asked for before has ended.
    pub(crate) fn read(
        &self,
        memory: &Memory,
        at: usize,
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        let (op, from) = ("read", memory.part("read", at, size_of_val(out))?);
        current(self.context).map_err(device_error(op))?;
        // SAFETY: `part` has checked that the bytes lie within the allocation, any bytes are floats,
        // and `out` outlives the copy, which is waited for.
        unsafe { result::memcpy_dtoh_async(out, from, self.stream) }.map_err(device_error(op))?;
        self.wait(op)
    }

    /// Waits for everything asked for so far.
    pub(crate) fn wait(&self, op: &'static str) -> Result<(), BackendError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(device_error(op))
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// The parameters are those of the kernel, in number, order and size, and what it reads and
    /// writes by them, at every thread of the grid, is memory of this device that lives until it is
    /// freed by a call that waits, as [`Memory`] does.
    pub(crate) unsafe fn launch(
        &self,
        op: &'static str,
        kernel: &Kernel,
        grid: Grid,
        params: &[&dyn Param],
    ) -> Result<(), BackendError> {
        current(self.context).map_err(device_error(op))?;
        let mut all = [std::ptr::null_mut::<c_void>(); PARAMS_MAX];
        for (to, param) in all.iter_mut().zip(params) {
            *to = std::ptr::from_ref::<dyn Param>(*param).cast_mut().cast();
        }
        let Grid { blocks: (x, y, z), threads } = grid;
        if self.facts.capability < CAPABILITY_EARLY {
            // SAFETY: the function is of a module that `kernel` holds; the driver copies the
            // parameters before it returns; the rest is the caller's.
            let started = unsafe {
                let grid = ((x, y, z), (threads, 1, 1), 0);
                result::launch_kernel(
                    kernel.function,
                    grid.0,
                    grid.1,
                    grid.2,
                    self.stream,
                    &mut all,
                )
            };
            return started.map_err(device_error(op));
        }
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream,
            attrs: &raw mut early,
            numAttrs: 1,
        };
        // SAFETY: as above; the driver copies the configuration too. That the kernel may start before
        // those before it have ended is safe because each begins with BEGIN, which waits for that.
        unsafe {
            let params = all.as_mut_ptr();
            sys::cuLaunchKernelEx(&raw const config, kernel.function, params, std::ptr::null_mut())
        }
        .result()
        .map_err(device_error(op))
    }

    /// The nanoseconds that the stream spends on what `work` asks for.
    pub(crate) fn timed(
        &self,
        work: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<f64, BackendError> {
        let error = device_error("time");
        current(self.context).map_err(&error)?;
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let (start, end) = (Event::new(flags).map_err(&error)?, Event::new(flags).map_err(&error)?);
        // SAFETY: the events and the stream live until the end of this function.
        unsafe { result::event::record(start.0, self.stream) }.map_err(&error)?;
        work()?;
        // SAFETY: as above.
        unsafe { result::event::record(end.0, self.stream) }.map_err(&error)?;
        self.wait("time")?;
        // SAFETY: both were recorded, and waited for.
        let elapsed = unsafe { result::event::elapsed(start.0, end.0) }.map_err(&error)?;
        Ok(f64::from(elapsed) * 1e6)
    }

    /// Copies `bytes` bytes from one piece of memory to another.
    pub(crate) fn copy(
        &self,
        from: &Memory,
        to: &Memory,
        bytes: usize,
    ) -> Result<(), BackendError> {
        let (op, from, to) = ("copy", from.part("copy", 0, bytes)?, to.part("copy", 0, bytes)?);
        // SAFETY: `part` has checked both; they are two allocations, so they do not overlap.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(device_error(op))
    }

    /// Loads machine code.
    pub(crate) fn load(self: &Arc<Self>, code: &[u8]) -> Result<Arc<Module>, BackendError> {
        let error = device_error("load kernels");
        current(self.context).map_err(&error)?;
        // SAFETY: the code is what NVRTC has made, whole: its length is in its own header, and the
        // cache gives out nothing whose digest is not that of what was put in.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(&error)?;
        Ok(Arc::new(Module { device: Arc::clone(self), module }))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if current(self.context).is_ok() {
            // SAFETY: whoever holds memory or a module holds the device, so this is the last user of
            // both, and each is given back once.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: as above.
        let _ = unsafe { result::primary_ctx::release(self.handle) };
    }
}

fn current(context: CUcontext) -> Result<(), DriverError> {
    // SAFETY: the context is retained for as long as its `Device` lives.
    unsafe { result::ctx::set_current(context) }
}

fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

fn facts(device: sys::CUdevice, driver: i32) -> Result<Facts, DriverError> {
    // SAFETY: the device was given out by the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // SAFETY: as above.
    let memory_bytes = unsafe { result::device::total_mem(device) }?;
    let name = result::device::get_name(device)?;
    let processors = usize::try_from(processors).unwrap_or(1).max(1);
    Ok(Facts { name, capability, processors, memory_bytes, driver })
}

/// A moment of a stream.
struct Event(sys::CUevent);

impl Event {
    fn new(flags: sys::CUevent_flags) -> Result<Self, DriverError> {
        result::event::create(flags).map(Self)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Memory on a device.
pub(crate) struct Memory {
    device: Arc<Device>,
    at: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// Where it begins, for kernels.
    pub(crate) const fn address(&self) -> u64 {
        self.at
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of byte `at`, where `len` bytes from there are within.
    fn part(&self, op: &'static str, at: usize, len: usize) -> Result<u64, BackendError> {
        let (need, have) = (at.saturating_add(len), self.bytes);
        if need > have {
            return Err(BackendError::Shape { op, what: "bytes of memory", need, have });
        }
        Ok(self.at.saturating_add(at as u64))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if current(self.device.context).is_ok() {
            // SAFETY: allocated once and freed once; the driver waits for kernels that use it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Machine code on a device.
pub(crate) struct Module {
    device: Arc<Device>,
    module: CUmodule,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// The kernel of that name.
    pub(crate) fn kernel(self: &Arc<Self>, name: &'static str) -> Result<Kernel, BackendError> {
        let error = device_error(name);
        current(self.device.context).map_err(&error)?;
        let symbol = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded, and `Kernel` holds it.
        let function = unsafe { result::module::get_function(self.module, symbol) };
        Ok(Kernel { function: function.map_err(&error)?, _module: Arc::clone(self) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if current(self.device.context).is_ok() {
            // SAFETY: loaded once and unloaded once, when no kernel of it is left; the driver waits
            // for those that run.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// A kernel on a device.
pub(crate) struct Kernel {
    function: CUfunction,
    _module: Arc<Module>,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// How many blocks of how many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) blocks: (u32, u32, u32),
    pub(crate) threads: u32,
}

/// What a kernel can be given: plain numbers, and structures of them in 64-bit words.
pub(crate) trait Param {}
impl Param for u32 {}
impl Param for u64 {}
impl Param for f32 {}
impl<const N: usize> Param for [u32; N] {}
impl<const N: usize> Param for [u64; N] {}
