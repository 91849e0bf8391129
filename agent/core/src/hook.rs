//! The port to what stands beside a generation, token by token: its tenant's own hooks.
//!
//! The engine asks and goes on; what it was answered counts from then on. Nothing here waits.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    engine::Finish,
    refusal::Refusal,
    sampling::{BIASES_MAX, check_bias},
};

/// Bytes of text that a hook may put in the place of a token's, or behind an answer: pages of it,
/// for a token that has some four.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// What stands beside one generation.
///
/// It is asked one thing at a time, and worked on by whoever has it until it has answered.
pub trait Hook: Send {
    /// Takes a question. There is none before it that has not been answered.
    fn ask(&mut self, question: Question);

    /// Works for some tens of microseconds; the answer, once there is one. An error ends the
    /// generation, and nothing more is asked.
    fn work(&mut self) -> Option<Result<Answer, Refusal>>;
}

/// What a hook is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What the first token is to be.
    Begin,
    /// What becomes of this token, and what the next one is to be.
    Token {
        id: u32,
        text: String,
        /// Where the token is the last one.
        finish: Option<Finish>,
    },
}

/// What a hook says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub verdict: Verdict,
    /// `None` leaves what was said last.
    pub steer: Option<Steer>,
}

/// What becomes of a token's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Pass,
    /// This in its place.
    Rewrite(String),
    /// This in its place, and the answer ends.
    Stop(String),
}

/// What decides about the next token.
#[derive(Clone, Debug, PartialEq)]
pub enum Steer {
    /// What is added to the logits of some tokens, by id.
    Add(Vec<(u32, f32)>),
    /// The tokens of which one comes next.
    Only(Vec<u32>),
}

impl Steer {
    /// Refuses what is too much, or of no token of a vocabulary of that many.
    pub fn check(&self, vocabulary: u32) -> Result<(), Refusal> {
        let failed = |message| Refusal::ProgramFailed(format!("its hook's bias: {message}"));
        match self {
            Self::Add(biases) => check_bias(biases, vocabulary).map_err(|refusal| match refusal {
                Refusal::Invalid(message) => failed(message),
                other => other,
            }),
            Self::Only(ids) if ids.is_empty() => {
                Err(failed("it leaves no token that may come next".to_owned()))
            }
            Self::Only(ids) if ids.len() > BIASES_MAX => {
                Err(failed(format!("{} tokens; {BIASES_MAX} are the most", ids.len())))
            }
            Self::Only(ids) => match ids.iter().find(|id| **id >= vocabulary) {
                Some(id) => Err(failed(format!("token {id} of a vocabulary of {vocabulary}"))),
                None => Ok(()),
            },
        }
    }
}

/// What a hook wants to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    /// What the next token is to be: each token waits for that, within the deadline.
    pub const BIAS: Self = Self(1);
    /// What becomes of each token.
    pub const TOKEN: Self = Self(2);
    /// What comes behind the last one.
    pub const FINISH: Self = Self(4);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn have(self, stage: Self) -> bool {
        self.0 & stage.0 != 0
    }
}

/// A hook with what the engine is to know of it.
pub struct Hooked {
    pub hook: Box<dyn Hook>,
    pub stages: Stages,
    /// How long a token waits for what the hook says of it.
    pub deadline: Duration,
    pub overruns: Overruns,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook: _, stages, deadline, overruns } = self;
        f.debug_struct("Hooked")
            .field("stages", stages)
            .field("deadline", deadline)
            .field("overruns", overruns)
            .finish_non_exhaustive()
    }
}

/// How many tokens did not wait for what a hook says of them any longer. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub struct Overruns(Arc<AtomicU64>);

impl Overruns {
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hook_says_of_the_next_token_is_little_and_of_the_vocabulary() {
        let many = |count: usize| (0..u32::try_from(count).unwrap()).collect::<Vec<_>>();
        let vocabulary = u32::try_from(BIASES_MAX).unwrap() + 1;
        Steer::Only(many(BIASES_MAX)).check(vocabulary).unwrap();
        Steer::Add(Vec::new()).check(vocabulary).unwrap();
        for (steer, said) in [
            (Steer::Only(Vec::new()), "leaves no token"),
            (Steer::Only(many(BIASES_MAX + 1)), "1024 are the most"),
            (Steer::Only(vec![vocabulary]), "token 1025 of a vocabulary of 1025"),
            (Steer::Add(vec![(vocabulary, 1.0)]), "token 1025 of a vocabulary of 1025"),
            (Steer::Add(vec![(0, f32::NAN)]), "from -100 to 100"),
            (Steer::Add(vec![(0, 1.0); BIASES_MAX + 1]), "1024 are the most"),
        ] {
            let Refusal::ProgramFailed(message) = steer.check(vocabulary).unwrap_err() else {
                panic!("{steer:?}")
            };
            assert!(message.contains(said), "{message}");
        }
    }
}
