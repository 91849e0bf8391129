//! The threads that share one step's work: a barrier that spins briefly and then sleeps.
//!
//! A step is hundreds of small jobs in a row, so a worker that has just finished one looks for the
//! next for a few microseconds before it parks; an idle pool takes no processor time.

#![expect(unsafe_code, reason = "a job borrows from the stack of the thread that waits for it")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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

/// What each thread of the pool runs, with its number.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A fixed number of threads, one of which is the caller's.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Memory for the places of a job, kept so that the hundreds of jobs of a step allocate nothing.
    places: Vec<Place>,
}

struct Shared {
    /// Grows by one with each job; a worker runs the job when it sees a new number.
    epoch: AtomicU32,
    /// Written only by the caller while no job runs, read by workers only while one does.
    job: UnsafeCell<Option<Job<'static>>>,
    /// Workers that have not finished the current job.
    running: AtomicUsize,
    /// Which workers sleep or are about to.
    parked: Vec<AtomicBool>,
    /// The caller, when it sleeps until the last worker is done.
    waiting: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync by itself. The caller writes it before it
// publishes a new epoch and not again before `running` is back at zero; workers read it only
// between those two events.
unsafe impl Sync for Shared {}
// SAFETY: a `Job` is a shared reference to a Sync closure, which may be sent.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` workers; fewer when the system grants no more.
    pub(crate) fn new(threads: usize) -> Self {
        let wanted = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            parked: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
            waiting: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
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

    /// Runs `job` once on every thread and returns when all have ended.
    ///
    /// A panic on any thread is carried on here, after the others have ended.
    pub(crate) fn run(&mut self, job: Job<'_>) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: the lifetime is extended only in this slot, which is read by workers until
        // `running` is zero; `wait` below returns no sooner, also when `job` panics here.
        let job_static: Job<'static> = unsafe { std::mem::transmute::<Job<'_>, _>(job) };
        // SAFETY: `&mut self` and the wait at the end mean that no job runs, so no worker reads.
        unsafe { *shared.job.get() = Some(job_static) };
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
        shared.wait();
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its jobs throw, so it has no panic to report.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life: wait for the next epoch, run its job, say so.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(index, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: a new epoch was seen, so the caller has written the job and waits for us.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                let ended = catch_unwind(AssertUnwindSafe(|| job(index + 1)));
                if let Err(payload) = ended {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                }
            }
            if self.running.fetch_sub(1, Ordering::SeqCst) == 1
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

    fn next_epoch(&self, index: usize, seen: u32) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        // The flag is raised before the epoch is looked at again, and the caller looks at the flag
        // after it has moved the epoch: one of the two sees the other.
        let parked = &self.parked[index];
        parked.store(true, Ordering::SeqCst);
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                parked.store(false, Ordering::SeqCst);
                return epoch;
            }
            thread::park();
        }
    }

    /// Returns when no worker runs the current job any more.
    fn wait(&self) {
        for _ in 0..SPINS {
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) != 0 {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_job_once() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads);
            for _ in 0..300 {
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|thread| {
                    counts[thread].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_parked_pool_wakes_for_the_next_job() {
        let mut pool = Pool::new(3);
        pool.run(&|_| ());
        while !pool.shared.parked.iter().all(|parked| parked.load(Ordering::SeqCst)) {
            thread::yield_now();
        }
        let count = AtomicUsize::new(0);
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_panic_on_a_worker_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|thread| assert_ne!(thread, 1, "thrown on purpose"));
        }));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
