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

use crate::{
    batch::SequenceId,
    constraint::places::Place,
    hook::{PLACES_MAX, processor},
    turns::Turns,
};

/// Threads: as many as masks have.
pub(crate) const THREADS: u32 = 2;

/// How long a hook works until the next tenant's has its turn. Most are done long before it; of
/// sixteen tenants whose hooks all loop, each has its turn again within half of the time that a
/// token waits by default.
const SLICE: Duration = Duration::from_millis(1);

/// A hook with its place, which it has for as long as there is anything of it.
pub(crate) struct Placed {
    pub(crate) hook: Box<dyn Hook>,
    place: Place,
    /// How long it has had a processor for what it has been asked.
    worked: Duration,
}

impl Placed {
    pub(crate) const fn new(hook: Box<dyn Hook>, place: Place) -> Self {
        Self { hook, place, worked: Duration::ZERO }
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
    /// How long it has had a processor for that.
    pub(crate) worked: Duration,
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
        let before = processor::time();
        let answer = work_for(&mut *placed.hook, SLICE);
        // Of the same thread: a hook waits for nothing and stays where it is until its turn is over.
        placed.worked += processor::time().saturating_sub(before);
        match answer {
            None => {
                let tenant = placed.place.tenant().clone();
                // Behind its tenant's others, and that behind all others. Closed, it is dropped.
                drop(turns.push(&tenant, Work::Answer(id, placed)));
            }
            Some(answer) => {
                let worked = std::mem::take(&mut placed.worked);
                let answered = Answered { id, placed, answer, worked, at: Instant::now() };
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use realm_core::hook::Question;

    use super::*;
    use crate::constraint::places::Places;

    const WHILE: Duration = Duration::from_millis(2);

    /// A hook that is done when it has had so many turns, in each of which it does the same.
    struct Turning(u32, fn());

    impl Hook for Turning {
        fn ask(&mut self, _question: Question) {
            self.0 = 5;
        }

        fn work(&mut self) -> Option<Result<Answer, Refusal>> {
            (self.1)();
            self.0 -= 1;
            (self.0 == 0).then(|| Ok(Answer::default()))
        }
    }

    /// Has a processor for so long.
    fn compute(for_so_long: Duration) {
        let begun_at = processor::time();
        while processor::time().saturating_sub(begun_at) < for_so_long {}
    }

    fn computes() {
        compute(WHILE);
    }

    fn lets_others_compute() {
        thread::spawn(|| compute(10 * WHILE)).join().unwrap();
    }

    /// What each of two questions is told to have taken, and how long it really took.
    fn work_of_two_questions(turn: fn()) -> [(Duration, Duration); 2] {
        let tenant = TenantName::new("default", "a").unwrap();
        let place = Arc::new(Places::new(PLACES_MAX)).take(&tenant).unwrap();
        let mut placed = Some(Placed::new(Box::new(Turning(0, turn)), place));
        let mut hooks = Hooks::default();
        [(); 2].map(|()| {
            let asked_at = Instant::now();
            let mut asked = placed.take().unwrap();
            asked.hook.ask(Question::Begin);
            assert!(hooks.work(SequenceId(1), &tenant, asked));
            let answered = hooks.take(Duration::from_mins(1)).unwrap();
            placed = Some(answered.placed);
            (answered.worked, answered.at.duration_since(asked_at))
        })
    }

    /// A hook that has answered when another one is at work.
    struct Meeting(Arc<AtomicU32>);

    impl Hook for Meeting {
        fn ask(&mut self, _question: Question) {}

        fn work(&mut self) -> Option<Result<Answer, Refusal>> {
            self.0.fetch_add(1, Relaxed);
            let begun_at = Instant::now();
            while self.0.load(Relaxed) < 2 {
                if begun_at.elapsed() > Duration::from_secs(20) {
                    return Some(Err(Refusal::Internal));
                }
                thread::yield_now();
            }
            Some(Ok(Answer::default()))
        }
    }

    #[test]
    fn hooks_of_two_tenants_work_at_the_same_time() {
        let (places, here) = (Arc::new(Places::new(PLACES_MAX)), Arc::new(AtomicU32::new(0)));
        let mut hooks = Hooks::default();
        for (id, name) in [(1, "a"), (2, "b")] {
            let tenant = TenantName::new("default", name).unwrap();
            let place = places.take(&tenant).unwrap();
            let placed = Placed::new(Box::new(Meeting(here.clone())), place);
            assert!(hooks.work(SequenceId(id), &tenant, placed));
        }
        for _ in ["a", "b"] {
            assert!(hooks.take(Duration::from_mins(1)).unwrap().answer.is_ok());
        }
    }

    #[test]
    fn a_hook_is_told_of_with_all_the_time_of_a_processor_that_it_had_for_one_question() {
        for (worked, took) in work_of_two_questions(computes) {
            // Two clocks, which need not go at quite the same pace.
            assert!(worked >= 5 * WHILE && worked <= took + WHILE, "{worked:?} of {took:?}");
        }
    }

    #[test]
    fn time_in_which_others_have_the_processor_is_none_of_a_hooks() {
        for (worked, took) in work_of_two_questions(lets_others_compute) {
            assert!(worked < 5 * WHILE && took > 40 * WHILE, "{worked:?} of {took:?}");
        }
    }
}
