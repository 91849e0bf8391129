//! `realm:tenant/reply`: what the program sends to its client.

use super::Host;
use crate::bindings::realm::tenant::reply;

impl reply::Host for Host {
    async fn write_text(&mut self, text: String) -> wasmtime::Result<()> {
        Ok(self.enter()?.writer.write_text(text).await?)
    }

    async fn write_json(&mut self, json: String) -> wasmtime::Result<()> {
        Ok(self.enter()?.writer.write_json(&json).await?)
    }
}
