//! The engine's thread: commands in, one step, tokens out. It alone owns the scheduler and the
//! model, and it sleeps when there is nothing to do.

mod adapters;
mod bookkeeping;
mod guided;
mod held;
mod hooked;
mod kept;
mod open;
mod texts;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvError, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use realm_core::{
    books::Used,
    engine::{TokenEvent, Usage},
    refusal::Refusal,
};
use tokio::sync::mpsc;

pub(super) use self::adapters::Adapt;
pub(super) use self::kept::{Interest, Keep, PLACES_MAX, Pinned};
use self::{
    adapters::Adapters,
    bookkeeping::Unbooked,
    held::Held,
    open::{Chosen, Open},
};
use super::{
    Command, Submitted,
    board::{Board, News},
    embedding::Embedding,
};
use crate::{
    batch::{Batch, SequenceId},
    budget::Reservation,
    constraint::{guide::Guide, masks::Masks},
    forward::Executor,
    hook::{beside::Beside, threads::Hooks},
    output::Output,
    sampler::Scratch,
    scheduler::{Scheduler, Submission, TextCall},
    tokenizer::Tokenizer,
};

/// Steps that may fail one after the other before the engine gives up. One failure may be the
/// fault of what was computed; three in a row, with different sequences each, are the engine's.
/// Giving up is final: whoever watches the engine may replace it, and must not find it back at work.
const FAILURES_MAX: u32 = 3;

/// How often what each tenant holds is shown while the engine works: far more often than anybody
/// looks, and seldom enough that a thousand tenants cost a step nothing.
const TENANTS_SHOWN_EVERY: Duration = Duration::from_millis(200);

/// How long a step's end waits for the masks of its sequences. Most are there long before it, or
/// come within a fraction of this; a sequence whose mask takes longer misses a step, which takes
/// ten times this at the least.
const MASKS_WAIT: Duration = Duration::from_millis(1);

pub(super) struct Worker {
    commands: Receiver<Command>,
    scheduler: Scheduler,
    /// `None` once the engine has given up.
    executor: Option<Box<dyn Executor>>,
    tokenizer: Arc<Tokenizer>,
    board: Arc<Board>,
    open: HashMap<SequenceId, Open>,
    /// Calls with texts, numbered as sequences are.
    calls: HashMap<SequenceId, Embedding>,
    /// Prefixes that are kept, numbered likewise.
    kept: HashMap<SequenceId, Pinned>,
    adapters: Adapters,
    masks: Masks,
    hooks: Hooks,
    batch: Batch,
    scratch: Scratch,
    /// Events of this step, sent once the board shows what they mean.
    outbox: Vec<(mpsc::Sender<TokenEvent>, TokenEvent)>,
    /// Calls with texts that have ended in this step, and why if not well.
    answered: Vec<(Embedding, Option<Refusal>)>,
    /// What the board is told at the end of this step.
    news: News,
    unbooked: Unbooked,
    /// When what each tenant holds was last shown.
    shown_at: Instant,
    failures: u32,
}

impl Worker {
    pub(super) fn new(
        commands: Receiver<Command>,
        scheduler: Scheduler,
        executor: Box<dyn Executor>,
        tokenizer: Arc<Tokenizer>,
        board: Arc<Board>,
    ) -> Self {
        let now = Instant::now();
        board.publish(&scheduler, &News { idle_since: Some(now), ..News::default() });
        Self {
            commands,
            scheduler,
            executor: Some(executor),
            tokenizer,
            board,
            open: HashMap::new(),
            calls: HashMap::new(),
            kept: HashMap::new(),
            adapters: Adapters::default(),
            masks: Masks::default(),
            hooks: Hooks::default(),
            batch: Batch::default(),
            scratch: Scratch::default(),
            outbox: Vec::new(),
            answered: Vec::new(),
            news: News::default(),
            unbooked: Unbooked::since(now),
            shown_at: now,
            failures: 0,
        }
    }

    /// Runs until the handle is gone. Gives `reservation` back with the memory that it promised.
    pub(super) fn run(mut self, reservation: Reservation) {
        while self.take_commands() {
            self.turn();
            if self.has_given_up() {
                // Handles may outlive the engine by hours; its memory is wanted for the next one.
                self.executor = None;
                drop(reservation);
                // A hook may hold what holds this engine's handle, which is waited for below.
                self.hooks = Hooks::default();
                self.drop_all_kept();
                self.adapters = Adapters::default();
                self.refuse_the_rest();
                break;
            }
        }
        self.charge_kept(Instant::now());
        self.fail_all(&Refusal::Draining);
        self.publish_and_send();
    }

    /// One step, of what there is, and what follows from it.
    fn turn(&mut self) {
        self.drop_unread();
        self.take_masks(Duration::ZERO);
        self.take_hooks(Duration::ZERO);
        let now = Instant::now();
        let ended = self.scheduler.plan_batch(now, &mut self.batch);
        self.book_blocks();
        for (id, refusal) in ended {
            self.fail(id, refusal);
        }
        let stuck = self.tell_starts(now);
        if self.batch.is_empty() {
            // Every sequence that runs waits for its mask or its hook.
            self.take_masks(MASKS_WAIT);
            self.take_hooks(MASKS_WAIT);
        } else {
            self.step();
        }
        // Not before the step, which they are a part of and pay for.
        for id in stuck {
            self.fail(id, Refusal::Internal);
        }
        self.publish_and_send();
    }

    /// Takes what has come, and waits for it only when there is nothing else to do. `false` once
    /// nothing can come any more.
    fn take_commands(&mut self) -> bool {
        if self.scheduler.is_idle() {
            let awaited = self.wait();
            let now = Instant::now();
            self.book_idle(now);
            self.charge_kept(now);
            match awaited {
                Ok(command) => self.apply(command),
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits for a command, and takes meanwhile what masks and hooks are still working on: masks
    /// for sequences which have ended, since each holds a place that an answer may want, and what
    /// hooks say of the ends of answers.
    fn wait(&mut self) -> Result<Command, RecvError> {
        while self.masks.are_awaited() || self.hooks.are_awaited() {
            match self.commands.recv_timeout(MASKS_WAIT) {
                Ok(command) => return Ok(command),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) => {
                    self.take_masks(Duration::ZERO);
                    self.take_hooks(Duration::ZERO);
                    // What has ended but for its hook may have lost its reader.
                    self.drop_unread();
                    if !self.outbox.is_empty() {
                        self.book_idle(Instant::now());
                        self.publish_and_send();
                    }
                }
            }
        }
        self.commands.recv()
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit(submit) => self.submit(*submit),
            Command::Refuse(submit, refusal) => self.refuse(*submit, refusal),
            Command::Embed(texts) => self.submit_texts(*texts),
            Command::Keep(keep) => self.keep(*keep),
            Command::Adapt(adapt) => self.adapt(*adapt),
            // Whose it was is found before the next step.
            Command::LetGo => {}
            Command::Drain => self.scheduler.drain(),
        }
    }

    const fn has_given_up(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// Refuses what was on its way when the engine gave up, until the handle is gone: a stream must
    /// say how it ends.
    fn refuse_the_rest(&mut self) {
        while let Ok(command) = self.commands.recv() {
            let id = match command {
                Command::Submit(submit) | Command::Refuse(submit, _) => self.arrive(*submit).id,
                Command::Embed(texts) => self.arrive_with_texts(*texts).id(),
                Command::Keep(_) | Command::Adapt(_) | Command::LetGo | Command::Drain => continue,
            };
            self.fail(id, Refusal::Internal);
            self.publish_and_send();
        }
    }

    /// Takes a sequence into care; gives what the scheduler is to have of it.
    fn arrive(&mut self, submitted: Submitted) -> Submission {
        let Submitted { submission, adapter, output, begin, beside, way, figures, milestones, at } =
            submitted;
        self.news.arrived += 1;
        let (tenant, guide) = (submission.tenant.clone(), begin.map(Guide::new));
        let open = Open {
            tenant,
            way,
            output,
            guide,
            _adapter: adapter,
            beside,
            held: Held::default(),
            figures,
            milestones,
            submitted_at: at,
            token_at: None,
        };
        self.open.insert(submission.id, open);
        submission
    }

    fn refuse(&mut self, submitted: Submitted, refusal: Refusal) {
        let submission = self.arrive(submitted);
        self.fail(submission.id, refusal);
    }

    fn submit(&mut self, submitted: Submitted) {
        let submission = self.arrive(submitted);
        let id = submission.id;
        if let Err(refusal) = self.begin(submission) {
            self.fail(id, refusal);
        }
    }

    /// Queues a sequence, unless it is an answer that was resumed when nothing of it was left.
    fn begin(&mut self, submission: Submission) -> Result<(), Refusal> {
        let id = submission.id;
        let prompt_tokens = u32::try_from(submission.prompt.len()).unwrap_or(u32::MAX);
        let Some(Open { output, .. }) = self.open.get_mut(&id) else { return Ok(()) };
        let ended = match output.finish() {
            None => self.scheduler.submit(submission)?,
            ended => ended,
        };
        let rest = output.take_rest(ended)?;
        if !rest.is_empty() {
            self.outbox.push((output.sender(), TokenEvent::Rest(rest)));
        }
        if let Some(finish) = ended {
            let usage = Usage { prompt_tokens, ..Usage::default() };
            self.close(id, TokenEvent::Finished { finish, usage });
        }
        Ok(())
    }

    /// Says which sequences have started. Gives those that cannot go on, for what decides about their
    /// tokens does not work.
    fn tell_starts(&mut self, now: Instant) -> Vec<SequenceId> {
        let mut stuck = Vec::new();
        for (id, usage) in self.scheduler.started().to_vec() {
            self.book_start(id, usage);
            if !self.begin_hook(id, now) {
                stuck.push(id);
            }
        }
        let Self { scheduler, open, calls, masks, outbox, .. } = self;
        for (id, usage) in scheduler.started() {
            if let Some(call) = calls.get(id) {
                call.count_start(*usage, now);
            }
            let Some(open) = open.get_mut(id) else { continue };
            open.count_start(*usage, now);
            if let Some(begin) = open.guide.as_mut().and_then(Guide::begin)
                && !masks.begin(*id, &open.tenant, begin)
            {
                stuck.push(*id);
            }
            if usage.cached_tokens > 0 {
                // Now, for whoever pays for the whole prompt meanwhile.
                outbox.push((open.output.sender(), TokenEvent::Cached(usage.cached_tokens)));
            }
        }
        stuck
    }

    /// Ends the sequences whose stream nobody holds any more, and the calls likewise.
    fn drop_unread(&mut self) {
        self.drop_unwanted();
        self.drop_adapters();
        let unread = self.open.iter().filter(|(_, open)| open.output.is_closed());
        let unasked = self.calls.iter().filter(|(_, call)| call.is_closed());
        let ids = unread.map(|(id, _)| *id).chain(unasked.map(|(id, _)| *id));
        let ids: Vec<SequenceId> = ids.collect();
        for id in ids {
            self.fail(id, Refusal::Cancelled);
        }
    }

    fn step(&mut self) {
        self.book_overhead(Instant::now());
        let Self { executor: Some(executor), batch, .. } = &mut *self else { return };
        // The scheduler has not changed since the plan, and what a failed forward leaves in the
        // cache belongs to sequences that end below, unsealed: nobody will find it.
        let of_texts = !batch.texts.is_empty();
        let computed = catch_unwind(AssertUnwindSafe(|| {
            if of_texts { executor.embed(batch) } else { executor.forward(batch) }
        }));
        let now = Instant::now();
        self.scheduler.charge_blocks(now);
        self.book_blocks();
        match computed {
            Ok(Ok(())) if of_texts => {
                self.failures = 0;
                self.book_step(now);
                self.take_vectors();
            }
            Ok(Ok(())) => {
                self.failures = 0;
                let took = self.book_step(now);
                self.scheduler.observe(took);
                self.scheduler.commit();
                self.sample();
            }
            Ok(Err(error)) => self.step_failed(&error.to_string()),
            Err(_) => self.step_failed("it panicked"),
        }
    }

    fn step_failed(&mut self, reason: &str) {
        self.failures += 1;
        if self.has_given_up() {
            tracing::error!(reason, "the forward pass keeps failing; the engine gives up");
            self.fail_all(&Refusal::Internal);
            return;
        }
        // Whatever the tenants put in the batch, it should not have failed, and their clients are
        // told that the log says why.
        tracing::warn!(reason, "a forward pass failed");
        let ids: Vec<SequenceId> = self.batch.spans.iter().map(|span| span.sequence).collect();
        for id in ids {
            self.fail(id, Refusal::Internal);
        }
    }

    /// Gives every sequence whose logits were computed its next token.
    fn sample(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.take_masks(Duration::ZERO);
        // What hooks have said during the step is of the tokens that are chosen now.
        self.take_hooks(Duration::ZERO);
        self.expect_masks(&batch);
        let now = Instant::now();
        for (id, output) in batch.finished() {
            self.advance(id, output, now);
        }
        self.batch = batch;
    }

    /// Gives a sequence its next token, once there are both logits and, where it needs them, a mask
    /// and what its hook says.
    fn advance(&mut self, id: SequenceId, output: usize, now: Instant) {
        if !self.scheduler.lacks_token(id) {
            // A mask has just come for the same logits, from before it was preempted.
            return;
        }
        let Self { open, executor: Some(executor), .. } = self else { return };
        let Some(open) = open.get_mut(&id) else { return };
        let logits = executor.logits(output);
        if !open.is_ready(now) {
            open.held.hold(logits);
            return;
        }
        let position = self.scheduler.position(id);
        let chosen = open.choose(logits, position, &mut self.scratch, &self.tokenizer);
        self.give(id, chosen, now);
    }

    /// Adds a token to its answer and asks for what decides about the next one.
    fn give(&mut self, id: SequenceId, chosen: Result<Chosen, Refusal>, now: Instant) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let Chosen { id: token, logprobs } = match chosen {
            Ok(chosen) => chosen,
            Err(refusal) => return self.fail(id, refusal),
        };
        let unsent = |beside: &Beside| beside.behind() + told(&self.outbox, &open.output);
        if open.output.is_full(open.beside.as_ref().map_or(0, unsent)) {
            self.fail(id, Refusal::SlowReader);
            return;
        }
        open.count_token(now);
        self.news.books.add(
            &open.tenant,
            &open.way,
            Used { generated_tokens: 1, ..Used::default() },
        );
        let length = self.scheduler.advance(id, token);
        let progress = open.guide.as_mut().and_then(Guide::go_on);
        let (mut event, finish) = open.output.push(token, length, &self.tokenizer);
        event.logprobs = logprobs;
        let tenant = open.tenant.clone();
        self.tell(id, (event, finish), now);
        if let Some(finish) = finish {
            let Some(usage) = self.scheduler.end(id) else { return };
            self.finish(id, finish, usage);
        } else if let Some(progress) = progress
            && !self.masks.next(id, &tenant, progress, token)
        {
            self.fail(id, Refusal::Internal);
        }
    }

    fn fail(&mut self, id: SequenceId, refusal: Refusal) {
        self.scheduler.end(id);
        if self.calls.contains_key(&id) {
            self.answer(id, Some(refusal));
        } else {
            self.close(id, TokenEvent::Failed(refusal));
        }
    }

    fn fail_all(&mut self, refusal: &Refusal) {
        let ids: Vec<SequenceId> = self.open.keys().chain(self.calls.keys()).copied().collect();
        for id in ids {
            self.fail(id, refusal.clone());
        }
    }

    /// Tells everybody who still listens that the engine is gone.
    fn give_up(&mut self) {
        tracing::error!("the engine's thread panicked; the model serves no more");
        self.board.fail();
        for (_, Open { tenant, output, .. }) in self.open.drain() {
            self.board.leave(&tenant);
            let _ = output.sender().try_send(TokenEvent::Failed(Refusal::Internal));
        }
        let unsent = self.calls.drain().map(|(_, call)| call);
        for call in unsent {
            self.board.leave(call.tenant());
            call.end(Some(Refusal::Internal));
        }
    }

    /// Ends a call with texts: its vectors are sent, or why there are none.
    fn answer(&mut self, id: SequenceId, refusal: Option<Refusal>) {
        if let Some(call) = self.calls.remove(&id) {
            self.board.leave(call.tenant());
            self.answered.push((call, refusal));
        }
    }

    fn close(&mut self, id: SequenceId, last: TokenEvent) {
        if let Some(Open { tenant, output, milestones, beside, .. }) = self.open.remove(&id) {
            let sender = output.sender();
            if let Some(mut beside) = beside {
                if let Some(placed) = beside.take() {
                    self.hooks.end(&tenant, placed);
                }
                let unsaid = beside.silence();
                if unsaid > 0 {
                    self.outbox.push((sender.clone(), TokenEvent::Unsaid(unsaid)));
                }
            }
            if let Some(milestones) = milestones {
                milestones.ended.get_or_init(Instant::now);
            }
            self.board.leave(&tenant);
            self.outbox.push((sender, last));
        }
    }

    /// Shows the new state before anybody can react to what is sent.
    fn publish_and_send(&mut self) {
        let now = Instant::now();
        self.book_overhead(now);
        self.news.failed = self.has_given_up();
        self.news.idle_since = (self.scheduler.is_idle() && !self.news.failed).then_some(now);
        let since_shown = now.saturating_duration_since(self.shown_at);
        if self.scheduler.is_idle() || since_shown >= TENANTS_SHOWN_EVERY {
            self.board.show_tenants(&self.scheduler, since_shown);
            self.shown_at = now;
        }
        self.board.publish(&self.scheduler, &self.news);
        self.news.clear();
        for (sender, event) in self.outbox.drain(..) {
            // There is room, or the reader is gone: a full stream was ended instead of written to.
            let _ = sender.try_send(event);
        }
        for (call, refusal) in self.answered.drain(..) {
            call.end(refusal);
        }
    }
}

/// Events that are yet to be sent to one stream.
fn told(outbox: &[(mpsc::Sender<TokenEvent>, TokenEvent)], output: &Output) -> usize {
    let sender = output.sender();
    outbox.iter().filter(|(to, _)| to.same_channel(&sender)).count()
}

impl Drop for Worker {
    /// A panic outside of the forward pass is a broken invariant of the thread's own state, which
    /// nothing can go on with; the streams must end all the same.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_up();
        }
    }
}

#[cfg(test)]
mod tests;
