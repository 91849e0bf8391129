//! Who calls, how often, and for how much.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use realm_core::desired::Priority;

use super::random::Random;
use crate::scheduler::Terms;

/// Tenants that behave alike.
#[derive(Clone, Debug)]
pub struct Crowd {
    pub tenants: u32,
    pub weight: u32,
    pub priority: Priority,
    pub arrivals: Arrivals,
    /// Tokens of a prompt, at least and at most.
    pub prompt: (u32, u32),
    /// Tokens of an answer, likewise.
    pub answer: (u32, u32),
}

/// When a tenant calls.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// It keeps so many calls in flight, and follows each with another after a pause.
    Kept { calls: u32, pause_s: f64 },
    /// It keeps so many calls in flight until each has been followed by `more`, begins all of them
    /// again together after a pause, and so on.
    Rounds { calls: u32, more: u32, pause_s: f64 },
    /// It sends up to so many at once, at times of its own, whether or not they are answered.
    Bursts { calls: u32, every_s: f64 },
}

/// A call that comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coming {
    pub(super) at: f64,
    pub(super) tenant: usize,
    pub(super) crowd: usize,
    pub(super) terms: Terms,
    pub(super) answer: u32,
    prompt: u32,
}

impl Coming {
    /// Tokens that no other call has, so that nothing of them is found in a cache.
    pub(super) fn prompt(&self, number: u64) -> Vec<u32> {
        let first = u32::try_from(number & 0xffff_ffff).unwrap_or(0);
        (0..self.prompt).map(|n| first.wrapping_mul(0x9e37_79b1).wrapping_add(n)).collect()
    }
}

/// A moment at which one tenant of a crowd calls.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: f64,
    order: u64,
    crowd: usize,
    tenant: usize,
}

impl Ord for Due {
    /// The earliest is the greatest, for a heap.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

/// What is left of a tenant's round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Calls that are yet to follow others.
    to_follow: u32,
    open: u32,
}

/// All calls to come.
pub(super) struct Calls {
    crowds: Vec<Crowd>,
    /// By their tenants.
    rounds: HashMap<usize, Round>,
    random: Random,
    due: BinaryHeap<Due>,
    /// What came with one burst and is not taken yet.
    ready: Vec<Coming>,
    tenants: usize,
    ordered: u64,
}

impl Calls {
    pub(super) fn new(crowds: &[Crowd], seed: u64) -> Self {
        let mut calls = Self {
            crowds: crowds.to_vec(),
            rounds: HashMap::new(),
            random: Random::new(seed),
            due: BinaryHeap::new(),
            ready: Vec::new(),
            tenants: 0,
            ordered: 0,
        };
        for (crowd, of) in crowds.iter().enumerate() {
            for _ in 0..of.tenants {
                calls.begin(crowd, of.arrivals);
            }
        }
        calls
    }

    /// The first calls of one more tenant.
    fn begin(&mut self, crowd: usize, arrivals: Arrivals) {
        let tenant = self.tenants;
        self.tenants += 1;
        let (calls, mean_s) = match arrivals {
            // Within the first seconds, so that they are not in step.
            Arrivals::Kept { calls, .. } => (calls, 0.5),
            Arrivals::Bursts { every_s, .. } => (1, every_s),
            Arrivals::Rounds { .. } => return self.begin_round(crowd, tenant, 0.0),
        };
        for _ in 0..calls {
            let at = self.random.pause(mean_s);
            self.push(at, crowd, tenant);
        }
    }

    pub(super) const fn tenants(&self) -> usize {
        self.tenants
    }

    fn push(&mut self, at: f64, crowd: usize, tenant: usize) {
        self.ordered += 1;
        self.due.push(Due { at, order: self.ordered, crowd, tenant });
    }

    pub(super) fn next_at(&self) -> Option<f64> {
        self.ready.last().map(|call| call.at).or_else(|| self.due.peek().map(|due| due.at))
    }

    /// The next call that has come by `now`.
    pub(super) fn next_before(&mut self, now: f64) -> Option<Coming> {
        if self.ready.is_empty() {
            let due = *self.due.peek().filter(|due| due.at <= now)?;
            self.due.pop();
            self.make(due);
        }
        self.ready.pop()
    }

    fn make(&mut self, due: Due) {
        let Some(crowd) = self.crowds.get(due.crowd).cloned() else { return };
        let calls = match crowd.arrivals {
            Arrivals::Kept { .. } | Arrivals::Rounds { .. } => 1,
            Arrivals::Bursts { calls, every_s } => {
                let next = due.at + self.random.pause(every_s);
                self.push(next, due.crowd, due.tenant);
                self.random.between((1, calls))
            }
        };
        for _ in 0..calls {
            self.ready.push(Coming {
                at: due.at,
                tenant: due.tenant,
                crowd: due.crowd,
                terms: Terms { weight: crowd.weight, priority: crowd.priority },
                answer: self.random.between(crowd.answer),
                prompt: self.random.between(crowd.prompt),
            });
        }
    }

    /// Takes note that a call has ended at `now`.
    pub(super) fn ended(&mut self, crowd: usize, tenant: usize, now: f64) {
        match self.crowds.get(crowd).map(|crowd| crowd.arrivals) {
            Some(Arrivals::Kept { pause_s, .. }) => {
                let at = now + self.random.pause(pause_s);
                self.push(at, crowd, tenant);
            }
            Some(Arrivals::Rounds { .. }) => self.go_round(crowd, tenant, now),
            Some(Arrivals::Bursts { .. }) | None => {}
        }
    }

    /// All first calls of a tenant's next round.
    fn begin_round(&mut self, crowd: usize, tenant: usize, now: f64) {
        let arrivals = self.crowds.get(crowd).map(|crowd| crowd.arrivals);
        let Some(Arrivals::Rounds { calls, more, pause_s }) = arrivals else { return };
        let at = now + self.random.pause(pause_s);
        self.rounds.insert(tenant, Round { to_follow: calls * more, open: calls });
        for _ in 0..calls {
            self.push(at, crowd, tenant);
        }
    }

    /// Follows a call of a round with the next one, or the last of it with the next round.
    fn go_round(&mut self, crowd: usize, tenant: usize, now: f64) {
        let Some(round) = self.rounds.get_mut(&tenant) else { return };
        if let Some(left) = round.to_follow.checked_sub(1) {
            round.to_follow = left;
            return self.push(now, crowd, tenant);
        }
        round.open = round.open.saturating_sub(1);
        if round.open == 0 {
            self.begin_round(crowd, tenant, now);
        }
    }
}
