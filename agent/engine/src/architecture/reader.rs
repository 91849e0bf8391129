//! Hyperparameters by their names in a file, each checked as it is read.

use super::ArchitectureError;
use crate::gguf::{Gguf, required};

/// Reads hyperparameters under one architecture's prefix.
pub(super) struct Reader<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) prefix: &'static str,
}

impl Reader<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(super) fn unsigned(&self, name: &str) -> Result<Option<u32>, ArchitectureError> {
        self.gguf.unsigned(&self.key(name)).map_err(ArchitectureError::Metadata)
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f32>, ArchitectureError> {
        let key = self.key(name);
        let value = self.gguf.float(&key).map_err(ArchitectureError::Metadata)?;
        match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(ArchitectureError::Number { key, value })
            }
            value => Ok(value),
        }
    }

    /// A truth value that may be absent.
    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ArchitectureError> {
        self.gguf.boolean(&self.key(name)).map_err(ArchitectureError::Metadata)
    }

    /// A number from 1 to `max` that must be there.
    pub(super) fn count(&self, name: &str, max: u32) -> Result<usize, ArchitectureError> {
        let value =
            required(&self.key(name), self.unsigned(name)?).map_err(ArchitectureError::Metadata)?;
        self.check(name, value, value >= 1 && value <= max, "it must be positive and sane")?;
        Ok(value as usize)
    }

    pub(super) fn check(
        &self,
        name: &str,
        value: u32,
        holds: bool,
        wanted: &'static str,
    ) -> Result<(), ArchitectureError> {
        let key = self.key(name);
        if holds { Ok(()) } else { Err(ArchitectureError::Value { key, value, wanted }) }
    }

    /// A text that may be absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ArchitectureError> {
        self.gguf.text(&self.key(name)).map_err(ArchitectureError::Metadata)
    }

    /// A number from 1 to `max` that may be absent.
    pub(super) fn optional_count(
        &self,
        name: &str,
        max: u32,
    ) -> Result<Option<usize>, ArchitectureError> {
        self.unsigned(name)?.map(|_| self.count(name, max)).transpose()
    }

    /// A positive number that must be there.
    pub(super) fn number(&self, name: &str) -> Result<f32, ArchitectureError> {
        required(&self.key(name), self.float(name)?).map_err(ArchitectureError::Metadata)
    }
}
