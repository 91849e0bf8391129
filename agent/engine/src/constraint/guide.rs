//! How far the next mask of one sequence is.

use realm_grammar::Mask;

use super::masks::{Begin, Progress};

/// What keeps one sequence to its grammar.
pub(crate) struct Guide {
    state: State,
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
        Self { state: State::Fresh(begin) }
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
}
