//! Texts that a program has embedded, whose every token is paid for.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{sync::Arc, time::Instant};

use realm_core::{
    books::Way,
    call::Deadline,
    embed::{self, EmbedError, EmbeddedReply, TakenTexts, TextBatch},
    engine::{Engine, Milestones},
    refusal::Refusal,
    trace::{self, CANCELLED, Key, OK, Open, SpanName},
};

use crate::{
    bindings::realm::tenant::model::{Abilities, EmbedInfo, EmbedParams, Embedded, Text},
    meter::TokenMeter,
    refusal::internal,
};

/// What a text weighs. Many that say nothing are work too.
pub(super) fn bytes_of(text: &Text) -> usize {
    let bytes = match text {
        Text::Words(words) => words.len(),
        Text::Tokens(ids) => size_of_val(ids.as_slice()),
    };
    bytes.saturating_add(size_of::<Text>())
}

pub(super) fn batch(texts: Vec<Text>, params: EmbedParams, deadline: Deadline) -> TextBatch {
    let EmbedParams { dimensions, normalize } = params;
    let text = |text| match text {
        Text::Words(words) => embed::Text::Words(words),
        Text::Tokens(ids) => embed::Text::Tokens(ids),
    };
    TextBatch {
        texts: texts.into_iter().map(text).collect(),
        dimensions: dimensions.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        normalize,
        deadline: Some(deadline.at()),
        way: Way::Direct,
        milestones: None,
    }
}

/// What a model can be asked for by a tenant whose texts may have so many tokens.
pub(super) fn abilities(abilities: embed::Abilities, context_max: u32) -> Abilities {
    let embed::Abilities { generates, chats, embeds } = abilities.within(context_max);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let embeds = embeds.map(|info| EmbedInfo {
        dimensions: count(info.dimensions),
        tokens_max: count(info.tokens_max),
        shortens: info.shortens,
    });
    Abilities { generates, chats, embeds }
}

/// Texts that an engine computes. Dropping it cancels what is not computed yet.
///
/// All of their tokens are paid for when the engine takes them, as those of a prompt are. How many
/// they are only the engine knows, which asks before it takes them.
pub(super) struct Embedding {
    reply: EmbeddedReply,
    traced: Traced,
}

impl Embedding {
    /// Hands texts to the engine, which reads them first: work for a thread that may take its time.
    pub(super) fn start(
        engine: &dyn Engine,
        tokens: &TokenMeter,
        mut batch: TextBatch,
        span: Open,
    ) -> Result<Self, Refusal> {
        tokens.admitted().check(Instant::now())?;
        let mut traced = Traced::begin(span, &mut batch);
        let admitted = tokens.admitted();
        let mut reserve = None;
        let mut allow = |count| {
            reserve = Some(admitted.reserve_texts(count, Instant::now())?);
            Ok(())
        };
        let taken = engine.embed(admitted.caller(), batch, &mut allow);
        let taken = taken.map_err(EmbedError::refusal);
        let TakenTexts { tokens: prompt_tokens, reply } =
            taken.inspect_err(|refusal| traced.end(refusal.code()))?;
        let Some(mut reserve) = reserve else {
            return Err(internal("an engine took texts that it had not asked for"));
        };
        tokens.spend_input(&mut reserve, prompt_tokens);
        traced.tokens = prompt_tokens;
        Ok(Self { reply, traced })
    }

    /// Waits for the vectors.
    pub(super) async fn end(mut self) -> Result<Embedded, Refusal> {
        let ended = match self.reply.await {
            Ok(ended) => ended,
            Err(_gone) => Err(internal("an engine dropped texts without an end")),
        };
        self.traced.end(trace::outcome(&ended));
        let embed::Embedded { vectors, tokens } = ended?;
        Ok(Embedded { vectors, tokens })
    }
}

/// The span of texts. Dropped before its end, they were cancelled.
struct Traced {
    span: Open,
    /// `None` where nothing is recorded, and after the end.
    milestones: Option<Arc<Milestones>>,
    begun_at: Instant,
    tokens: u32,
}

impl Traced {
    /// Lets the engine note how far it comes with `batch`, where that is recorded.
    fn begin(span: Open, batch: &mut TextBatch) -> Self {
        let milestones = span.scope().is_on().then(Arc::<Milestones>::default);
        batch.milestones.clone_from(&milestones);
        Self { span, milestones, begun_at: Instant::now(), tokens: 0 }
    }

    /// Ends the span. The first end counts.
    fn end(&mut self, outcome: &'static str) {
        let Some(milestones) = self.milestones.take() else { return };
        let ended = milestones.ended.get().copied().unwrap_or_else(Instant::now);
        let scope = self.span.scope();
        match milestones.started.get() {
            // It ended where it waited.
            None => scope.record(SpanName::Queue, self.begun_at, ended, outcome),
            Some((started, _)) => {
                scope.record(SpanName::Queue, self.begun_at, *started, OK);
                scope.record(SpanName::Prefill, *started, ended, outcome);
            }
        }
        self.span.set(Key::SequenceInput, self.tokens);
        self.span.end(outcome);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use realm_core::{
        name::TenantName,
        trace::{Finished, Outside, Ratio, Sampling, Tracer, Value},
    };

    use super::*;

    /// What texts that came so far leave, as `name: outcome, milliseconds`.
    fn check(reached: &[u64], outcome: Option<&'static str>, expected: &[(&str, &str, u64)]) {
        let outside = Outside { now: Instant::now, date: SystemTime::now, draw: || Some(7) };
        let sampling = Sampling { heeds_parent: true, ratio: Ratio::ALL };
        let (tracer, mut queue) = Tracer::new(sampling, outside);
        let call = tracer.begin(&TenantName::new("d", "a").unwrap(), None, Instant::now());
        let params = EmbedParams { dimensions: None, normalize: true };
        let mut batch = batch(Vec::new(), params, Deadline::after(Instant::now(), 1));
        let mut traced = Traced::begin(call.scope().begin(SpanName::Embed), &mut batch);
        traced.tokens = 10;
        let milestones = batch.milestones.unwrap();
        let at = |ms: &u64| traced.begun_at.checked_add(Duration::from_millis(*ms)).unwrap();
        let mut reached = reached.iter().map(at);
        if let Some(at) = reached.next() {
            milestones.started.set((at, 0)).unwrap();
        }
        if let Some(at) = reached.next() {
            milestones.ended.set(at).unwrap();
        }
        if let Some(outcome) = outcome {
            traced.end(outcome);
        }
        drop((traced, call));
        let Finished { spans, .. } = queue.finished.try_recv().unwrap();
        let stages = spans.iter().filter(|span| ["queue", "prefill"].contains(&span.name.as_str()));
        let seen: Vec<_> = stages
            .map(|span| {
                let ms = span.end.duration_since(span.start).as_millis();
                (span.name.as_str(), span.outcome, u64::try_from(ms).unwrap())
            })
            .collect();
        assert_eq!(seen, expected);
        let embed = spans.iter().find(|span| span.name == SpanName::Embed).unwrap();
        assert!(embed.attributes.contains(&(Key::SequenceInput, Value::Count(10))));
        assert_eq!(embed.outcome, outcome.unwrap_or(CANCELLED));
    }

    #[test]
    fn texts_wait_and_are_computed() {
        check(&[5, 25], Some(OK), &[("queue", "ok", 5), ("prefill", "ok", 20)]);
    }

    #[test]
    fn texts_that_end_early_say_where() {
        let late = "deadline_exceeded";
        check(&[5, 25], Some(late), &[("queue", "ok", 5), ("prefill", late, 20)]);
        check(&[], None, &[("queue", "cancelled", 0)]);
    }
}
