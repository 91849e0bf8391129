//! The threads that share one step's work: workers look for it briefly and then sleep.
//!
//! A step is hundreds of small jobs in a row, so a worker that has just finished one looks for the
//! next for some microseconds before it parks; an idle pool takes no processor time. Nobody waits
//! for a worker that has not begun: it may be asleep, or its processor at work for somebody else,
//! and what it would have done the others do.

#![expect(unsafe_code, reason = "a job borrows from the stack of the thread that waits for it")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use super::grid::Place;

/// Looks for a new job, or for the end of one, before a thread parks.
///
/// A look is a pause instruction of 10 to 50 ns, so this is 20 to 100 us: longer than the gaps
/// between the jobs of a step, shorter than what would be noticed when idle.
const SPINS: u32 = 2000;

/// Threads that this process may run at once, as its affinity and its cgroup's quota allow.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// What threads of the pool run: they find out among themselves who does what of it.
type Job<'a> = &'a (dyn Fn() + Sync);

/// Of [`Shared::state`]: one worker that is at the job.
const WORKER: u64 = 1;
/// Of [`Shared::state`]: whether workers may still begin.
const OPEN: u64 = 1 << 32;
/// Of [`Shared::state`]: one job.
const JOB: u64 = 1 << 33;

/// A fixed number of threads, one of which is the caller's.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Memory for the places of a job, kept so that the hundreds of jobs of a step allocate nothing.
    places: Vec<Place>,
}

/// On cache lines of its own, which those that wait read over and over: a processor may fetch two.
#[repr(align(128))]
pub(super) struct Apart<T>(pub(super) T);

struct Shared {
    /// The number of the job, whether it is open, and how many workers are at it, from the upper
    /// bits to the lower. In one word, so that none begins what has just been closed.
    state: Apart<AtomicU64>,
    /// Written only by the caller while no job is open and no worker at one; read by a worker only
    /// while it is at one.
    job: UnsafeCell<Option<Job<'static>>>,
    /// Which workers sleep or are about to.
    parked: Vec<AtomicBool>,
    /// The caller, when it sleeps until the last worker is done.
    waiting: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync by itself. The caller writes it while the state
// says that no worker is at a job and that none may begin; a worker reads it only after it has
// counted itself in while one was open, and before it counts itself out.
unsafe impl Sync for Shared {}
// SAFETY: a `Job` is a shared reference to a Sync closure, which may be sent.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` workers; fewer when the system grants no more.
    pub(crate) fn new(threads: usize) -> Self {
        let wanted = threads.max(1) - 1;
        let shared = Arc::new(Shared::of(wanted));
        let mut workers = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("kernel-{}", index + 1));
            match builder.spawn(move || shared.work(index)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Self { shared, workers, places: Vec::new() }
    }

    /// An empty list for the places of a job, with the memory of the one kept last.
    pub(super) fn take_places(&mut self) -> Vec<Place> {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        places
    }

    pub(super) fn keep_places(&mut self, places: Vec<Place>) {
        self.places = places;
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` here, and at the same time on each worker that comes before it has ended here.
    /// Returns when all of them have ended.
    ///
    /// A panic on any thread is carried on here, after the others have ended.
    pub(crate) fn run(&mut self, job: Job<'_>) {
        if self.workers.is_empty() {
            return job();
        }
        let shared = &*self.shared;
        // SAFETY: the lifetime is extended only in this slot, which workers read only while the
        // state counts them; `close` below returns once it counts none and none can begin, also
        // when `job` panics here.
        let job_static: Job<'static> = unsafe { std::mem::transmute::<Job<'_>, _>(job) };
        // SAFETY: `&mut self` and the `close` of the last job mean that no worker reads it.
        unsafe { *shared.job.get() = Some(job_static) };
        let before = shared.state.0.load(Ordering::Relaxed);
        shared.state.0.store((before | OPEN).wrapping_add(JOB), Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(job));
        shared.close();
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its jobs throw, so it has no panic to report.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// What so many workers and their caller share.
    fn of(workers: usize) -> Self {
        Self {
            state: Apart(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            parked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            waiting: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// A worker's life: wait for the next job, run it, say so.
    fn work(&self, index: usize) {
        let mut done = 0;
        while let Some(begun) = self.begin(index, done) {
            done = begun;
            // SAFETY: this worker is counted, so the caller has written the job and waits for us.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job
                && let Err(payload) = catch_unwind(AssertUnwindSafe(job))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            }
            // The last one out, of a job that is closed, at which the caller may be waiting.
            if self.state.0.fetch_sub(WORKER, Ordering::SeqCst) & (JOB - 1) == WORKER
                && self.caller_parked.load(Ordering::SeqCst)
            {
                // Looked at, not taken: this thread may have been held up since its job ended, and
                // the caller may already be waiting for the next one, whose end must wake it too.
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(caller) = waiting {
                    caller.unpark();
                }
            }
        }
    }

    /// Counts this worker in at the next open job that is not number `done`, and gives its number;
    /// `None` once there will be none.
    fn begin(&self, index: usize, done: u64) -> Option<u64> {
        loop {
            for _ in 0..SPINS {
                if let Some(begun) = self.try_begin(done) {
                    return Some(begun);
                }
                std::hint::spin_loop();
            }
            // The flag is raised before the state is looked at again, and the caller looks at the
            // flag after it has changed the state: one of the two sees the other.
            let parked = &self.parked[index];
            parked.store(true, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let begun = self.try_begin(done);
            if begun.is_none() {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
            if begun.is_some() {
                return begun;
            }
            // The job that it was woken for may have ended before it came; another may follow.
        }
    }

    /// As [`Shared::begin`], if there is such a job now.
    fn try_begin(&self, done: u64) -> Option<u64> {
        let mut state = self.state.0.load(Ordering::SeqCst);
        while state & OPEN != 0 && state / JOB != done {
            let counted = state + WORKER;
            match self.state.0.compare_exchange_weak(
                state,
                counted,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(state / JOB),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Lets no worker begin any more; returns when none is at the job.
    fn close(&self) {
        self.state.0.fetch_and(!OPEN, Ordering::SeqCst);
        let is_done = || self.state.0.load(Ordering::SeqCst) & (OPEN - 1) == 0;
        for _ in 0..SPINS {
            if is_done() {
                return;
            }
            std::hint::spin_loop();
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while !is_done() {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    use super::*;

    /// Runs a job that ends only once every thread is at it; says how many have been.
    fn with_all(pool: &mut Pool) -> usize {
        let (all, count) = (Barrier::new(pool.threads()), AtomicUsize::new(0));
        pool.run(&|| {
            count.fetch_add(1, Ordering::Relaxed);
            all.wait();
        });
        count.into_inner()
    }

    #[test]
    fn every_thread_comes_to_a_job_and_none_comes_twice() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads);
            for _ in 0..300 {
                assert_eq!(with_all(&mut pool), threads);
            }
        }
    }

    #[test]
    fn no_thread_is_at_a_job_once_it_has_ended() {
        let mut pool = Pool::new(3);
        for round in 0..2000 {
            let (count, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
            pool.run(&|| {
                count.fetch_add(1, Ordering::Relaxed);
                if round % 3 == 0 {
                    thread::yield_now();
                }
                assert!(!is_over.load(Ordering::SeqCst));
            });
            is_over.store(true, Ordering::SeqCst);
            let count = count.into_inner();
            assert!((1..=3).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_worker_whose_processor_is_at_work_for_somebody_else_is_not_waited_for() {
        let shared = Arc::new(Shared::of(1));
        let elsewhere = Arc::clone(&shared);
        let absent = thread::spawn(move || {
            while !elsewhere.stop.load(Ordering::SeqCst) {
                thread::park();
            }
        });
        let mut pool = Pool { shared, workers: vec![absent], places: Vec::new() };
        let count = AtomicUsize::new(0);
        for _ in 0..3 {
            pool.run(&|| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 3);
    }

    #[test]
    fn a_parked_pool_wakes_for_the_next_job() {
        let mut pool = Pool::new(3);
        pool.run(&|| ());
        while !pool.shared.parked.iter().all(|parked| parked.load(Ordering::SeqCst)) {
            thread::yield_now();
        }
        assert_eq!(with_all(&mut pool), 3);
    }

    #[test]
    fn a_worker_that_comes_too_late_for_one_job_looks_for_the_next_before_it_sleeps() {
        let shared = Arc::new(Shared::of(1));
        let (asked, is_parked) = (Arc::clone(&shared), || shared.parked[0].load(Ordering::SeqCst));
        let worker = thread::spawn(move || asked.begin(0, 0));
        let until = |wanted: bool, wake: &dyn Fn()| {
            let begun_at = Instant::now();
            while is_parked() != wanted {
                assert!(begun_at.elapsed() < Duration::from_secs(30), "parked: {wanted}");
                wake();
            }
        };
        until(true, &thread::yield_now);
        // Woken for a job that is over: it is awake for a while, and asleep again.
        until(false, &|| worker.thread().unpark());
        until(true, &thread::yield_now);
        shared.stop.store(true, Ordering::SeqCst);
        worker.thread().unpark();
        assert_eq!(worker.join().unwrap(), None);
    }

    #[test]
    fn the_caller_sleeps_until_the_last_worker_is_done() {
        let mut pool = Pool::new(2);
        let caller = thread::current().id();
        for _ in 0..100 {
            let (shared, both) = (Arc::clone(&pool.shared), Barrier::new(2));
            let is_done = AtomicBool::new(false);
            let is_asleep = || shared.caller_parked.load(Ordering::SeqCst);
            pool.run(&|| {
                both.wait();
                while thread::current().id() != caller && !is_asleep() {
                    thread::yield_now();
                }
                is_done.fetch_or(thread::current().id() != caller, Ordering::SeqCst);
            });
            assert!(is_done.into_inner());
        }
    }

    #[test]
    fn a_panic_on_a_worker_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2);
        let caller = thread::current().id();
        let both = Barrier::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|| {
                both.wait();
                assert_eq!(thread::current().id(), caller, "thrown on purpose");
            });
        }));
        assert!(result.is_err());
        assert_eq!(with_all(&mut pool), 2);
    }
}
