//! A beginning that many generations share.

use std::{sync::Arc, time::Instant};

use realm_core::{
    engine::{self, Kept},
    trace::{Key, SpanName},
};
use wasmtime::component::Resource;

use super::{Generation, OpenModel, TextWork, params};
use crate::{
    bindings::realm::tenant::model::{self, Params},
    host::Host,
    refusal::HostError,
};

/// What a program holds of one.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Prefix(Arc<Beginning>);

/// Tokens that generations begin with. There are no more than an engine has places for them.
pub(super) struct Beginning {
    model: OpenModel,
    tokens: Vec<u32>,
    shared_tokens: u32,
    _kept: Kept,
    /// What keeps the first of its blocks.
    _shorter: Option<Arc<Self>>,
}

impl Host {
    /// Computes `tokens` and keeps what `shorter` does not keep of them.
    pub(super) async fn keep_tokens(
        &mut self,
        model: OpenModel,
        work: TextWork,
        (tokens, shared_tokens): (Vec<u32>, u32),
        shorter: Option<Arc<Beginning>>,
    ) -> Result<Resource<Prefix>, HostError> {
        let engine = model.engine.clone();
        let call = self.call()?;
        // Only what serves a function waits for an engine.
        call.writer()?;
        let (prompt, asked) = ((tokens.clone(), 0), params::shortest(shared_tokens));
        let generation = params::check(&call.tenant, call.deadline, engine.info(), prompt, asked)?;
        let generation = engine::Generation { way: call.way.clone(), ..generation };
        let kept_tokens = shorter.as_ref().map_or(0, |shorter| shorter.tokens.len());
        let prefix = engine::Prefix {
            tokens: tokens.clone(),
            kept_tokens: u32::try_from(kept_tokens).unwrap_or(u32::MAX),
            shared_tokens,
            way: call.way.clone(),
        };
        let meter = call.meter()?.clone();
        // Before anything is hashed for what would be refused.
        meter.admitted().check(Instant::now())?;
        // First, so that none of it goes before the last of it is computed.
        let kept = engine.keep(meter.admitted().caller(), prefix)?;
        let mut span = self.begin(SpanName::Generate);
        span.set(Key::ModelName, engine.info().model.as_str());
        let start = move || Ok(Generation::start(&*engine, meter, (generation, None), span));
        let mut computed = work.run(start).await??;
        while computed.next().await?.is_some() {}
        let beginning = Beginning { model, tokens, shared_tokens, _kept: kept, _shorter: shorter };
        Ok(self.table.push(Prefix(Arc::new(beginning)))?)
    }

    fn beginning(&self, prefix: &Resource<Prefix>) -> Result<Arc<Beginning>, HostError> {
        Ok(self.table.get(prefix)?.0.clone())
    }
}

impl model::HostPrefix for Host {
    async fn length(&mut self, prefix: Resource<Prefix>) -> wasmtime::Result<u32> {
        self.enter()?;
        Ok(u32::try_from(self.table.get(&prefix)?.0.tokens.len()).unwrap_or(u32::MAX))
    }

    async fn extend(
        &mut self,
        prefix: Resource<Prefix>,
        tail: Vec<u32>,
    ) -> Result<Resource<Prefix>, HostError> {
        let shorter = self.beginning(&prefix)?;
        let work = self.enter_work(0)?;
        let tokens = [shorter.tokens.as_slice(), &tail].concat();
        let (model, shared_tokens) = (shorter.model.clone(), shorter.shared_tokens);
        self.keep_tokens(model, work, (tokens, shared_tokens), Some(shorter)).await
    }

    async fn generate(
        &mut self,
        prefix: Resource<Prefix>,
        tail: Vec<u32>,
        params: Params,
    ) -> Result<Resource<Generation>, HostError> {
        let beginning = self.beginning(&prefix)?;
        let bytes = size_of_val(self.call()?.writer()?.tracker().resumed());
        let work = self.enter_work(bytes)?;
        let prompt = [beginning.tokens.as_slice(), &tail].concat();
        let public = Some(beginning.shared_tokens);
        self.begin_generation(&beginning.model, work, (prompt, params), public).await
    }

    async fn drop(&mut self, prefix: Resource<Prefix>) -> wasmtime::Result<()> {
        self.table.delete(prefix)?;
        Ok(())
    }
}
