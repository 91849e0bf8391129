//! Memory that models may take, counted when it is promised and not when it is first touched.
//!
//! The pages of a cache are the system's until a sequence writes to them, so what the system calls
//! free says too much while a loaded model has not been busy yet.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes for all models of one device. Clones spend from the same.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Mutex<u64>>);

impl MemoryBudget {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    /// Bytes that nobody has been promised.
    pub fn left(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises `bytes`, all or none, for as long as the reservation lives.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(bytes)?;
        Some(Reservation { budget: self.clone(), bytes })
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
        let mut left = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_add(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_not_promised_again_until_it_is_given_back() {
        let budget = MemoryBudget::new(100);
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let _second = budget.reserve(40).unwrap();
        assert_eq!(budget.left(), 0);
        drop(first);
        assert_eq!(budget.left(), 60);
    }
}
