//! `realm:tenant/config`: what the tenant's owner has set for the program.

use super::Host;
use crate::bindings::realm::tenant::config;

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        let program = self.enter()?.tenant.program.as_ref();
        Ok(program.and_then(|program| program.config.get(&key)).cloned())
    }

    fn tenant(&mut self) -> wasmtime::Result<String> {
        Ok(self.enter()?.tenant.name.as_str().to_owned())
    }
}
