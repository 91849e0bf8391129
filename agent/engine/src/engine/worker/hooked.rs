//! What the engine's thread does with hooks: it asks them, takes what they have said as it comes,
//! and goes on without those that take too long.

use std::time::{Duration, Instant};

use realm_core::{
    engine::{Finish, Token, TokenEvent, Usage},
    refusal::Refusal,
};

use super::{Worker, open::Open};
use crate::{
    batch::SequenceId,
    hook::{
        beside::{Beside, Outcome, Told},
        threads::{Answered, Placed},
    },
};

impl Worker {
    /// Asks the hook of a sequence that has started what its first token is to be. `false` if nobody
    /// lets it work.
    pub(super) fn begin_hook(&mut self, id: SequenceId, now: Instant) -> bool {
        let placed = self.beside_of(id).and_then(|beside| beside.begin(now));
        placed.is_none_or(|placed| self.let_work(id, placed))
    }

    /// Takes what hooks have said, and what one says within `wait`. Sequences whose logits were
    /// waiting for that, or have waited long enough, get their next token.
    pub(super) fn take_hooks(&mut self, wait: Duration) {
        let mut wait = wait;
        while let Some(answered) = self.hooks.take(wait) {
            wait = Duration::ZERO;
            self.hear(answered);
        }
        if self.hooks.are_awaited() {
            self.go_on_overdue(Instant::now());
        }
    }

    /// Chooses tokens whose hooks have had their time.
    fn go_on_overdue(&mut self, now: Instant) {
        let waits = |open: &Open| open.beside.is_some() && !open.held.is_empty();
        let waiting = self.open.iter().filter(|(_, open)| waits(open));
        let ids: Vec<SequenceId> = waiting.map(|(id, _)| *id).collect();
        for id in ids {
            self.choose_held(id, now);
        }
    }

    fn hear(&mut self, Answered { id, placed, answer, worked, at }: Answered) {
        self.scheduler.charge_hook(placed.tenant(), worked);
        let Some(open) = self.open.get_mut(&id) else {
            // The sequence has ended meanwhile.
            return self.hooks.end(&placed.tenant().clone(), placed);
        };
        let Some(beside) = &mut open.beside else { return };
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                let tenant = open.tenant.clone();
                self.hooks.end(&tenant, placed);
                return self.fail(id, refusal);
            }
        };
        let Outcome { token, end } = beside.heard(placed, answer, at);
        let sender = open.output.sender();
        self.outbox.extend(token.map(|token| (sender, TokenEvent::Token(token))));
        if let Some((finish, usage)) = end {
            let usage = usage.or_else(|| self.scheduler.end(id)).unwrap_or_default();
            return self.close(id, TokenEvent::Finished { finish, usage });
        }
        if let Some(placed) = self.beside_of(id).and_then(Beside::next)
            && !self.let_work(id, placed)
        {
            return self.fail(id, Refusal::Internal);
        }
        self.choose_held(id, Instant::now());
    }

    /// Tells a token to the hook beside its sequence, if that is to hear of it, and to the reader,
    /// unless the hook has a say in its text.
    pub(super) fn tell(
        &mut self,
        id: SequenceId,
        (token, finish): (Token, Option<Finish>),
        now: Instant,
    ) {
        let Self { open, outbox, .. } = self;
        let Some(Open { output, beside, .. }) = open.get_mut(&id) else { return };
        let Some(beside) = beside.as_mut().filter(|beside| beside.hears(finish)) else {
            return outbox.push((output.sender(), TokenEvent::Token(token)));
        };
        let waits = beside.rewrites(finish);
        if !waits {
            outbox.push((output.sender(), TokenEvent::Token(token.clone())));
        }
        if let Some(placed) = beside.tell(Told { token, finish, at: now, waits })
            && !self.let_work(id, placed)
        {
            self.fail(id, Refusal::Internal);
        }
    }

    /// Ends a sequence in the scheduler; its stream ends when its hook has come to that.
    pub(super) fn finish(&mut self, id: SequenceId, finish: Finish, usage: Usage) {
        let waits = self.beside_of(id).filter(|beside| beside.behind() > 0);
        match waits {
            Some(beside) => beside.end(finish, usage),
            None => self.close(id, TokenEvent::Finished { finish, usage }),
        }
    }

    fn let_work(&mut self, id: SequenceId, placed: Placed) -> bool {
        let tenant = placed.tenant().clone();
        self.hooks.work(id, &tenant, placed)
    }

    fn beside_of(&mut self, id: SequenceId) -> Option<&mut Beside> {
        self.open.get_mut(&id)?.beside.as_mut()
    }
}
