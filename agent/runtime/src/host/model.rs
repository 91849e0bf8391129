//! `realm:tenant/model`: the models of the program's own tenant.

mod embedding;
mod generation;
mod params;
mod prefix;
mod sequence;

use std::{sync::Arc, time::Instant};

use realm_core::{
    embed::TextBatch,
    engine::{ChatMessage, Engine, TextError},
    hook::Hooked,
    refusal::Refusal,
    trace::{Key, OK, Open, SpanName},
};
use wasmtime::component::Resource;

#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use {generation::Generation, prefix::Prefix};

use self::embedding::Embedding;
use super::{Host, HostCall, give_way};
use crate::{
    asks::Asked,
    bindings::{
        hooked::exports::realm::tenant::hooks::Request,
        realm::tenant::{
            model::{self, Abilities, EmbedParams, Embedded, Info, Params, Summary, Text},
            types::{Message, Token},
        },
    },
    directory::ModelState,
    hook::{self, Begun},
    meter::TokenMeter,
    refusal::{HostError, internal, text},
    texts::{TenantTexts, Texts},
};

/// Bytes that are tokenized on the spot: some tens of microseconds of work, less than handing it
/// to another thread costs. A conversation never is: its template may take far longer than its
/// length says.
const INLINE_BYTES_MAX: usize = 1 << 10;

/// Bytes of text that cost as much as a host call: up to a tenth of a millisecond of work.
const HOST_CALL_TEXT_BYTES: usize = 1 << 10;

/// A model that the program has opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenModel {
    name: String,
    engine: Arc<dyn Engine>,
}

impl HostCall {
    /// The tenant's model of that name. One without a grant does not exist.
    fn open(&self, name: &str) -> Result<Arc<dyn Engine>, Refusal> {
        let grant = self.models.iter().find(|grant| grant.alias == name);
        match grant.map(|grant| &grant.state) {
            None => Err(Refusal::UnknownModel(crate::refusal::cut(name.to_owned()))),
            Some(ModelState::Ready(engine)) => Ok(engine.clone()),
            Some(ModelState::NotReady(reason)) => {
                Err(Refusal::ModelNotReady { model: name.to_owned(), reason: reason.clone() })
            }
        }
    }
}

impl Host {
    /// The engine for work on so much text, which costs host calls by its length.
    fn enter_text(
        &mut self,
        model: &Resource<OpenModel>,
        bytes: usize,
    ) -> Result<(Arc<dyn Engine>, TextWork), HostError> {
        let work = self.enter_work(bytes)?;
        Ok((self.engine(model)?, work))
    }

    /// Work on so much text, which costs host calls by its length.
    fn enter_work(&mut self, bytes: usize) -> Result<TextWork, HostError> {
        let call = self.enter()?;
        let cost = u64::try_from(bytes / HOST_CALL_TEXT_BYTES).unwrap_or(u64::MAX);
        call.host_calls.take(cost)?;
        let (node, tenant) = call.texts.clone();
        let may_wait = !call.role.is_between_tokens();
        Ok(TextWork { bytes, may_wait, call: call.tokens.clone(), node, tenant })
    }

    fn model(&self, model: &Resource<OpenModel>) -> Result<&OpenModel, HostError> {
        Ok(self.table.get(model)?)
    }

    /// Why a model does not do what it is asked for, by the name that its tenant knows it by.
    fn lacks(
        &self,
        model: &Resource<OpenModel>,
        function: &'static str,
    ) -> Result<Refusal, HostError> {
        let OpenModel { name, engine } = self.model(model)?;
        Ok(engine.abilities().lacks(name, function))
    }

    fn engine(&self, model: &Resource<OpenModel>) -> Result<Arc<dyn Engine>, HostError> {
        Ok(self.model(model)?.engine.clone())
    }

    /// What the program's hooks, where it has any, make of a generation that is about to begin.
    async fn ask_hooks(
        &mut self,
        model: &OpenModel,
        prompt: &[u32],
        params: Params,
    ) -> Result<(Params, Option<(Hooked, Asked)>), HostError> {
        let OpenModel { name, engine } = model;
        let (model, vocabulary) = (name.clone(), engine.info().vocabulary);
        let call = self.call()?;
        let Some(hooks) = call.own.instances.hooks.clone() else { return Ok((params, None)) };
        let request = Request { model, prompt: prompt.to_vec(), params };
        let Begun { params, hooked } = hook::begin(&hooks, call, request, vocabulary).await?;
        Ok((params, hooked))
    }

    /// Begins a generation of a call that has entered. Where its prompt begins with a prefix, so many
    /// tokens of it are `public`, whatever anybody says.
    async fn begin_generation(
        &mut self,
        model: &OpenModel,
        work: TextWork,
        (prompt, params): (Vec<u32>, Params),
        public: Option<u32>,
    ) -> Result<Resource<Generation>, HostError> {
        // Before hooks come up for what would be refused.
        self.call()?.meter()?.admitted().check(Instant::now())?;
        let with = |params: Params| Params {
            shared_tokens: public.unwrap_or(params.shared_tokens),
            ..params
        };
        let (params, hooked) = self.ask_hooks(model, &prompt, with(params)).await?;
        let params = with(params);
        let engine = model.engine.clone();
        let call = self.call()?;
        let resumed = call.writer()?.tracker().resumed().len();
        let asked = (prompt, resumed);
        let mut generation =
            params::check(&call.tenant, call.deadline, engine.info(), asked, params)?;
        generation.way.clone_from(&call.way);
        call.writer()?.tracker().begin(&mut generation, || engine.draw_seed());
        let tokens = call.meter()?.clone();
        let mut span = self.begin(SpanName::Generate);
        span.set(Key::ModelName, engine.info().model.as_str());
        let start = move || Ok(Generation::start(&*engine, tokens, (generation, hooked), span));
        let generation = work.run(start).await??;
        Ok(self.table.push(generation)?)
    }
}

/// Work on text that a call may begin.
struct TextWork {
    bytes: usize,
    /// Whether whoever asks may wait for a thread.
    may_wait: bool,
    /// What the call's place among its tenant's calls hangs on.
    call: Option<Arc<TokenMeter>>,
    node: Texts,
    tenant: TenantTexts,
}

impl TextWork {
    /// Runs `work` on what the engine makes of text: here where it is short.
    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, TextError> + Send + 'static,
    ) -> Result<T, HostError> {
        if self.bytes <= INLINE_BYTES_MAX {
            if !self.may_wait {
                give_way().await;
            }
            return Ok(work().map_err(|error| text(&error))?);
        }
        self.run_apart(work).await
    }

    /// Runs `work` in a place for texts, off the scheduler's threads.
    ///
    /// Nothing stops such work half-way, so it holds its places until it is done, even where the
    /// call has ended.
    async fn run_apart<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, TextError> + Send + 'static,
    ) -> Result<T, HostError> {
        let Self { bytes: _, may_wait, call, node, tenant } = self;
        if !may_wait {
            let message = format!("between tokens, text of {INLINE_BYTES_MAX} bytes is the most");
            return Err(Refusal::Unsupported(message).into());
        }
        let closed = |_| internal("the places for work on text are closed");
        let place = node.take(&tenant).await.map_err(closed)?;
        let work = move || {
            let result = work();
            drop((place, call));
            result
        };
        let panicked = |_| internal("the work on a text panicked");
        let result = tokio::task::spawn_blocking(work).await.map_err(panicked)?;
        Ok(result.map_err(|error| text(&error))?)
    }
}

/// Work that leaves a span.
async fn traced<T>(
    mut span: Open,
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let result = work.await;
    span.end(match &result {
        Ok(_) => OK,
        Err(error) => error.code(),
    });
    result
}

/// What a message weighs as text. Many that say nothing are work too.
const fn bytes_of(message: &Message) -> usize {
    let text = message.role.len().saturating_add(message.content.len());
    text.saturating_add(size_of::<ChatMessage>())
}

impl model::Host for Host {
    async fn list_models(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.enter()?.models.iter().map(|grant| grant.alias.clone()).collect())
    }
}

impl model::HostModel for Host {
    async fn open(&mut self, name: String) -> Result<Resource<OpenModel>, HostError> {
        let engine = self.enter()?.open(&name)?;
        Ok(self.table.push(OpenModel { name, engine })?)
    }

    async fn info(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Info> {
        let context_max = self.enter()?.tenant.limits.context_max;
        let model = self.table.get(&model)?;
        let info = model.engine.info();
        Ok(Info {
            name: model.name.clone(),
            architecture: info.architecture.clone(),
            context: info.context.min(context_max),
            vocabulary: info.vocabulary,
            has_chat_template: info.has_chat_template,
        })
    }

    async fn tokenize(
        &mut self,
        model: Resource<OpenModel>,
        text: String,
        special: bool,
    ) -> Result<Vec<u32>, HostError> {
        let (engine, work) = self.enter_text(&model, text.len())?;
        let span = self.begin(SpanName::Tokenize);
        traced(span, work.run(move || engine.tokenize(&text, special))).await
    }

    async fn detokenize(
        &mut self,
        model: Resource<OpenModel>,
        ids: Vec<u32>,
    ) -> Result<Vec<u8>, HostError> {
        let bytes = size_of_val(ids.as_slice());
        let (engine, work) = self.enter_text(&model, bytes)?;
        let span = self.begin(SpanName::Detokenize);
        traced(span, work.run(move || engine.detokenize(&ids))).await
    }

    async fn tokenize_chat(
        &mut self,
        model: Resource<OpenModel>,
        messages: Vec<Message>,
    ) -> Result<Vec<u32>, HostError> {
        let bytes = messages.iter().map(bytes_of).fold(0, usize::saturating_add);
        let (engine, work) = self.enter_text(&model, bytes)?;
        if !engine.generates() {
            // Its template is the least that it lacks.
            return Err(self.lacks(&model, "chat")?.into());
        }
        let messages: Vec<_> = messages
            .into_iter()
            .map(|Message { role, content }| ChatMessage { role, content })
            .collect();
        let span = self.begin(SpanName::TokenizeChat);
        traced(span, work.run_apart(move || engine.tokenize_chat(&messages))).await
    }

    async fn generate(
        &mut self,
        model: Resource<OpenModel>,
        prompt: Vec<u32>,
        params: Params,
    ) -> Result<Resource<Generation>, HostError> {
        // An answer that is resumed is gone through again, which is work on a text of that length.
        let bytes = size_of_val(self.call()?.writer()?.tracker().resumed());
        let (engine, work) = self.enter_text(&model, bytes)?;
        if !engine.generates() {
            return Err(self.lacks(&model, "generate")?.into());
        }
        let model = self.model(&model)?.clone();
        self.begin_generation(&model, work, (prompt, params), None).await
    }

    async fn abilities(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Abilities> {
        let context_max = self.enter()?.tenant.limits.context_max;
        let engine = &self.table.get(&model)?.engine;
        Ok(embedding::abilities(engine.abilities(), context_max))
    }

    async fn embed(
        &mut self,
        model: Resource<OpenModel>,
        texts: Vec<Text>,
        params: EmbedParams,
    ) -> Result<Embedded, HostError> {
        let bytes = texts.iter().map(embedding::bytes_of).fold(0, usize::saturating_add);
        let (engine, work) = self.enter_text(&model, bytes)?;
        if engine.embeds().is_none() {
            return Err(self.lacks(&model, "embed")?.into());
        }
        let call = self.call()?;
        // Only what serves a function waits for an engine.
        call.writer()?;
        let batch =
            TextBatch { way: call.way.clone(), ..embedding::batch(texts, params, call.deadline) };
        let tokens = call.meter()?.clone();
        let mut span = self.begin(SpanName::Embed);
        span.set(Key::ModelName, engine.info().model.as_str());
        let start = move || Ok(Embedding::start(&*engine, &tokens, batch, span));
        // Many texts that say nothing are work too, so they are read where that may take long.
        Ok(work.run_apart(start).await??.end().await?)
    }

    async fn keep(
        &mut self,
        model: Resource<OpenModel>,
        tokens: Vec<u32>,
        shared_tokens: u32,
    ) -> Result<Resource<Prefix>, HostError> {
        let (engine, work) = self.enter_text(&model, 0)?;
        if !engine.generates() {
            return Err(self.lacks(&model, "generate")?.into());
        }
        let model = self.model(&model)?.clone();
        self.keep_tokens(model, work, (tokens, shared_tokens), None).await
    }

    async fn drop(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}

impl model::HostGeneration for Host {
    async fn next(
        &mut self,
        generation: Resource<Generation>,
    ) -> Result<Option<Vec<Token>>, HostError> {
        self.enter()?;
        let generation = self.table.get_mut(&generation)?;
        let tokens = generation.next().await?;
        let made = generation.take_made();
        self.call()?.writer()?.tracker().read(&made);
        Ok(tokens)
    }

    async fn summary(
        &mut self,
        generation: Resource<Generation>,
    ) -> wasmtime::Result<Option<Summary>> {
        self.enter()?;
        Ok(self.table.get(&generation)?.summary())
    }

    async fn drop(&mut self, generation: Resource<Generation>) -> wasmtime::Result<()> {
        self.table.delete(generation)?;
        Ok(())
    }
}
