//! What one sequence's hook has been asked and has said, and the tokens that wait for it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use realm_core::{
    engine::{Finish, Token, Usage},
    hook::{Answer, Hooked, Overruns, Question, Stages, Steer, Verdict},
};

use super::threads::Placed;
use crate::constraint::places::Place;

/// Tokens that a hook may be behind. As many as a hundredth of a second's worth at the highest
/// rates; from there on the sequence goes at the pace of its hook.
const BEHIND_MAX: usize = 16;

/// What stands beside one sequence.
pub(crate) struct Beside {
    /// `None` while it works.
    placed: Option<Placed>,
    stages: Stages,
    deadline: Duration,
    overruns: Overruns,
    steer: Option<Steer>,
    /// Chosen, and not yet told by the hook what becomes of them. The first is what it works on,
    /// unless it is still asked about the beginning.
    behind: VecDeque<Told>,
    has_begun: bool,
    /// When the last of them was chosen, or the sequence begun.
    since: Instant,
    /// How the sequence has ended, where the hook has not come to its end.
    ended: Option<(Finish, Usage)>,
}

/// A token that a hook is told of.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) token: Token,
    pub(crate) finish: Option<Finish>,
    pub(crate) at: Instant,
    /// Whether its text waits for what the hook says of it.
    pub(crate) waits: bool,
}

/// What a hook's answer comes to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// To be sent.
    pub(crate) token: Option<Token>,
    /// How the sequence has ended with it, and with what usage if that is known.
    pub(crate) end: Option<(Finish, Option<Usage>)>,
}

impl Beside {
    pub(crate) fn new(hooked: Hooked, place: Place, now: Instant) -> Self {
        let Hooked { hook, stages, deadline, overruns } = hooked;
        Self {
            placed: Some(Placed::new(hook, place)),
            stages,
            deadline,
            overruns,
            steer: None,
            behind: VecDeque::new(),
            has_begun: !stages.have(Stages::BIAS),
            since: now,
            ended: None,
        }
    }

    /// The hook, to be put to work on the beginning; once, and where it is to be asked of that.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Placed> {
        if self.has_begun || !self.behind.is_empty() {
            return None;
        }
        let mut placed = self.placed.take()?;
        self.since = now;
        placed.hook.ask(Question::Begin);
        Some(placed)
    }

    /// Whether the next token may be chosen.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        let is_idle = self.placed.is_some() && self.behind.is_empty() && self.has_begun;
        let is_overdue = now.saturating_duration_since(self.since) >= self.deadline;
        is_idle
            || (self.behind.len() < BEHIND_MAX && (!self.stages.have(Stages::BIAS) || is_overdue))
    }

    /// Takes note of a token that is chosen now.
    pub(crate) fn count_choice(&self) {
        // Otherwise what was said last is not what the hook would say of this one.
        if self.stages.have(Stages::BIAS) && (self.placed.is_none() || !self.behind.is_empty()) {
            self.overruns.count();
        }
    }

    /// What was said last of the next token.
    pub(crate) const fn steer(&self) -> Option<&Steer> {
        self.steer.as_ref()
    }

    /// Tokens whose text waits for the hook.
    pub(crate) fn behind(&self) -> usize {
        self.behind.iter().filter(|told| told.waits).count()
    }

    /// Whether the hook is told of a token.
    pub(crate) fn hears(&self, finish: Option<Finish>) -> bool {
        // Nothing comes behind the last one that could be steered.
        self.rewrites(finish) || (self.stages.have(Stages::BIAS) && finish.is_none())
    }

    /// Whether the hook has a say in a token's text.
    pub(crate) fn rewrites(&self, finish: Option<Finish>) -> bool {
        self.stages.have(Stages::TOKEN) || (self.stages.have(Stages::FINISH) && finish.is_some())
    }

    /// Queues a token for the hook; gives that if it is idle, to be put to work.
    pub(crate) fn tell(&mut self, told: Told) -> Option<Placed> {
        self.since = told.at;
        self.behind.push_back(told);
        self.next()
    }

    /// Keeps how the sequence has ended until its hook has come to that.
    pub(crate) const fn end(&mut self, finish: Finish, usage: Usage) {
        self.ended = Some((finish, usage));
    }

    /// Takes the hook back with what it has said, and when.
    pub(crate) fn heard(
        &mut self,
        placed: Placed,
        answer: Answer,
        answered_at: Instant,
    ) -> Outcome {
        self.placed = Some(placed);
        let Answer { verdict, steer } = answer;
        if let Some(steer) = steer {
            // Nothing is added where nothing is said to be.
            let is_none = matches!(&steer, Steer::Add(biases) if biases.is_empty());
            self.steer = (!is_none).then_some(steer);
        }
        if !self.has_begun {
            self.has_begun = true;
            return Outcome::default();
        }
        let Some(Told { mut token, finish, at, waits }) = self.behind.pop_front() else {
            return Outcome::default();
        };
        let is_late = answered_at.saturating_duration_since(at) >= self.deadline;
        if is_late && !self.stages.have(Stages::BIAS) {
            self.overruns.count();
        }
        let (text, stops) = match verdict {
            Verdict::Pass => (None, false),
            Verdict::Rewrite(text) => (Some(text), false),
            Verdict::Stop(text) => (Some(text), true),
        };
        if let Some(text) = text {
            // What is told of the token would tell its text.
            token = Token { id: token.id, text, logprobs: None };
        }
        let token = waits.then_some(token);
        let end = if stops {
            Some((Finish::Stop, self.ended.map(|(_, usage)| usage)))
        } else if finish.is_some() {
            self.ended.map(|(finish, usage)| (finish, Some(usage)))
        } else {
            None
        };
        Outcome { token, end }
    }

    /// Drops the tokens that wait for the hook, and says how many they are: they were made and are
    /// paid for, and the answer has ended before them.
    pub(crate) fn silence(&mut self) -> u32 {
        let behind = self.behind();
        self.behind.clear();
        u32::try_from(behind).unwrap_or(u32::MAX)
    }

    /// The hook, to be put to work on the next token that waits for it.
    pub(crate) fn next(&mut self) -> Option<Placed> {
        let Told { token, finish, .. } = self.behind.front()?;
        if !self.has_begun {
            return None;
        }
        let question = Question::Token { id: token.id, text: token.text.clone(), finish: *finish };
        let mut placed = self.placed.take()?;
        placed.hook.ask(question);
        Some(placed)
    }

    /// The hook, if it does not work.
    pub(crate) const fn take(&mut self) -> Option<Placed> {
        self.placed.take()
    }
}
