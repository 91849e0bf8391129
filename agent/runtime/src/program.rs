//! A component that has been compiled, linked and asked what it does.

use std::{collections::HashSet, fmt, sync::Arc};

use realm_core::{
    desired::{ProgramLimits, Sha256},
    tenants::FunctionInfo,
};
use thiserror::Error;
use wasmtime::component::Component;

use crate::{
    ahead::Places,
    artifact,
    bindings::{ProgramPre, exports::realm::tenant::handler, hooked::HookedPre},
    checkup,
    host::Host,
    sandbox::Sandbox,
};

/// Functions of one program, and bytes of what it says about each: a description and a schema of
/// some pages. All of it goes into one answer to a client.
const FUNCTIONS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const DESCRIPTION_BYTES_MAX: usize = 2 << 10;
const SCHEMA_BYTES_MAX: usize = 16 << 10;

/// Functions that the server itself serves.
const RESERVED: [&str; 3] = ["health", "metadata", "pipeline"];

/// Why a component is not taken as a program.
#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("the component has {bytes} bytes; {bytes_max} are the most")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("the file is not WebAssembly in its binary form")]
    NotWebAssembly,
    #[error("the file is a core module, not a component")]
    CoreModule,
    #[error("the file is machine code, which is never taken; hand in the component itself")]
    Precompiled,
    #[error("the component is not valid")]
    Invalid { source: wasmtime::Error },
    #[error(
        "the component's parts hand each other values through a 64-bit memory, which this tenant may \
         not have; whoever sets its limits can allow it with `limits.program.memory64`"
    )]
    Memory64,
    #[error("the component {what}")]
    Memory64Unsupported { what: &'static str },
    #[error("the component imports `{name}`, which no program is given")]
    Import { name: String },
    #[error("the component does not export `{name}`")]
    Export { name: &'static str },
    #[error("the component's imports or exports have other types than this version's world")]
    Link { source: wasmtime::Error },
    #[error("the program did not come up")]
    Start { source: wasmtime::Error },
    #[error("the program took longer than {ms} ms to say what it does")]
    StartSlow { ms: u64 },
    #[error("the program says that it does not work: {why}")]
    Unhealthy { why: String },
    #[error("the program failed when it was asked whether it works")]
    Health { source: wasmtime::Error },
    #[error("the program took longer than {ms} ms to say what it does and whether it works")]
    HealthSlow { ms: u64 },
    #[error("the program's function `{name}` {problem}")]
    Function { name: String, problem: &'static str },
    #[error("the program has {count} functions; 1 to {FUNCTIONS_MAX} are allowed")]
    FunctionCount { count: usize },
    #[error("the compiler ended without a result")]
    Compiler,
}

impl ProgramError {
    /// The reason in the tenant's condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "ProgramTooLarge",
            Self::NotWebAssembly | Self::CoreModule | Self::Precompiled | Self::Invalid { .. } => {
                "ProgramInvalid"
            }
            Self::Memory64 => "ProgramMemory64",
            Self::Memory64Unsupported { .. } => "ProgramMemory64Unsupported",
            Self::Import { .. } | Self::Export { .. } | Self::Link { .. } => "ProgramWorldMismatch",
            Self::Start { .. } | Self::StartSlow { .. } => "ProgramStartFailed",
            Self::Unhealthy { .. } | Self::Health { .. } | Self::HealthSlow { .. } => {
                "ProgramUnhealthy"
            }
            Self::Function { .. } | Self::FunctionCount { .. } => "ProgramFunctionsInvalid",
            Self::Compiler => "ProgramCompilerFailed",
        }
    }
}

/// A program that is ready for calls. Tenants with the same component share one.
#[derive(Clone)]
pub struct Prepared(pub(crate) Arc<Program>);

impl Prepared {
    /// The component's own digest.
    pub fn digest(&self) -> Sha256 {
        self.0.digest
    }

    pub fn functions(&self) -> &[FunctionInfo] {
        &self.0.functions
    }

    /// Whether a tenant of these limits may run it. Others with the same component may or may not.
    pub(crate) fn is_allowed(&self, limits: &ProgramLimits) -> bool {
        limits.memory64 || !self.0.memory64
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(&self.0.digest).finish()
    }
}

pub(crate) struct Program {
    pub(crate) digest: Sha256,
    pub(crate) pre: ProgramPre<Host>,
    /// What stands beside its generations, where it has that.
    pub(crate) hooks: Option<HookedPre<Host>>,
    /// Of instances that wait for calls.
    pub(crate) places: Places,
    pub(crate) functions: Vec<FunctionInfo>,
    /// Whether its parts hand each other values through 64-bit memories.
    memory64: bool,
}

/// A component that has been compiled.
pub(crate) struct Compiled {
    pub(crate) digest: Sha256,
    pub(crate) component: Component,
    pub(crate) memory64: bool,
}

/// Links a component and starts it once, outside any tenant, to ask for its functions and, where it
/// says that, whether it works.
pub(crate) async fn prepare(
    sandbox: &Sandbox,
    compiled: &Compiled,
) -> Result<Program, ProgramError> {
    let Compiled { digest, component, memory64 } = compiled;
    let link = |source| ProgramError::Link { source };
    let linked = sandbox.linker.instantiate_pre(component).map_err(link)?;
    let has_hooks = artifact::has_hooks(&sandbox.engine, component);
    let hooks = has_hooks.then(|| HookedPre::new(linked.clone())).transpose().map_err(link)?;
    let pre = ProgramPre::new(linked).map_err(link)?;
    let has_health = artifact::has_health(&sandbox.engine, component);
    let declared = checkup::pass(&pre, has_health).await?;
    let functions = check(declared)?;
    let places = sandbox.places.clone();
    Ok(Program { digest: *digest, pre, hooks, places, functions, memory64: *memory64 })
}

fn check(declared: Vec<handler::FunctionInfo>) -> Result<Vec<FunctionInfo>, ProgramError> {
    if declared.is_empty() || declared.len() > FUNCTIONS_MAX {
        return Err(ProgramError::FunctionCount { count: declared.len() });
    }
    let mut names = HashSet::new();
    let functions: Vec<_> = declared.into_iter().map(function).collect::<Result<_, _>>()?;
    match functions.iter().find(|function| !names.insert(function.name.as_str())) {
        None => Ok(functions),
        Some(twice) => {
            Err(ProgramError::Function { name: twice.name.clone(), problem: "is there twice" })
        }
    }
}

fn function(declared: handler::FunctionInfo) -> Result<FunctionInfo, ProgramError> {
    let handler::FunctionInfo { name, description, params_schema, streams } = declared;
    let problem =
        |problem| ProgramError::Function { name: crate::refusal::cut(name.clone()), problem };
    if !is_name(&name) {
        return Err(problem("has no proper name: 1 to 64 of a-z, 0-9, _, . and -"));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(problem("has a name that the server itself answers to"));
    }
    if description.len() > DESCRIPTION_BYTES_MAX || params_schema.len() > SCHEMA_BYTES_MAX {
        return Err(problem("says too much about itself"));
    }
    match serde_json::from_str(&params_schema) {
        Ok(schema @ serde_json::Value::Object(_)) => {
            Ok(FunctionInfo { name, description, params_schema: schema, streams })
        }
        Ok(_) | Err(_) => Err(problem("has a schema that is not a JSON object")),
    }
}

fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && name.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, schema: &str) -> handler::FunctionInfo {
        handler::FunctionInfo {
            name: name.into(),
            description: String::new(),
            params_schema: schema.into(),
            streams: false,
        }
    }

    #[test]
    fn a_function_needs_a_name_of_its_own_and_a_schema() {
        check(vec![declared("sum-up.v2", "{}"), declared("other", "{}")]).unwrap();
        for bad in ["", "Chat", "9a", "a b", "pipeline", &"a".repeat(65)] {
            check(vec![declared(bad, "{}")]).unwrap_err();
        }
        check(vec![declared("a", "[]")]).unwrap_err();
        check(vec![declared("a", "{")]).unwrap_err();
        check(vec![declared("a", "{}"), declared("a", "{}")]).unwrap_err();
        check(vec![]).unwrap_err();
    }
}
