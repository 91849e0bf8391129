//! How far the next mask of one sequence is, and logits that came before it.

use realm_grammar::Mask;

use super::masks::{Begin, Progress};

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
    Ready(Box<Progress>, Mask),
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

    pub(crate) fn set(&mut self, progress: Box<Progress>, mask: Mask) {
        self.state = State::Ready(progress, mask);
    }

    /// What the mask behind the token is computed of that was chosen with this one. It is awaited
    /// from then on.
    pub(crate) fn go_on(&mut self) -> Option<Box<Progress>> {
        match std::mem::replace(&mut self.state, State::Awaited) {
            State::Ready(progress, _) => Some(progress),
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
