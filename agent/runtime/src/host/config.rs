//! `realm:tenant/config`: what the tenant's owner has set for the program.

use super::Host;
use crate::bindings::realm::tenant::config;

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.enter()?.tenant.config.get(&key).cloned())
    }

    fn tenant(&mut self) -> wasmtime::Result<String> {
        Ok(self.enter()?.tenant.name.as_str().to_owned())
    }
}
