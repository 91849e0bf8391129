//! Through which 64-bit memories a component's functions are handed values.
//!
//! Between the parts of one component the compiler's adapters read and write such a memory as the
//! component model says. Where a component meets the host they do not: the host reads the low half
//! of each pointer, and finds what lies in memory where it would lie in a 32-bit one.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::HashSet;

use wasmtime_environ::{
    IndexType, MemoryIndex, ModuleTranslation, PrimaryMap, ScopeVec, StaticModuleIndex, Tunables,
    WasmValType,
    component::{
        CanonicalOptions, Component, ComponentTypesBuilder, CoreExport, ExportItem, ExtractMemory,
        GlobalInitializer, InstantiateModule, RuntimeInstanceIndex, Translator,
    },
    wasmparser::{Parser, Validator, WasmFeatures},
};

use crate::program::ProgramError;

/// Whether any function of a component is handed values through a 64-bit memory: whether it is valid
/// with that and not without. One that only computes in such a memory is not one of these.
pub(super) fn is_needed(bytes: &[u8]) -> bool {
    let without = WasmFeatures::all().difference(WasmFeatures::CM64);
    !is_valid(bytes, without) && is_valid(bytes, WasmFeatures::all())
}

/// All but the bodies of functions, which do not say what these are handed.
fn is_valid(bytes: &[u8], features: WasmFeatures) -> bool {
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    parser.parse_all(bytes).all(|part| part.is_ok_and(|part| validator.payload(&part).is_ok()))
}

/// Refuses a valid component whose values the host would misread.
pub(super) fn check(bytes: &[u8]) -> Result<(), ProgramError> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut types = ComponentTypesBuilder::new(&validator);
    let (tunables, adapters) = (Tunables::default_host(), ScopeVec::new());
    // What the compiler makes of a component before it compiles: all its parts as one, and of their
    // functions those that the host calls or is called by.
    let (whole, modules) = Translator::new(&tunables, &mut validator, &mut types, &adapters)
        .translate(bytes)
        .map_err(|source| ProgramError::Invalid { source })?;
    if has_wide_resources(&whole.component) {
        return Err(ProgramError::Memory64Unsupported {
            what: "has resources of 64 bits, of which the host keeps 32",
        });
    }
    if meets_the_host(&whole.component, &modules) {
        return Err(ProgramError::Memory64Unsupported {
            what: "hands the host values through a 64-bit memory, of whose pointers it reads 32 \
                   bits; let a part with a 32-bit memory stand between the two",
        });
    }
    Ok(())
}

fn has_wide_resources(component: &Component) -> bool {
    component.initializers.iter().any(|initializer| match initializer {
        GlobalInitializer::Resource(resource) => resource.rep != WasmValType::I32,
        _ => false,
    })
}

/// Whether a function that the host calls, or that calls it, is handed values through a 64-bit
/// memory.
fn meets_the_host(component: &Component, modules: &Modules<'_>) -> bool {
    let mut instances = Instances::new();
    let mut wide = HashSet::new();
    // In the order in which a component comes up: a memory is found in an instance that is there.
    for initializer in &component.initializers {
        match initializer {
            GlobalInitializer::InstantiateModule(InstantiateModule::Static(module, _), _) => {
                instances.push(Some(*module));
            }
            GlobalInitializer::InstantiateModule(InstantiateModule::Import(..), _) => {
                instances.push(None);
            }
            GlobalInitializer::ExtractMemory(ExtractMemory { index, export })
                if is_wide(export, &instances, modules) =>
            {
                wide.insert(*index);
            }
            _ => {}
        }
    }
    let mut memories = component.options.values().filter_map(CanonicalOptions::memory);
    memories.any(|memory| wide.contains(&memory))
}

/// The core modules of a component.
type Modules<'a> = PrimaryMap<StaticModuleIndex, ModuleTranslation<'a>>;

/// What its core instances are of; nothing, of one whose module it imports.
type Instances = PrimaryMap<RuntimeInstanceIndex, Option<StaticModuleIndex>>;

/// Whether a memory is, or may be, one of 64 bits.
fn is_wide(export: &CoreExport<MemoryIndex>, instances: &Instances, modules: &Modules<'_>) -> bool {
    let module = instances.get(export.instance).copied().flatten();
    let memory = match export.item {
        ExportItem::Index(memory) => Some(memory),
        ExportItem::Name(_) => None,
    };
    let memory = module
        .zip(memory)
        .and_then(|(module, memory)| modules.get(module)?.module.memories.get(memory));
    memory.is_none_or(|memory| memory.idx_type != IndexType::I32)
}
