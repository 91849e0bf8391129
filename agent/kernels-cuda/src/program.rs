//! Which sources and definitions each program of kernels is made of, and compiling them.

use std::path::Path;

use realm_kernels::{backend::KvType, format::Format};

use crate::{
    OpenError,
    cache::{Cache, Key},
    layout::Layout,
    nvrtc::{CompileError, Compiler},
};

/// Kernels that are compiled together. A model needs the rows, one for each of its weights' formats,
/// and one for its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Program {
    /// Norms, rotations, activations, sums and copies.
    Rows,
    /// Embedding and products with weights in a format.
    Weights(Format),
    /// The cache and attention over it.
    Attention { head_dim: usize, kv_type: KvType },
    /// What a device could do at best.
    Ceiling,
}

const PRELUDE: &str = include_str!("../kernels/prelude.cu");
const ROWS: &str = include_str!("../kernels/rows.cu");
const ACTIVATIONS: &str = include_str!("../kernels/activations.cu");
const PRODUCTS: &str = include_str!("../kernels/products.cu");
const BLOCKS: &str = include_str!("../kernels/blocks.cu");
const FLOATS: &str = include_str!("../kernels/floats.cu");
const ATTENTION: &str = include_str!("../kernels/attention.cu");
const CEILING: &str = include_str!("../kernels/ceiling.cu");

impl Program {
    /// What errors call it.
    fn name(self) -> String {
        match self {
            Self::Rows => "rows.cu".to_owned(),
            Self::Weights(format) => format!("{format}.cu"),
            Self::Attention { head_dim, kv_type } => format!("attention_{head_dim}_{kv_type:?}.cu"),
            Self::Ceiling => "ceiling.cu".to_owned(),
        }
    }

    fn source(self) -> String {
        match self {
            Self::Rows => [PRELUDE, ROWS, ACTIVATIONS].concat(),
            Self::Weights(format) if format.is_float() => [PRELUDE, PRODUCTS, FLOATS].concat(),
            Self::Weights(_) => [PRELUDE, PRODUCTS, BLOCKS].concat(),
            Self::Attention { .. } => [PRELUDE, ATTENTION].concat(),
            Self::Ceiling => [PRELUDE, CEILING].concat(),
        }
    }

    fn definitions(self) -> Vec<String> {
        match self {
            Self::Rows | Self::Ceiling => Vec::new(),
            Self::Weights(format) => match Layout::of(format) {
                Some(layout) => layout.definitions(),
                None => vec![format!("KIND={}", float_kind(format))],
            },
            Self::Attention { head_dim, kv_type } => {
                let kv = match kv_type {
                    KvType::F16 => 0,
                    KvType::F32 => 1,
                    KvType::Q8_0 => 2,
                };
                vec![format!("HEAD_DIM={head_dim}"), format!("KV={kv}")]
            }
        }
    }

    /// Options for a compute capability. Floats are as IEEE has them: no fast division, no flushing.
    fn options(self, (major, minor): (i32, i32)) -> Vec<String> {
        let target = format!("--gpu-architecture=sm_{major}{minor}");
        let fixed = ["--std=c++17", "--disable-warnings"].map(str::to_owned);
        let defined =
            self.definitions().into_iter().map(|definition| format!("--define-macro={definition}"));
        [target].into_iter().chain(fixed).chain(defined).collect()
    }

    /// Its machine code, from the cache or the compiler.
    pub(crate) fn code(
        self,
        (compiler, cache): (&Compiler, &Cache),
        capability: (i32, i32),
    ) -> Result<Vec<u8>, CompileError> {
        let (source, options) = (self.source(), self.options(capability));
        let key = Key { source: &source, options: &options, compiler: compiler.version() };
        if let Some(code) = cache.get(&key) {
            return Ok(code);
        }
        let code = compiler.compile(&self.name(), &source, &options)?;
        // What is not kept is compiled again at the next start, and nothing else is lost.
        let _ = cache.put(&key, &code);
        Ok(code)
    }
}

/// KIND in floats.cu.
const fn float_kind(format: Format) -> u32 {
    match format {
        Format::F16 => 1,
        Format::BF16 => 2,
        _ => 0,
    }
}

/// What [`precompile`] has put into a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precompiled {
    pub programs: usize,
    pub bytes: usize,
}

/// Compiles every program for a compute capability into `cache`, with heads of these sizes, on a
/// machine that need not have a GPU.
pub fn precompile(
    nvrtc: Option<&Path>,
    cache: &Path,
    capability: (i32, i32),
    head_dims: &[usize],
) -> Result<Precompiled, OpenError> {
    let compiler = Compiler::load(nvrtc)?;
    let cache = Cache::new(Some(cache.to_owned()));
    let weights = Format::WEIGHTS.into_iter().map(Program::Weights);
    let types = [KvType::F16, KvType::F32, KvType::Q8_0];
    let attention = head_dims
        .iter()
        .flat_map(|&head_dim| types.map(|kv_type| Program::Attention { head_dim, kv_type }));
    let mut all = Precompiled { programs: 0, bytes: 0 };
    for program in [Program::Rows, Program::Ceiling].into_iter().chain(weights).chain(attention) {
        let code = program.code((&compiler, &cache), capability).map_err(OpenError::Compile)?;
        all.programs += 1;
        all.bytes += code.len();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every GPU that is in use: Ampere, its small sister, Ada and Hopper.
    const CAPABILITIES: [(i32, i32); 4] = [(8, 0), (8, 6), (8, 9), (9, 0)];

    #[test]
    #[ignore = "wants NVRTC, which comes with CUDA: its library in REALM_TEST_NVRTC"]
    fn every_program_is_compiled_for_every_gpu_and_then_found_in_the_cache() {
        let nvrtc = std::env::var_os("REALM_TEST_NVRTC").expect("REALM_TEST_NVRTC is set");
        let folder = tempfile::tempdir().unwrap();
        for capability in CAPABILITIES {
            let compile = || {
                precompile(Some(nvrtc.as_ref()), folder.path(), capability, &[8, 64, 80, 128, 256])
            };
            let first = compile().unwrap();
            assert_eq!(first.programs, 2 + Format::WEIGHTS.len() + 15);
            assert_eq!(compile().unwrap(), first);
        }
        let kept = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(kept, CAPABILITIES.len() * (2 + Format::WEIGHTS.len() + 15));
    }

    #[test]
    #[ignore = "wants NVRTC, which comes with CUDA: its library in REALM_TEST_NVRTC"]
    fn what_the_compiler_refuses_comes_with_its_own_words() {
        let nvrtc = std::env::var_os("REALM_TEST_NVRTC").expect("REALM_TEST_NVRTC is set");
        let compiler = Compiler::load(Some(nvrtc.as_ref())).unwrap();
        let refused = compiler.compile("wrong.cu", "__global__ void f() { nothing(); }", &[]);
        let Err(CompileError::Refused { program, log, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(program, "wrong.cu");
        assert!(log.contains("nothing"), "{log}");
    }

    #[test]
    fn programs_that_differ_are_compiled_apart() {
        let programs = [
            Program::Rows,
            Program::Weights(Format::Q4_0),
            Program::Weights(Format::Q4K),
            Program::Weights(Format::F16),
            Program::Weights(Format::BF16),
            Program::Attention { head_dim: 64, kv_type: KvType::F16 },
            Program::Attention { head_dim: 128, kv_type: KvType::F16 },
            Program::Attention { head_dim: 64, kv_type: KvType::Q8_0 },
        ];
        let made = programs.map(|program| (program.source(), program.options((9, 0))));
        for (index, one) in made.iter().enumerate() {
            assert!(made.iter().skip(index + 1).all(|other| other != one), "{:?}", programs[index]);
        }
    }
}
