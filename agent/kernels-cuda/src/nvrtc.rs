//! NVRTC, CUDA's run-time compiler: CUDA C++ in, machine code out, without a GPU or a toolkit.
//!
//! Its eight functions have been the same since 11.1, so they are looked up here, by the names that
//! every version of its library has had.

#![expect(unsafe_code, reason = "NVRTC is a C library")]

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::{Path, PathBuf},
    ptr,
};

use libloading::Library;

use crate::OpenError;

/// The versions of CUDA whose library may be the one that is installed, newest first.
const MAJORS: [u32; 3] = [13, 12, 11];
/// Where a toolkit lies that the loader does not know of.
const TOOLKIT: &str = "/usr/local/cuda/lib64";

/// Why a kernel was not compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The compiler's own words.
    #[error("{program} is refused by NVRTC {}.{}: {log}", version.0, version.1)]
    Refused { program: String, version: (i32, i32), log: String },
    #[error("NVRTC failed with {code} in {call}")]
    Failed { call: &'static str, code: i32 },
}

type Program = *mut c_void;
type Answer = c_int;

/// The compiler, loaded.
pub(crate) struct Compiler {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Answer,
    destroy: unsafe extern "C" fn(*mut Program) -> Answer,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Answer,
    code_size: unsafe extern "C" fn(Program, *mut usize) -> Answer,
    code: unsafe extern "C" fn(Program, *mut c_char) -> Answer,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Answer,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Answer,
    version: (i32, i32),
    /// The functions are its; so is what it loads while it compiles.
    _libraries: Vec<Library>,
}

fn done(call: &'static str, code: Answer) -> Result<(), CompileError> {
    if code == 0 { Ok(()) } else { Err(CompileError::Failed { call, code }) }
}

impl Compiler {
    /// Loads the library at `path`, or the newest one that is installed.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, OpenError> {
        let tried = candidates(path);
        let found = tried.iter().find_map(|path| Self::at(path));
        found.ok_or(OpenError::NoCompiler { tried })
    }

    fn at(path: &Path) -> Option<Self> {
        // SAFETY: the library is NVRTC by its name or by whoever names it; its initialisers set up
        // a compiler and nothing else.
        let library = unsafe { Library::new(path) }.ok()?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types are those of nvrtc.h, which have not changed since 11.1, and the
                // library lives as long as the pointers.
                *unsafe { library.get($name) }.ok()?
            };
        }
        let ask: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Answer =
            function!(b"nvrtcVersion\0");
        let mut version = (0, 0);
        // SAFETY: writes two ints.
        done("nvrtcVersion", unsafe { ask(&raw mut version.0, &raw mut version.1) }).ok()?;
        Some(Self {
            create: function!(b"nvrtcCreateProgram\0"),
            destroy: function!(b"nvrtcDestroyProgram\0"),
            compile: function!(b"nvrtcCompileProgram\0"),
            code_size: function!(b"nvrtcGetCUBINSize\0"),
            code: function!(b"nvrtcGetCUBIN\0"),
            log_size: function!(b"nvrtcGetProgramLogSize\0"),
            log: function!(b"nvrtcGetProgramLog\0"),
            version,
            _libraries: builtins(path, version).into_iter().chain([library]).collect(),
        })
    }

    /// Major and minor.
    pub(crate) const fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a source to machine code; `program` names it in errors.
    pub(crate) fn compile(
        &self,
        program: &str,
        source: &str,
        options: &[String],
    ) -> Result<Vec<u8>, CompileError> {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (source, name) = (text(source), text(program));
        let options: Vec<CString> = options.iter().map(|option| text(option)).collect();
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let mut handle = ptr::null_mut();
        // SAFETY: both texts end in a zero and outlive the call; there are no headers.
        done("nvrtcCreateProgram", unsafe {
            (self.create)(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        })?;
        let mut unit = Unit { compiler: self, handle };
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        // SAFETY: as many pointers to texts as are counted, all of which outlive the call.
        let code = unsafe { (self.compile)(unit.handle, count, pointers.as_ptr()) };
        if code != 0 {
            let (program, version) = (program.to_owned(), self.version);
            return Err(CompileError::Refused { program, version, log: unit.log() });
        }
        unit.code()
    }
}

/// A source in the compiler.
struct Unit<'a> {
    compiler: &'a Compiler,
    handle: Program,
}

impl Unit<'_> {
    fn code(&mut self) -> Result<Vec<u8>, CompileError> {
        let mut bytes = 0;
        // SAFETY: the handle is a compiled program; one size is written.
        done("nvrtcGetCUBINSize", unsafe {
            (self.compiler.code_size)(self.handle, &raw mut bytes)
        })?;
        let mut code = vec![0_u8; bytes];
        // SAFETY: room for as many bytes as the compiler says it writes.
        done("nvrtcGetCUBIN", unsafe {
            (self.compiler.code)(self.handle, code.as_mut_ptr().cast())
        })?;
        Ok(code)
    }

    fn log(&mut self) -> String {
        let mut bytes = 0;
        // SAFETY: the handle is a program; one size is written.
        let asked = unsafe { (self.compiler.log_size)(self.handle, &raw mut bytes) };
        let mut log = vec![0_u8; if asked == 0 { bytes } else { 0 }];
        // SAFETY: room for as many bytes as the compiler says it writes.
        let got = log.is_empty()
            || unsafe { (self.compiler.log)(self.handle, log.as_mut_ptr().cast()) } != 0;
        let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
        if got { String::new() } else { text.unwrap_or_default().trim().to_owned() }
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once.
        let _ = unsafe { (self.compiler.destroy)(&raw mut self.handle) };
    }
}

fn candidates(path: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = path {
        return vec![path.to_owned()];
    }
    let plain = format!("{DLL_PREFIX}nvrtc{DLL_SUFFIX}");
    let versioned = MAJORS.iter().map(|major| format!("{plain}.{major}"));
    let names: Vec<_> = versioned.chain([plain.clone()]).map(PathBuf::from).collect();
    let installed = names.iter().map(|name| Path::new(TOOLKIT).join(name));
    names.iter().cloned().chain(installed).collect()
}

/// The library that NVRTC itself looks for by its bare name when it compiles: where NVRTC is named by
/// a path, that one lies beside it, where the loader would not look.
fn builtins(nvrtc: &Path, (major, minor): (i32, i32)) -> Option<Library> {
    let folder = nvrtc.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let name = format!("{DLL_PREFIX}nvrtc-builtins{DLL_SUFFIX}.{major}.{minor}");
    // SAFETY: a table of NVRTC's own headers and functions, which runs nothing when it is loaded.
    unsafe { Library::new(folder.join(name)) }.ok()
}
