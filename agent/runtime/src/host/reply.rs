//! `realm:tenant/reply`: what the program sends to its client.

use super::{Host, scored};
use crate::bindings::realm::tenant::{reply, types::Logprobs};

impl reply::Host for Host {
    async fn write_text(&mut self, text: String) -> wasmtime::Result<()> {
        Ok(self.enter()?.writer()?.write_text(text).await?)
    }

    async fn write_scored(
        &mut self,
        text: String,
        logprobs: Vec<Logprobs>,
    ) -> wasmtime::Result<()> {
        let writer = self.enter()?.writer()?;
        Ok(writer.write_scored(text, scored::read(logprobs)?).await?)
    }

    async fn write_json(&mut self, json: String) -> wasmtime::Result<()> {
        Ok(self.enter()?.writer()?.write_json(&json).await?)
    }
}
