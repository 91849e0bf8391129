//! What a file says about itself.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::BTreeMap;

use realm_core::report::ModelFacts;

use super::{Gguf, GgufError, required};

impl Gguf {
    /// Whether the file is an adapter of some model, and no model itself.
    pub fn is_adapter(&self) -> Result<bool, GgufError> {
        Ok(self.text("general.type")? == Some("adapter"))
    }

    /// The facts of the model, read from the header alone; of an adapter those that it has, with a
    /// context of 0, which is its model's. The digest is the store's to know.
    pub fn facts(&self) -> Result<ModelFacts, GgufError> {
        let architecture =
            required("general.architecture", self.text("general.architecture")?)?.to_owned();
        let key = format!("{architecture}.context_length");
        let context = if self.is_adapter()? { 0 } else { required(&key, self.unsigned(&key)?)? };
        let mut parameters = 0_u64;
        let mut weights_bytes = 0_u64;
        let mut by_format = BTreeMap::<String, u64>::new();
        for tensor in self.tensors() {
            let elements = tensor.elements();
            parameters = parameters.saturating_add(elements);
            weights_bytes =
                weights_bytes.saturating_add(u64::try_from(tensor.bytes()).unwrap_or(u64::MAX));
            let held = by_format.entry(tensor.format.to_string()).or_default();
            *held = held.saturating_add(elements);
        }
        let format = by_format
            .into_iter()
            .max_by_key(|&(_, elements)| elements)
            .map_or_else(|| "none".to_owned(), |(format, _)| format);
        let licence = self.text("general.license")?.map(str::to_owned);
        Ok(ModelFacts {
            architecture,
            parameters,
            format,
            context,
            licence,
            weights_bytes,
            memory: None,
            sha256: None,
        })
    }
}
