//! Makes what is held into what is desired, item by item, for as long as the agent runs.
//!
//! Level-triggered: every turn compares everything that is held with the newest goal and starts
//! what is missing. Items do not wait for each other, so the failure of one blocks no other; a
//! tenant whose model is still loading is put, and the model answers that it is not ready. An
//! adapter alone waits for its model, for it is nothing without it ([`adapters`]).
//! One item has one step under way at most; a put that is no longer wanted is cancelled first.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use realm_core::{
    desired::{Desired, Sha256, Stage},
    name::ModelName,
    report::{Failure, ModelFacts, ModelPhase, Report},
    residents::Residents,
};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{self, Instant},
};

use crate::diff::{self, Goal, Held, Holding, Key, Spec, Step};

mod adapters;
mod report;
mod retry;

use retry::{Loss, Retry};

/// Models fetched and loaded at once.
///
/// One download seldom fills the line and one load seldom the disk, so a few at once are faster
/// than one after the other; each holds a file's worth of page cache, so not many more.
const MODELS_AT_ONCE: usize = 4;

/// Models fetched ahead of need at once. They have places of their own, so that no load waits for
/// one, and fewer, so that they leave the line to the loads.
const PREFETCHES_AT_ONCE: usize = 2;

/// Headers read at once. Each is some megabytes, most of them vocabulary, so that these together
/// hold less than a small model does.
const INSPECTIONS_AT_ONCE: usize = 8;

/// How many models may be on their way to `stage` at once.
const fn at_once(stage: Stage) -> usize {
    match stage {
        Stage::Inspect => INSPECTIONS_AT_ONCE,
        Stage::Prefetch => PREFETCHES_AT_ONCE,
        Stage::Load => MODELS_AT_ONCE,
    }
}

/// How often byte progress reaches the report: often enough for a progress bar, seldom enough
/// that a download of many small chunks costs nothing.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The least time between two reports, and from a change to the report of it: whoever tells them on
/// has a longer one, and a report is as long as everything that is desired.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// How long a report of a change waits for steps that are mostly short. Other rights or another
/// weight of a tenant are there by then even on a busy node, so that nobody is told that they were
/// on their way, and that a tenant which is served was not ready. A program that is compiled takes
/// longer, and its tenant is told to be on its way.
const SHORT_STEP: Duration = Duration::from_secs(1);

/// Drives `residents` towards the newest of `desired` and says in `report` how far they are.
/// Ends when the sender of `desired` is gone. Whatever is under way is cancelled when this
/// future ends or is dropped; what is held stays held.
pub async fn run<R: Residents + 'static>(
    residents: Arc<R>,
    mut desired: watch::Receiver<Arc<Desired>>,
    report: watch::Sender<Report>,
) {
    let mut converger = Converger::new(residents.clone(), desired.borrow_and_update().clone());
    let progress = converger.progress.clone();
    let mut reports = Reports::default();
    reports.note(Instant::now());
    loop {
        let now = Instant::now();
        converger.start_what_is_due(now);
        let mut report_due = reports.due(converger.short_steps_end(now));
        if report_due.is_some_and(|due| due <= now) {
            publish(&report, converger.report());
            reports = Reports { reported_at: Some(now), ..Reports::default() };
            report_due = None;
        }
        let retry = converger.next_retry(now);
        tokio::select! {
            // With the next turn.
            () = sleep_until(report_due) => continue,
            changed = desired.changed() => match changed {
                Ok(()) => converger.aim(desired.borrow_and_update().clone()),
                Err(_) => break,
            },
            Some(ended) = converger.tasks.join_next_with_id() => {
                reports.is_of_models |= converger.finish(ended, Instant::now());
                // Many short steps that end together are one turn.
                while let Some(ended) = converger.tasks.try_join_next_with_id() {
                    reports.is_of_models |= converger.finish(ended, Instant::now());
                }
            }
            name = residents.lost_model() => {
                converger.lose(name, Instant::now());
                reports.is_of_models = true;
            }
            () = sleep_until(retry) => {}
            () = throttled(&progress) => reports.is_of_models = true,
        }
        reports.note(Instant::now());
    }
}

/// When the next report is due.
#[derive(Default)]
struct Reports {
    reported_at: Option<Instant>,
    /// Since when there is something that the last report does not say.
    changed_at: Option<Instant>,
    /// Whether that is what became of a model: where calls go depends on it.
    is_of_models: bool,
}

impl Reports {
    /// Notes that there is something new.
    fn note(&mut self, now: Instant) {
        self.changed_at.get_or_insert(now);
    }

    /// None while there is nothing new. Steps that are short end by `short_steps_end`, if there are
    /// any, and are waited for, one after the other no longer than for one, unless a model waits.
    fn due(&self, short_steps_end: Option<Instant>) -> Option<Instant> {
        let changed_at = self.changed_at?;
        // What there is at the start is not gathered first.
        let gathered = self.reported_at.map_or(changed_at, |_| changed_at + REPORT_EVERY);
        let short_steps_end = short_steps_end.filter(|_| !self.is_of_models);
        let waited = short_steps_end.map(|end| end.min(changed_at + SHORT_STEP));
        Some(waited.map_or(gathered, |waited| waited.max(gathered)))
    }
}

/// Every turn is reported, so a notification that another event swallows is not lost.
async fn throttled(progress: &Notify) {
    progress.notified().await;
    time::sleep(PROGRESS_EVERY).await;
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn publish(report: &watch::Sender<Report>, new: Report) {
    report.send_if_modified(|old| {
        let is_new = *old != new;
        *old = new;
        is_new
    });
}

struct Converger<R> {
    residents: Arc<R>,
    desired: Arc<Desired>,
    goal: Goal,
    holding: Holding,
    /// What the last good put of an item said about it.
    facts: BTreeMap<Key, Fact>,
    /// Steps that failed and are still wanted.
    retries: BTreeMap<Key, Retry>,
    /// Models that stopped serving by themselves.
    losses: BTreeMap<Key, Loss>,
    running: BTreeMap<Key, Running>,
    tasks: JoinSet<Result<Fact, Failure>>,
    progress: Arc<Notify>,
    jitter: RandomState,
}

/// What a step that ended well says.
#[derive(Debug)]
enum Fact {
    Model(HeldModel),
    Tenant(Option<Sha256>),
    Pipeline,
    Removed,
}

/// A model as the last good put of it left it.
#[derive(Debug)]
struct HeldModel {
    facts: ModelFacts,
    stage: Stage,
    /// As the put had it, if it loaded the model.
    kv_blocks: Option<u32>,
    /// What an adapter was loaded beside.
    base: Option<ModelName>,
}

impl HeldModel {
    /// A put to a lower stage unloads the model before anything else, and so even if it fails.
    fn lower(&mut self, stage: Stage) {
        if stage < self.stage {
            self.stage = stage;
            self.kv_blocks = None;
            self.base = None;
        }
    }
}

/// A step under way.
struct Running {
    task: Id,
    abort: AbortHandle,
    step: Step,
    began: Instant,
    phase: watch::Receiver<ModelPhase>,
    /// Whether the item stopped serving by itself meanwhile.
    is_lost: bool,
    /// Whether what it was to be beside has gone meanwhile, so that its end says nothing.
    is_unsettled: bool,
}

impl<R: Residents + 'static> Converger<R> {
    fn new(residents: Arc<R>, desired: Arc<Desired>) -> Self {
        Self {
            residents,
            goal: diff::goal(&desired, &Goal::new()),
            desired,
            holding: Holding::new(),
            facts: BTreeMap::new(),
            retries: BTreeMap::new(),
            losses: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            progress: Arc::new(Notify::new()),
            jitter: RandomState::new(),
        }
    }

    /// Takes a new goal. A put under way that it does not want is cancelled; a removal is short
    /// and runs to its end.
    fn aim(&mut self, desired: Arc<Desired>) {
        self.goal = diff::goal(&desired, &self.goal);
        self.desired = desired;
        let goal = &self.goal;
        self.retries.retain(|_, retry| is_wanted(goal, &retry.step));
        for running in self.running.values() {
            if matches!(running.step, Step::Put(_)) && !is_wanted(goal, &running.step) {
                running.abort.abort();
            }
        }
    }

    fn start_what_is_due(&mut self, now: Instant) {
        for step in diff::diff(&self.holding, &self.goal) {
            let key = step.key();
            let is_due = self.retries.get(&key).is_none_or(|retry| retry.is_due(&step, now));
            let is_free = is_due && !self.running.contains_key(&key) && self.is_based(&step);
            if is_free && self.has_room_for(&step) {
                self.start(key, step, now);
            }
        }
    }

    /// Only models take turns, each among those of its stage. Of other steps there is one for each
    /// item at most, and a revoked key or a removal must not wait for what somebody else's program
    /// takes; the bound on programs is with those who fetch them.
    fn has_room_for(&self, step: &Step) -> bool {
        let Some(stage) = stage_of(step) else { return true };
        let others = self.running.values().filter(|other| stage_of(&other.step) == Some(stage));
        others.count() < at_once(stage)
    }

    fn start(&mut self, key: Key, step: Step, now: Instant) {
        if let Step::Put(_) = step {
            self.holding.insert(key.clone(), Held::Unknown);
        }
        if let Some((stage, Fact::Model(held))) = stage_of(&step).zip(self.facts.get_mut(&key)) {
            held.lower(stage);
        }
        if stage_of(&step).is_some_and(|stage| stage < Stage::Load) {
            self.unsettle_adapters(&key);
        }
        let (teller, phase) = watch::channel(ModelPhase::Pending);
        let tell = {
            let progress = self.progress.clone();
            move |phase| {
                // Only the end of the put says how it ended.
                if let ModelPhase::Fetching { .. } | ModelPhase::Loading = phase {
                    teller.send_replace(phase);
                    progress.notify_one();
                }
            }
        };
        let abort = self.tasks.spawn(perform(self.residents.clone(), step.clone(), tell));
        let task = abort.id();
        let (is_lost, is_unsettled) = (false, false);
        let running = Running { task, abort, step, began: now, phase, is_lost, is_unsettled };
        self.running.insert(key, running);
    }

    /// By when the steps end that may be short ones, if any is under way. Those of models are not.
    fn short_steps_end(&self, now: Instant) -> Option<Instant> {
        let short = self.running.values().filter(|running| stage_of(&running.step).is_none());
        short.map(|running| running.began + SHORT_STEP).filter(|end| now < *end).max()
    }

    /// Takes in how a step ended; says whether it was one of a model.
    fn finish(
        &mut self,
        ended: Result<(Id, Result<Fact, Failure>), JoinError>,
        now: Instant,
    ) -> bool {
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, Some(outcome)),
            Err(cancelled) if cancelled.is_cancelled() => (cancelled.id(), None),
            Err(panicked) => (panicked.id(), Some(Err(panic_failure(&panicked)))),
        };
        let Some((key, Running { step, is_lost, is_unsettled, .. })) =
            self.running.extract_if(.., |_, running| running.task == task).next()
        else {
            return false;
        };
        let is_of_model = matches!(key, Key::Model(_));
        let is_put = matches!(step, Step::Put(_));
        match outcome.filter(|_| !is_unsettled) {
            None => tracing::info!(item = %step.key(), "no longer wanted, cancelled"),
            Some(Ok(fact)) => self.succeed(step, fact),
            Some(Err(failure)) => self.fail(step, failure, now),
        }
        if is_lost
            && is_put
            && let Key::Model(name) = key
        {
            // What was lost may be what was just put; then nobody else says so again. If it was the
            // one before, the model is loaded once in vain.
            self.lose(name, now);
        }
        is_of_model
    }

    fn succeed(&mut self, step: Step, fact: Fact) {
        let key = step.key();
        self.retries.remove(&key);
        self.unsettle_adapters(&key);
        if let Fact::Removed = fact {
            tracing::info!(item = %key, "removed");
            self.facts.remove(&key);
            self.losses.remove(&key);
        } else {
            tracing::info!(item = %key, "ready");
            self.facts.insert(key, fact);
        }
        diff::apply(&mut self.holding, step);
    }

    fn fail(&mut self, step: Step, failure: Failure, now: Instant) {
        if !is_wanted(&self.goal, &step) {
            return;
        }
        let failures = match self.retries.get(&step.key()) {
            Some(retry) if retry.step == step => retry.failures.saturating_add(1),
            _ => 1,
        };
        self.retry_later(step, failures, failure, now);
    }

    /// Takes note that a model has stopped serving by itself, and puts it again soon. What is not
    /// wanted any more needs no other step.
    fn lose(&mut self, name: ModelName, now: Instant) {
        let key = Key::Model(name);
        // Whatever else is under way: nobody is to be sent here.
        self.unsettle_adapters(&key);
        self.facts.remove(&key);
        if let Some(running) = self.running.get_mut(&key) {
            running.is_lost = true;
            return;
        }
        let Some(Held::Known(spec)) = self.holding.get(&key).cloned() else { return };
        self.holding.insert(key.clone(), Held::Unknown);
        if self.goal.get(&key) == Some(&spec) {
            let loss = Loss::after(self.losses.get(&key), now);
            let message = "the engine stopped serving; the node's log says why".to_owned();
            let failure = Failure { reason: "EngineFailed", message };
            self.retry_later(Step::Put(spec), loss.count, failure, now);
            self.losses.insert(key, loss);
        }
    }

    fn retry_later(&mut self, step: Step, failures: u32, failure: Failure, now: Instant) {
        let key = step.key();
        let wait = retry::backoff(failures, self.jitter.hash_one((&key.to_string(), failures)));
        tracing::warn!(
            item = %key,
            reason = failure.reason,
            message = failure.message,
            failures,
            retry_in_ms = wait.as_millis(),
            "not as desired"
        );
        self.retries.insert(key, Retry { step, failures, due: now + wait, failure });
    }

    /// When the next failed step may run again. Those that may already wait for room, and room
    /// comes with the end of another step.
    fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.retries.values().map(|retry| retry.due).filter(|&due| now < due).min()
    }
}

fn is_wanted(goal: &Goal, step: &Step) -> bool {
    match step {
        Step::Put(spec) => goal.get(&spec.key()) == Some(spec),
        Step::Remove(key) => !goal.contains_key(key),
    }
}

/// The stage that a step takes its model to.
fn stage_of(step: &Step) -> Option<Stage> {
    match step {
        Step::Put(Spec::Model(model)) => Some(model.stage),
        Step::Put(Spec::Pipeline(_) | Spec::Tenant(_)) | Step::Remove(_) => None,
    }
}

async fn perform<R: Residents>(
    residents: Arc<R>,
    step: Step,
    tell: impl Fn(ModelPhase) + Send + Sync,
) -> Result<Fact, Failure> {
    match step {
        Step::Put(Spec::Model(model)) => {
            let facts = residents.put_model(&model, &tell).await?;
            let kv_blocks = model.kv_blocks.filter(|_| model.stage == Stage::Load);
            let base = adapters::base(&model).cloned();
            Ok(Fact::Model(HeldModel { facts, stage: model.stage, kv_blocks, base }))
        }
        Step::Put(Spec::Pipeline(pipeline)) => {
            residents.put_pipeline(&pipeline).await.map(|()| Fact::Pipeline)
        }
        Step::Put(Spec::Tenant(tenant)) => residents.put_tenant(&tenant).await.map(Fact::Tenant),
        Step::Remove(key) => {
            match key {
                Key::Model(name) => residents.remove_model(&name).await,
                Key::Pipeline(name) => residents.remove_pipeline(&name).await,
                Key::Tenant(name) => residents.remove_tenant(&name).await,
            }
            Ok(Fact::Removed)
        }
    }
}

/// A panic is a fault of ours; it ends one step of one item.
fn panic_failure(panicked: &JoinError) -> Failure {
    tracing::error!(error = %panicked, "a step panicked");
    Failure { reason: "Internal", message: "internal error; the server's log has the cause".into() }
}

#[cfg(test)]
mod tests;
