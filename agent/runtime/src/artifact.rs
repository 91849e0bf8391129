//! A stranger's bytes become a component that fits our world, or are refused.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod memory64;

use realm_core::desired::Sha256;
use sha2::{Digest as _, Sha256 as Hasher};
use wasmtime::{Engine, component::Component};

use crate::program::ProgramError;

/// Bytes of a component. CPython with its libraries is 20 MB; three times that leaves room, and
/// what it compiles to still fits beside the weights.
pub const PROGRAM_BYTES_MAX: u64 = 64 << 20;

/// What every WebAssembly binary begins with.
const MAGIC: &[u8] = b"\0asm";

/// The version and layer that follow it in a component, and in a core module.
const COMPONENT: &[u8] = &[0x0d, 0x00, 0x01, 0x00];
const CORE_MODULE: &[u8] = &[0x01, 0x00, 0x00, 0x00];

/// What a program may import: these, and nothing of WASI.
const IMPORTS: [&str; 8] = [
    "realm:tenant/types@0.1.0",
    "realm:tenant/model@0.1.0",
    "realm:tenant/reply@0.1.0",
    "realm:tenant/config@0.1.0",
    "realm:tenant/log@0.1.0",
    "realm:tenant/store@0.1.0",
    "realm:tenant/clock@0.1.0",
    "realm:tenant/random@0.1.0",
];

const EXPORT: &str = "realm:tenant/handler@0.1.0";

/// What it may export besides.
const HOOKS: &str = "realm:tenant/hooks@0.1.0";
const HEALTH: &str = "realm:tenant/health@0.1.0";

/// The identity of a component.
pub(crate) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(Hasher::digest(bytes).into())
}

/// Bytes that have the form of a component.
pub(crate) struct Form<'a> {
    bytes: &'a [u8],
    /// Whether its functions are handed values through a 64-bit memory.
    pub(crate) memory64: bool,
}

/// Looks at the form of a file, which takes milliseconds however long it takes to compile.
pub(crate) fn read(bytes: &[u8]) -> Result<Form<'_>, ProgramError> {
    check_form(bytes)?;
    Ok(Form { bytes, memory64: memory64::is_needed(bytes) })
}

/// Compiles a component, which takes from milliseconds to seconds of every core.
pub(crate) fn compile(engine: &Engine, form: &Form<'_>) -> Result<Component, ProgramError> {
    let component = Component::from_binary(engine, form.bytes)
        .map_err(|source| ProgramError::Invalid { source })?;
    if form.memory64 {
        memory64::check(form.bytes)?;
    }
    check_world(engine, &component)?;
    Ok(component)
}

/// Machine code is refused before anything reads it: it would run outside any sandbox.
fn check_form(bytes: &[u8]) -> Result<(), ProgramError> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > PROGRAM_BYTES_MAX {
        return Err(ProgramError::TooLarge { bytes: length, bytes_max: PROGRAM_BYTES_MAX });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(ProgramError::Precompiled);
    }
    match bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(..4)) {
        Some(COMPONENT) => Ok(()),
        Some(CORE_MODULE) => Err(ProgramError::CoreModule),
        Some(_) | None => Err(ProgramError::NotWebAssembly),
    }
}

fn check_world(engine: &Engine, component: &Component) -> Result<(), ProgramError> {
    let world = component.component_type();
    if let Some((name, _)) = world.imports(engine).find(|(name, _)| !IMPORTS.contains(name)) {
        return Err(ProgramError::Import { name: name.to_owned() });
    }
    if world.get_export(engine, EXPORT).is_none() {
        return Err(ProgramError::Export { name: EXPORT });
    }
    Ok(())
}

/// Whether a program stands beside its own generations.
pub(crate) fn has_hooks(engine: &Engine, component: &Component) -> bool {
    component.component_type().get_export(engine, HOOKS).is_some()
}

/// Whether a program says of itself that it works.
pub(crate) fn has_health(engine: &Engine, component: &Component) -> bool {
    component.component_type().get_export(engine, HEALTH).is_some()
}
