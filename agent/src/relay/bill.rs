//! What a call that is handed on has cost at the nodes that had it.
//!
//! Every token that a node tells of is charged at once. Where the node is lost before anything has
//! reached the client, another one does the same work again, and the client is to pay for it once:
//! then what was lost is taken back, at the moment at which somebody else is asked. A call that
//! nobody is asked to serve any more has got nothing for what was lost, and pays nothing for it
//! either, unless it ends because its client went: what is made is paid for whether or not
//! anybody waits for it.

use std::time::Instant;

use realm_core::{engine::Usage, limit::Admitted, refusal::Refusal, reply::Done};

/// One call's costs, and no other's.
#[derive(Debug, Default)]
pub(super) struct Bill {
    /// Paid for what the node that has the call now has told of.
    paid: Usage,
    /// Paid for work that is lost, and not taken back yet.
    lost: Usage,
    /// Whether the prompt was refused: it is not paid for, and nothing of it is given back.
    is_refused: bool,
}

impl Bill {
    /// Charges what the node has spent since the last time, and says whether the client may have
    /// what came of it, and the call may go on.
    ///
    /// A node that tells of a smaller prompt than before has begun nothing of what is missing, which
    /// is given back. Of an answer that is not so: what was made was made.
    pub(super) fn pay(
        &mut self,
        call: &Admitted,
        spent: Usage,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.give_back_unbegun(call, spent);
        let more = less(spent, self.paid);
        self.paid = sum(self.paid, more);
        // What of a prompt was cached comes with it or later, and costs nothing either way.
        let Usage { prompt_tokens, cached_tokens, completion_tokens } = more;
        let at_once = cached_tokens.min(prompt_tokens);
        if prompt_tokens > 0 {
            let prompt = Usage { prompt_tokens, cached_tokens: at_once, completion_tokens: 0 };
            let may_begin = call.charge_from_afar(prompt, now);
            self.is_refused |= may_begin.is_err();
            may_begin?;
        }
        let later = cached_tokens.saturating_sub(at_once);
        if later > 0 && !self.is_refused {
            call.refund(later);
        }
        if completion_tokens == 0 {
            return Ok(());
        }
        call.charge_from_afar(Usage { completion_tokens, ..Usage::default() }, now)
    }

    /// Whether the node that has the call has begun with its prompt.
    pub(super) const fn has_prompt(&self) -> bool {
        self.paid.prompt_tokens > 0
    }

    fn give_back_unbegun(&mut self, call: &Admitted, spent: Usage) {
        let Usage { prompt_tokens, cached_tokens, .. } = less(self.paid, spent);
        let unbegun = Usage { prompt_tokens, cached_tokens, completion_tokens: 0 };
        if prompt_tokens > 0 && !self.is_refused {
            self.paid = less(self.paid, unbegun);
            call.take_back(unbegun);
        }
    }

    /// The node that had the call is lost, and with it everything that it made.
    pub(super) fn lose(&mut self) {
        self.lost = sum(self.lost, std::mem::take(&mut self.paid));
        self.is_refused = false;
    }

    /// Somebody else is asked to do what was lost.
    pub(super) fn move_on(&mut self, call: &Admitted) {
        let lost = std::mem::take(&mut self.lost);
        if lost != Usage::default() {
            call.take_back(lost);
        }
    }

    /// The call has ended, and nobody else is asked. One whose time is over may look as if its
    /// client had gone.
    pub(super) fn settle(mut self, call: &Admitted, ended: &Result<Done, Refusal>, now: Instant) {
        let is_over = call.call().deadline.is_some_and(|deadline| deadline.is_over(now));
        if is_over || !matches!(ended, Err(Refusal::Cancelled)) {
            self.move_on(call);
        }
    }
}

fn sum(one: Usage, other: Usage) -> Usage {
    Usage {
        prompt_tokens: one.prompt_tokens.saturating_add(other.prompt_tokens),
        cached_tokens: one.cached_tokens.saturating_add(other.cached_tokens),
        completion_tokens: one.completion_tokens.saturating_add(other.completion_tokens),
    }
}

/// What `all` has beyond `part`.
fn less(all: Usage, part: Usage) -> Usage {
    Usage {
        prompt_tokens: all.prompt_tokens.saturating_sub(part.prompt_tokens),
        cached_tokens: all.cached_tokens.saturating_sub(part.cached_tokens),
        completion_tokens: all.completion_tokens.saturating_sub(part.completion_tokens),
    }
}

#[cfg(test)]
mod tests;
