//! What the trace of a call says of one sequence: when the engine had come how far with it.

use std::{sync::Arc, time::Instant};

use realm_core::{
    engine::{Generation, Milestones, TokenEvent, Usage},
    trace::{CANCELLED, Key, Moment, OK, Open, SpanName},
};

/// The span of a sequence. Dropped before its end, the sequence was cancelled.
pub(super) struct Traced {
    span: Open,
    /// `None` where nothing is recorded, and after the end.
    milestones: Option<Arc<Milestones>>,
    begun_at: Instant,
    usage: Usage,
}

impl Traced {
    /// Lets the engine note how far it comes with `generation`, where that is recorded.
    pub(super) fn begin(span: Open, generation: &mut Generation) -> Self {
        let milestones = span.scope().is_on().then(Arc::<Milestones>::default);
        generation.milestones.clone_from(&milestones);
        Self { span, milestones, begun_at: Instant::now(), usage: Usage::default() }
    }

    pub(super) fn paid(&mut self, prompt_tokens: u32) {
        self.usage.prompt_tokens = prompt_tokens;
    }

    pub(super) fn heard(&mut self, event: &TokenEvent) {
        match event {
            TokenEvent::Cached(_) | TokenEvent::Rest(_) => {}
            TokenEvent::Token(_) => self.count(1),
            TokenEvent::Unsaid(tokens) => self.count(*tokens),
            TokenEvent::Finished { finish: _, usage } => {
                self.usage = *usage;
                self.end(OK);
            }
            TokenEvent::Failed(refusal) => self.end(refusal.code()),
        }
    }

    const fn count(&mut self, tokens: u32) {
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(tokens);
    }

    /// Ends the span. The first end counts.
    pub(super) fn end(&mut self, outcome: &'static str) {
        let Some(milestones) = self.milestones.take() else { return };
        let Milestones { started, first_token, ended } = &*milestones;
        let ended = ended.get().copied().unwrap_or_else(Instant::now);
        let (started, first_token) = (started.get().copied(), first_token.get().copied());
        if let Some((_, cached_tokens)) = started {
            self.usage.cached_tokens = cached_tokens;
        }
        let stages = [
            (SpanName::Queue, Some(self.begun_at), started.map(|(at, _)| at)),
            (SpanName::Prefill, started.map(|(at, _)| at), first_token),
            (SpanName::Decode, first_token, None),
        ];
        let scope = self.span.scope();
        for (name, from, to) in stages {
            if let Some(from) = from {
                // Whichever it had not come through is the one that it ended in.
                let how = if to.is_some() { OK } else { outcome };
                scope.record(name, from, to.unwrap_or(ended), how);
            }
        }
        if let Some(at) = first_token {
            self.span.mark(Moment::FirstToken, at);
        }
        let Usage { prompt_tokens, cached_tokens, completion_tokens } = self.usage;
        self.span.set(Key::SequenceInput, prompt_tokens);
        self.span.set(Key::SequenceCached, cached_tokens);
        self.span.set(Key::SequenceOutput, completion_tokens);
        self.span.end(outcome);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use realm_core::{
        books::Way,
        engine::{Finish, Sampling},
        name::TenantName,
        refusal::Refusal,
        trace::{Finished, Outside, Ratio, Tracer, Value},
    };

    use super::*;

    pub(crate) fn generation() -> Generation {
        Generation {
            prompt: vec![1],
            shared_tokens: 0,
            sampling: Sampling::default(),
            bias: Vec::new(),
            tokens_max: None,
            stop: Vec::new(),
            constraint: None,
            deadline: None,
            resume: None,
            way: Way::Direct,
            milestones: None,
        }
    }

    /// What a sequence that came so far leaves, as `name: outcome, milliseconds`.
    fn check(reached: &[u64], last: Option<&TokenEvent>, expected: &[(&str, &str, u64)]) {
        let outside = Outside { now: Instant::now, date: SystemTime::now, draw: || Some(7) };
        let sampling = realm_core::trace::Sampling { heeds_parent: true, ratio: Ratio::ALL };
        let (tracer, mut queue) = Tracer::new(sampling, outside);
        let call = tracer.begin(&TenantName::new("d", "a").unwrap(), None, Instant::now());
        let mut generation = generation();
        let span = call.scope().begin(SpanName::Generate);
        let mut traced = Traced::begin(span, &mut generation);
        traced.paid(10);
        let milestones = generation.milestones.unwrap();
        let at = |ms: &u64| traced.begun_at + Duration::from_millis(*ms);
        let mut reached = reached.iter().map(at);
        if let Some(at) = reached.next() {
            milestones.started.set((at, 4)).unwrap();
        }
        if let Some(at) = reached.next() {
            milestones.first_token.set(at).unwrap();
        }
        if let Some(at) = reached.next() {
            milestones.ended.set(at).unwrap();
        }
        if let Some(event) = last {
            traced.heard(event);
        }
        drop((traced, call));
        let Finished { spans, .. } = queue.finished.try_recv().unwrap();
        let seen: Vec<_> = spans
            .iter()
            .filter(|span| ["queue", "prefill", "decode"].contains(&span.name.as_str()))
            .map(|span| {
                let ms = (span.end - span.start).as_millis();
                (span.name.as_str(), span.outcome, u64::try_from(ms).unwrap())
            })
            .collect();
        assert_eq!(seen, expected);
        let generate = spans.iter().find(|span| span.name == SpanName::Generate).unwrap();
        assert!(generate.attributes.contains(&(Key::SequenceInput, Value::Count(10))));
    }

    #[test]
    fn a_sequence_waits_computes_its_prompt_and_makes_its_answer() {
        let usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 3 };
        let end = TokenEvent::Finished { finish: Finish::Stop, usage };
        let stages = [("queue", "ok", 5), ("prefill", "ok", 20), ("decode", "ok", 75)];
        check(&[5, 25, 100], Some(&end), &stages);
    }

    #[test]
    fn a_sequence_that_ends_early_says_where() {
        let failed = TokenEvent::Failed(Refusal::SlowReader);
        let stages = [("queue", "ok", 5), ("prefill", "ok", 20), ("decode", "slow_reader", 75)];
        check(&[5, 25, 100], Some(&failed), &stages);
        check(&[], None, &[("queue", "cancelled", 0)]);
    }
}
