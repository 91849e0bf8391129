//! One sequence: its tokens, how far they are computed, and where it must end.

use std::time::Instant;

use realm_core::{engine::Usage, name::TenantName, refusal::Refusal};

use super::{cost::Service, share::Terms};
use crate::{
    adapter::Adapted,
    batch::SequenceId,
    kv::{BlockTable, ChainHash, Owner, Public},
};

/// When a sequence ends, however far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// How long that was from the start, for the message.
    pub(crate) ms: u64,
}

/// A sequence that someone wants.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) id: SequenceId,
    pub(crate) tenant: TenantName,
    /// What the prompt begins with that is public in the tenant's group.
    pub(crate) public: Option<Public>,
    /// What it is computed with besides the model.
    pub(crate) adapter: Option<Adapted>,
    pub(crate) terms: Terms,
    /// Blocks of all layers that the tenant may hold at once.
    pub(crate) kv_blocks_max: u32,
    /// Tokens the tenant may have in one sequence.
    pub(crate) context_max: u32,
    /// What is computed first: the prompt, and what there is of the answer.
    pub(crate) prompt: Vec<u32>,
    /// Of `prompt`, the tokens at its end that are the answer's.
    pub(crate) resumed: usize,
    pub(crate) tokens_max: Option<u32>,
    pub(crate) deadline: Option<Deadline>,
}

/// What one sequence may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) tokens_max: usize,
    /// Blocks, of one band each, that its tenant may hold.
    pub(super) quota: usize,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) owner: Owner,
    pub(super) terms: Terms,
    pub(super) quota: usize,
    /// The prompt and what has been generated.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: usize,
    /// Where the answer begins: before the prompt's end where it was resumed.
    pub(super) answer_start: usize,
    /// Tokens whose keys and values are in the sequence's blocks.
    pub(super) computed: usize,
    /// Prompt tokens that were found in the cache when the sequence first started.
    pub(super) cached: u32,
    started: bool,
    /// Younger sequences of the tenant that started before this one.
    pub(super) overtaken: u32,
    /// The hashes of its first blocks, as far as they were looked for in the cache.
    pub(super) chain: Vec<ChainHash>,
    /// Tokens at which the sequence is over.
    pub(super) len_max: usize,
    pub(super) deadline: Option<Deadline>,
}

impl Sequence {
    /// A sequence within `bounds`, if its prompt leaves room for an answer.
    ///
    /// More of that than was asked for is refused, as no answer can have been so long. More than the
    /// bounds leave was made under others: it is full.
    pub(super) fn new(submission: Submission, bounds: Bounds) -> Result<Self, Refusal> {
        let Bounds { tokens_max, quota } = bounds;
        let prompt_len = submission.prompt.len();
        let answer_start = prompt_len.saturating_sub(submission.resumed);
        if answer_start == 0 {
            return Err(Refusal::Invalid("the prompt has no tokens".to_owned()));
        }
        if submission.tokens_max == Some(0) {
            return Err(Refusal::Invalid("no tokens were asked for".to_owned()));
        }
        if answer_start >= tokens_max {
            return Err(Refusal::TooLong { tokens: answer_start, tokens_max });
        }
        let wanted = submission.tokens_max.map_or(usize::MAX, |n| n as usize);
        if submission.resumed > wanted {
            let resumed = submission.resumed;
            let message = format!("{resumed} tokens to resume; the answer has {wanted} at most");
            return Err(Refusal::Invalid(message));
        }
        let len_max = answer_start.saturating_add(wanted).min(tokens_max).max(prompt_len);
        Ok(Self {
            id: submission.id,
            owner: Owner {
                tenant: submission.tenant,
                public: submission.public,
                adapter: submission.adapter,
            },
            terms: submission.terms,
            quota,
            tokens: submission.prompt,
            prompt_len,
            answer_start,
            computed: 0,
            cached: 0,
            started: false,
            overtaken: 0,
            chain: Vec::new(),
            len_max,
            deadline: submission.deadline,
        })
    }

    /// Takes note of what the cache held; `true` the first time.
    pub(super) fn first_start(&mut self, cached: usize) -> bool {
        if std::mem::replace(&mut self.started, true) {
            return false;
        }
        self.cached = count(cached.min(self.prompt_len));
        true
    }

    /// Whether the sequence has run before, and was preempted.
    pub(super) const fn was_started(&self) -> bool {
        self.started
    }

    /// Whether there is no room for another token.
    pub(super) const fn is_full(&self) -> bool {
        self.tokens.len() >= self.len_max
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: count(self.prompt_len),
            cached_tokens: self.cached,
            completion_tokens: count(self.tokens.len() - self.prompt_len),
        }
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// A sequence that holds blocks.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sequence: Sequence,
    pub(super) table: BlockTable,
    /// Rows of it in the step being planned.
    pub(super) planned: usize,
    /// What they are, and were charged as.
    pub(super) service: Service,
    /// Its last turn, of all that sequences had.
    pub(super) turn: u64,
}

impl Running {
    pub(super) fn new(sequence: Sequence, table: BlockTable) -> Self {
        Self { sequence, table, planned: 0, service: Service::default(), turn: 0 }
    }

    /// Whether more of its prompt could be planned. A last token alone comes among those of answers.
    pub(super) fn has_prompt_left(&self) -> bool {
        self.left() > usize::from(self.planned == 0)
    }

    /// Tokens that are neither computed nor planned.
    pub(super) fn left(&self) -> usize {
        self.sequence.tokens.len() - self.sequence.computed - self.planned
    }
}
