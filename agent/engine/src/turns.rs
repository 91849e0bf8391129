//! Work of many tenants for a few threads: however much of it one tenant has, each of the others
//! has its turn as often.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use realm_core::name::TenantName;

/// Work that waits, up to a limit for all tenants and one for each.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limits: Limits,
}

/// How much there may be, of all tenants together and of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) all: usize,
    pub(crate) of_tenant: usize,
}

#[derive(Debug)]
struct State<T> {
    /// Never an empty queue.
    waiting: HashMap<TenantName, VecDeque<T>>,
    /// Those that wait, each once, the next one first.
    turns: VecDeque<TenantName>,
    len: usize,
    closed: bool,
}

impl<T> Turns<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state =
            State { waiting: HashMap::new(), turns: VecDeque::new(), len: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing between the first change of a call and its last can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work; gives it back if there is too much already, or nobody to do it.
    pub(crate) fn push(&self, tenant: &TenantName, work: T) -> Result<(), T> {
        let mut state = self.state();
        let of_tenant = state.waiting.get(tenant).map_or(0, VecDeque::len);
        if state.closed || state.len >= self.limits.all || of_tenant >= self.limits.of_tenant {
            return Err(work);
        }
        state.len += 1;
        if let Some(queue) = state.waiting.get_mut(tenant) {
            queue.push_back(work);
        } else {
            state.waiting.insert(tenant.clone(), VecDeque::from([work]));
            state.turns.push_back(tenant.clone());
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next work, once there is any; `None` when no more comes.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.take() {
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more; what is there is still handed out.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        let tenant = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&tenant)?;
        let work = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    #[test]
    fn a_tenant_that_floods_waits_for_itself_alone() {
        let turns = Turns::new(Limits { all: 8, of_tenant: 4 });
        for work in ["a1", "a2", "a3", "a4"] {
            turns.push(&tenant("a"), work).unwrap();
        }
        assert_eq!(turns.push(&tenant("a"), "a5"), Err("a5"), "the rest is for others");
        for work in ["b1", "b2"] {
            turns.push(&tenant("b"), work).unwrap();
        }
        turns.push(&tenant("c"), "c1").unwrap();
        turns.close();
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
    }

    #[test]
    fn what_is_too_much_or_too_late_comes_back() {
        let turns = Turns::new(Limits { all: 1, of_tenant: 1 });
        turns.push(&tenant("a"), 1).unwrap();
        assert_eq!(turns.push(&tenant("b"), 2), Err(2));
        assert_eq!(turns.pop(), Some(1));
        turns.push(&tenant("b"), 3).unwrap();
        turns.close();
        assert_eq!(turns.push(&tenant("b"), 4), Err(4));
        assert_eq!((turns.pop(), turns.pop()), (Some(3), None));
    }
}
