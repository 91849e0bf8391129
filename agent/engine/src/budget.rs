//! Memory that models may take, counted when it is promised and not when it is first touched.
//!
//! The pages of a cache are the system's until a sequence writes to them, so what the system calls
//! free says too much while a loaded model has not been busy yet.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// What the system says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that this process could still take.
    pub free_bytes: u64,
    /// Bytes that it has taken, whatever for.
    pub resident_bytes: u64,
}

/// Memory for all models of one device. Clones spend from the same.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Budget>);

struct Budget {
    now: Box<dyn Fn() -> Memory + Send + Sync>,
    promised: Mutex<u64>,
}

impl MemoryBudget {
    /// A budget that asks `now` each time: what others take and give back changes what is left.
    pub fn new(now: impl Fn() -> Memory + Send + Sync + 'static) -> Self {
        Self(Arc::new(Budget { now: Box::new(now), promised: Mutex::default() }))
    }

    /// A budget of so many bytes, whatever the system says.
    pub fn fixed(bytes: u64) -> Self {
        Self::new(move || Memory { free_bytes: bytes, resident_bytes: 0 })
    }

    /// Bytes that could be promised now.
    pub fn left(&self) -> u64 {
        self.0.left(*self.0.promised.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Promises `bytes`, all or none, for as long as the reservation lives.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut promised = self.0.promised.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.0.left(*promised) {
            return None;
        }
        *promised = promised.saturating_add(bytes);
        Some(Reservation { budget: self.clone(), bytes })
    }
}

impl Budget {
    /// What the process has and could have, less what is taken: of promises and of resident pages
    /// the larger, for most of either are the other.
    fn left(&self, promised: u64) -> u64 {
        let Memory { free_bytes, resident_bytes } = (self.now)();
        let all = free_bytes.saturating_add(resident_bytes);
        all.saturating_sub(promised.max(resident_bytes))
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget").field("promised", &self.0.promised).finish_non_exhaustive()
    }
}

/// Memory that one model was promised.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: MemoryBudget,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let promised = &self.budget.0.promised;
        let mut promised = promised.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = promised.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_promised_is_not_promised_again_until_it_is_given_back() {
        let budget = MemoryBudget::fixed(100);
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let _second = budget.reserve(40).unwrap();
        assert_eq!(budget.left(), 0);
        drop(first);
        assert_eq!(budget.left(), 60);
    }

    #[test]
    fn pages_that_a_promise_has_taken_are_counted_once() {
        let resident = Arc::new(AtomicU64::new(0));
        let taken = resident.clone();
        let budget = MemoryBudget::new(move || {
            let resident_bytes = taken.load(Ordering::Relaxed);
            Memory { free_bytes: 100 - resident_bytes, resident_bytes }
        });
        let _first = budget.reserve(60).unwrap();
        assert_eq!(budget.left(), 40);
        resident.store(30, Ordering::Relaxed);
        assert_eq!(budget.left(), 40);
        // More than was promised: programs and sockets take memory too.
        resident.store(70, Ordering::Relaxed);
        assert_eq!(budget.left(), 30);
    }

    #[test]
    fn what_others_give_back_is_there_for_the_next_try() {
        let free = Arc::new(AtomicU64::new(10));
        let seen = free.clone();
        let budget = MemoryBudget::new(move || Memory {
            free_bytes: seen.load(Ordering::Relaxed),
            resident_bytes: 5,
        });
        assert!(budget.reserve(50).is_none());
        free.store(100, Ordering::Relaxed);
        assert!(budget.reserve(50).is_some());
    }
}
