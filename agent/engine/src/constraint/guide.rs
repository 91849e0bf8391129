//! How far the next mask of one sequence is, and logits that came before it.

use realm_grammar::{Mask, Matcher};

use super::masks::Begin;

/// What keeps one sequence to its grammar.
pub(crate) struct Guide {
    state: State,
    /// Logits that wait for their mask; empty if there are none. Kept, so that waiting allocates
    /// once for a sequence.
    logits: Vec<f32>,
}

enum State {
    /// Its sequence has not been in a step.
    Fresh(Begin),
    /// The mask is being computed.
    Awaited,
    Ready(Box<Matcher>, Mask),
}

impl Guide {
    pub(crate) const fn new(begin: Begin) -> Self {
        Self { state: State::Fresh(begin), logits: Vec::new() }
    }

    /// What the first mask is computed of. Once: it is awaited from then on.
    pub(crate) fn begin(&mut self) -> Option<Begin> {
        match std::mem::replace(&mut self.state, State::Awaited) {
            State::Fresh(begin) => Some(begin),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// The mask of the next token, if it is there.
    pub(crate) const fn mask(&self) -> Option<&Mask> {
        match &self.state {
            State::Ready(_, mask) => Some(mask),
            State::Fresh(_) | State::Awaited => None,
        }
    }

    pub(crate) fn set(&mut self, matcher: Box<Matcher>, mask: Mask) {
        self.state = State::Ready(matcher, mask);
    }

    /// What the mask behind the token is computed of that was chosen with this one. It is awaited
    /// from then on.
    pub(crate) fn go_on(&mut self) -> Option<Box<Matcher>> {
        match std::mem::replace(&mut self.state, State::Awaited) {
            State::Ready(matcher, _) => Some(matcher),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Keeps logits until their mask is there.
    pub(crate) fn hold(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
    }

    /// Logits that were waiting, to be given back by [`Guide::reuse`].
    pub(crate) fn take_logits(&mut self) -> Option<Vec<f32>> {
        (!self.logits.is_empty()).then(|| std::mem::take(&mut self.logits))
    }

    pub(crate) fn reuse(&mut self, mut logits: Vec<f32>) {
        logits.clear();
        self.logits = logits;
    }
}
