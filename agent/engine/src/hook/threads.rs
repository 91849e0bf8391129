//! Hooks at work, on threads of their own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use realm_core::{
    hook::{Answer, Hook},
    name::TenantName,
    refusal::Refusal,
};

use crate::{batch::SequenceId, constraint::places::Place, hook::PLACES_MAX, turns::Turns};

/// Threads: as many as masks have.
const THREADS: usize = 2;

/// How long a hook works until the next tenant's has its turn. Most are done long before it; of
/// sixteen tenants whose hooks all loop, each has its turn again within half of the time that a
/// token waits by default.
const SLICE: Duration = Duration::from_millis(1);

/// A hook with its place, which it has for as long as there is anything of it.
pub(crate) struct Placed {
    pub(crate) hook: Box<dyn Hook>,
    place: Place,
}

impl Placed {
    pub(crate) const fn new(hook: Box<dyn Hook>, place: Place) -> Self {
        Self { hook, place }
    }

    pub(crate) const fn tenant(&self) -> &TenantName {
        self.place.tenant()
    }
}

/// What the threads are given.
enum Work {
    /// A hook that has been asked something.
    Answer(SequenceId, Placed),
    /// One that nobody asks any more: giving its memory back takes a while.
    End(Placed),
}

/// A hook that has answered.
pub(crate) struct Answered {
    pub(crate) id: SequenceId,
    pub(crate) placed: Placed,
    pub(crate) answer: Result<Answer, Refusal>,
    /// When it has, however late that is heard.
    pub(crate) at: Instant,
}

/// The hooks of one engine. The threads start with the first sequence that has one, and end with
/// the engine.
#[derive(Default)]
pub(crate) struct Hooks {
    threads: Option<Threads>,
    /// Answers that have not come.
    asked: usize,
}

struct Threads {
    turns: Arc<Turns<Work>>,
    answered: Receiver<Answered>,
}

impl Hooks {
    /// Lets a hook work on what it has been asked. `false` if nobody will.
    pub(crate) fn work(&mut self, id: SequenceId, tenant: &TenantName, placed: Placed) -> bool {
        let Some(threads) = self.started() else { return false };
        let is_asked = threads.turns.push(tenant, Work::Answer(id, placed)).is_ok();
        self.asked += usize::from(is_asked);
        is_asked
    }

    /// Ends a hook off the engine's thread, whether or not it has ever worked: a program's memory is
    /// unmapped with it.
    pub(crate) fn end(&mut self, tenant: &TenantName, placed: Placed) {
        if let Some(threads) = self.started() {
            // Where they take no more, it ends here.
            drop(threads.turns.push(tenant, Work::End(placed)));
        }
    }

    fn started(&mut self) -> Option<&Threads> {
        if self.threads.is_none() {
            match Threads::start() {
                Ok(threads) => self.threads = Some(threads),
                Err(error) => {
                    tracing::error!(%error, "the threads that let hooks work do not start");
                }
            }
        }
        self.threads.as_ref()
    }

    /// Whether any answer will come, be it for a sequence that has ended.
    pub(crate) const fn are_awaited(&self) -> bool {
        self.asked > 0
    }

    /// An answer that is there, or comes within `wait`.
    pub(crate) fn take(&mut self, wait: Duration) -> Option<Answered> {
        if self.asked == 0 {
            return None;
        }
        let answered = self.threads.as_ref()?.answered.recv_timeout(wait).ok()?;
        self.asked -= 1;
        Some(answered)
    }
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        // Each hook has a place and is at most once in here, so neither is ever full.
        let turns = Arc::new(Turns::new(PLACES_MAX));
        let (sender, answered) = sync_channel(PLACES_MAX.all);
        // Before the first one starts: if the second does not, dropping this ends the first.
        let threads = Self { turns, answered };
        for _ in 0..THREADS {
            let (turns, sender) = (threads.turns.clone(), sender.clone());
            thread::Builder::new()
                .name("realm-hooks".to_owned())
                .spawn(move || work(&turns, &sender))?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.turns.close();
    }
}

/// Works until nobody asks any more, or takes what was answered.
fn work(turns: &Turns<Work>, sender: &SyncSender<Answered>) {
    while let Some(work) = turns.pop() {
        let (id, mut placed) = match work {
            Work::Answer(id, placed) => (id, placed),
            Work::End(placed) => {
                drop(placed);
                continue;
            }
        };
        match work_for(&mut *placed.hook, SLICE) {
            None => {
                let tenant = placed.place.tenant().clone();
                // Behind its tenant's others, and that behind all others. Closed, it is dropped.
                drop(turns.push(&tenant, Work::Answer(id, placed)));
            }
            Some(answer) => {
                let answered = Answered { id, placed, answer, at: Instant::now() };
                if sender.send(answered).is_err() {
                    return;
                }
            }
        }
    }
}

/// Works for about `slice`.
fn work_for(hook: &mut dyn Hook, slice: Duration) -> Option<Result<Answer, Refusal>> {
    let begun_at = Instant::now();
    loop {
        // One that has panicked is asked nothing more: its sequence ends.
        let worked = catch_unwind(AssertUnwindSafe(|| hook.work()));
        match worked {
            Ok(None) if begun_at.elapsed() < slice => {}
            Ok(None) => return None,
            Ok(Some(answer)) => return Some(answer),
            Err(_) => {
                tracing::error!("a hook panicked");
                return Some(Err(Refusal::Internal));
            }
        }
    }
}
