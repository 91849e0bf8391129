//! What one node has for models, and how busy it is.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use crate::{engine::EngineLoad, name::ModelName};

/// What a node has for models, and how busy it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Memory of the host that models may take, and what of it is free.
    pub memory_bytes_total: u64,
    pub memory_bytes_free: u64,
    /// Each under another name.
    pub devices: Vec<Device>,
    /// Where clients and other agents reach this one; `None` while nothing listens there.
    pub door: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// Takes no new calls and models, because it is about to go.
    pub is_draining: bool,
    /// Each loaded model once.
    pub models: Vec<ModelLoad>,
    /// What the door holds of calls for models that nobody serves yet, each model once.
    pub held: Vec<HeldCalls>,
}

/// What computes on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique on its node, such as `cuda0`; never empty.
    pub name: String,
    pub kind: DeviceKind,
    /// What the maker calls it.
    pub product: String,
    /// Memory of its own; 0 for a device that uses the host's.
    pub memory_bytes_total: u64,
    pub memory_bytes_free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    Cuda,
    WebGpu,
}

/// How busy one loaded model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLoad {
    pub model: ModelName,
    pub load: EngineLoad,
}

/// Calls that wait at a door for a model to be loaded somewhere, which is what wakes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCalls {
    pub model: ModelName,
    /// At least 1.
    pub calls: u32,
}

/// What opens the sources of models: all of them. Kept in memory only, never in the ledger.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(pub BTreeMap<ModelName, Vec<u8>>);

impl fmt::Debug for Credentials {
    /// Says whose they are, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_never_printed() {
        let model = ModelName::parse("default/tiny").expect("it is a name");
        let printed = format!("{:?}", Credentials([(model, vec![42; 3])].into()));
        assert!(printed.contains("default/tiny") && !printed.contains("42"), "{printed}");
    }
}
