//! What the client of a resumable call is told with each chunk, so that it can go on elsewhere.
//!
//! Tokens that the program has read since its last chunk belong to the next one. That is true of
//! the built-in program's answers, which are one generation written as it is read; nobody else's
//! calls are followed.

use realm_core::{
    call::{Call, Resume},
    engine::Generation,
    refusal::Refusal,
    reply::Progress,
};

/// The built-in program's functions that answer with one generation.
const RESUMABLE: [&str; 2] = ["generate", "chat"];

/// The bits of a seed that is drawn here: as many as a double holds, which is what many clients
/// read numbers into.
const SEED_BITS: u64 = (1 << 53) - 1;

/// Follows the one generation of a resumable call.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// For the first generation.
    resume: Option<Resume>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// The client is told nothing, and what it was told before is all that it can resume from.
    #[default]
    Silent,
    /// No generation has begun.
    Waiting,
    Following {
        /// The place in the answer of the first of `tokens`.
        first: u64,
        /// Read by the program since the last chunk; no more than the context holds.
        tokens: Vec<u32>,
        /// Until it has been told.
        seed: Option<u64>,
    },
}

impl Tracker {
    /// What a call asks for and its program allows.
    pub(crate) fn of(call: &Call, is_built_in: bool) -> Result<Self, Refusal> {
        let is_allowed = is_built_in && RESUMABLE.contains(&call.function.as_str());
        if call.resume.is_some() && !is_allowed {
            let function = crate::refusal::cut(call.function.clone());
            let message = format!("`{function}` cannot be resumed: the built-in program's");
            return Err(Refusal::Invalid(format!("{message} `generate` and `chat` can")));
        }
        let is_followed = is_allowed && call.resumable;
        let state = if is_followed { State::Waiting } else { State::Silent };
        Ok(Self { resume: call.resume.clone(), state })
    }

    /// What the next generation has to go through again.
    pub(crate) fn resumed(&self) -> &[u32] {
        self.resume.as_ref().map_or(&[], Resume::tokens)
    }

    /// Takes note of a generation, and lets it go on where the call was cut if it is the first.
    /// `draw` gives it a seed if it needs one to be told.
    pub(crate) fn begin(&mut self, generation: &mut Generation, draw: impl FnOnce() -> u64) {
        let resume = self.resume.take();
        let first = resume.as_ref().map_or(0, |resume| to_u64(resume.tokens().len()));
        if let Some(resume) = resume {
            // What the answer was drawn with so far, whatever the call itself names.
            generation.sampling.seed = Some(resume.seed());
            generation.resume = Some(resume);
        }
        self.state = match self.state {
            State::Waiting => {
                let drawn = || draw() & SEED_BITS;
                let seed = *generation.sampling.seed.get_or_insert_with(drawn);
                State::Following { first, tokens: Vec::new(), seed: Some(seed) }
            }
            // Whose tokens a chunk came from could not be said any more.
            State::Following { .. } | State::Silent => State::Silent,
        };
    }

    /// Takes note of tokens that the program has read.
    pub(crate) fn read(&mut self, ids: &[u32]) {
        if let State::Following { tokens, .. } = &mut self.state {
            tokens.extend(ids);
        }
    }

    /// What goes with the next chunk.
    pub(crate) fn tell(&mut self) -> Option<Progress> {
        let State::Following { first, tokens, seed } = &mut self.state else { return None };
        let told = Progress { first: *first, tokens: std::mem::take(tokens), seed: seed.take() };
        *first = first.saturating_add(to_u64(told.tokens.len()));
        Some(told)
    }

    /// The program has written something that no text of tokens is.
    pub(crate) fn stop(&mut self) {
        self.state = State::Silent;
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use realm_core::{books::Way, call::CallId, engine::Sampling};
    use serde_json::Value;

    use super::*;

    fn call(function: &str, resume: Option<Resume>) -> Call {
        let call = Call::new(CallId("1".into()), function, Value::Null);
        Call { resumable: true, resume, ..call }
    }

    fn generation() -> Generation {
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

    #[test]
    fn a_chunk_names_the_tokens_that_were_read_since_the_one_before_it() {
        let mut tracker = Tracker::of(&call("chat", None), true).unwrap();
        let mut first = generation();
        tracker.begin(&mut first, || u64::MAX);
        assert_eq!((first.sampling.seed, first.resume), (Some(SEED_BITS), None));
        tracker.read(&[5]);
        tracker.read(&[6, 7]);
        let told = Progress { first: 0, tokens: vec![5, 6, 7], seed: Some(SEED_BITS) };
        assert_eq!(tracker.tell(), Some(told));
        assert_eq!(tracker.tell(), Some(Progress { first: 3, tokens: Vec::new(), seed: None }));
        tracker.read(&[8]);
        assert_eq!(tracker.tell(), Some(Progress { first: 3, tokens: vec![8], seed: None }));
    }

    #[test]
    fn nothing_is_told_once_a_call_is_more_than_one_generation() {
        for end in [|tracker: &mut Tracker| tracker.begin(&mut generation(), || 0), Tracker::stop] {
            let mut tracker = Tracker::of(&call("chat", None), true).unwrap();
            tracker.begin(&mut generation(), || 0);
            end(&mut tracker);
            tracker.read(&[5]);
            assert_eq!(tracker.tell(), None);
        }
    }

    #[test]
    fn only_the_first_generation_goes_on_where_the_call_was_cut() {
        let resume = Resume::new(vec![3, 4], 2, 7).unwrap();
        let mut tracker = Tracker::of(&call("chat", Some(resume.clone())), true).unwrap();
        assert_eq!(tracker.resumed(), [3, 4]);
        let (mut first, mut second) = (generation(), generation());
        first.sampling.seed = Some(1);
        tracker.begin(&mut first, || 0);
        assert_eq!((first.sampling.seed, first.resume), (Some(7), Some(resume)));
        assert_eq!(tracker.tell(), Some(Progress { first: 2, tokens: Vec::new(), seed: Some(7) }));
        tracker.begin(&mut second, || 0);
        assert_eq!((second.sampling.seed, second.resume), (None, None));
    }

    #[test]
    fn only_the_built_in_programs_answers_can_be_resumed() {
        let resume = || Some(Resume::new(vec![1], 1, 7).unwrap());
        for (function, is_built_in) in
            [("tokenize", true), ("pipeline", true), ("chat", false), ("generate", false)]
        {
            let refused = Tracker::of(&call(function, resume()), is_built_in);
            assert!(matches!(refused, Err(Refusal::Invalid(_))), "{function}");
            let ignored = Tracker::of(&call(function, None), is_built_in).unwrap().tell();
            assert_eq!(ignored, None, "{function}");
        }
        for function in RESUMABLE {
            Tracker::of(&call(function, resume()), true).unwrap();
        }
    }
}
