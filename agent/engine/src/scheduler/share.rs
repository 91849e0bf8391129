//! Who is served next: shares of the engine's time by weight, in classes of priority. Pure: no
//! clock, no sequences, no blocks; whoever has a turn and what it cost is told from outside.
//!
//! Every party has a counter of what it has had, divided by its weight, and the one that waits with
//! the least is next. A class has reached what its least served waiting party has had; the way from
//! there down to a party's counter is its deficit. The rules are those of the virtual token counter
//! ("Fairness in Serving Large Language Models", Sheng et al., OSDI 2024) with costs in place of
//! tokens and weights as in deficit round robin (Shreedhar and Varghese, SIGCOMM 1995):
//!
//! - Who comes, or begins to wait, is lifted to little below what its class has reached: some prompts
//!   that go before those of who has had more. Nobody banks more than that by being idle, however long,
//!   nor by reading in steps that others fill.
//! - What a party has had beyond the others while they waited stays on its counter, so nobody gets
//!   more by leaving and coming again.
//! - When nobody of a class is kept waiting, nobody owes and nobody is owed: what was spent until
//!   then was spare.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use realm_core::desired::Priority;

use super::cost::Cost;

/// Parts of a picosecond that counters are kept in, so that dividing by a weight of up to ten
/// thousand loses nothing that matters.
const FINE: u128 = 1 << 16;

/// What a party may be behind when it comes or begins to wait: a few short prompts.
pub(super) const CREDIT_MAX: Cost = Cost::from_millis(250);

/// Parties that are forgotten together: looking through this many costs less than one step.
const SWEEP_MIN: usize = 64;

/// What a party is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) weight: u32,
    pub(crate) priority: Priority,
}

impl Terms {
    pub(super) fn divide(self, cost: Cost) -> u128 {
        u128::from(cost.picoseconds()) * FINE / u128::from(self.weight.max(1))
    }
}

#[derive(Clone, Copy, Debug)]
struct Party {
    terms: Terms,
    /// Cost divided by weight, in `FINE` parts.
    served: u128,
    waits: bool,
    /// Whether it has anything in hand, waiting or not.
    is_present: bool,
}

/// A place in the order of service: by class, then by what was had, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn<K>(Reverse<Priority>, u128, K);

impl<K> Turn<K> {
    pub(crate) const fn party(&self) -> &K {
        &self.2
    }
}

/// Parties of one priority.
#[derive(Debug)]
struct Class<K> {
    /// What the least served of those that wait has had; it never falls.
    reached: u128,
    /// Those that wait.
    order: BTreeSet<Turn<K>>,
}

impl<K: Ord> Class<K> {
    fn reach(&mut self) {
        let least = self.order.first().map_or(0, |turn| turn.1);
        self.reached = self.reached.max(least);
    }

    /// The least that a party on these terms may have had when it comes or begins to wait.
    fn least(&self, terms: Terms) -> u128 {
        self.reached.saturating_sub(terms.divide(CREDIT_MAX))
    }
}

/// The counters of all parties.
#[derive(Debug)]
pub(crate) struct Share<K> {
    parties: BTreeMap<K, Party>,
    classes: BTreeMap<Reverse<Priority>, Class<K>>,
    /// Parties that were left by the last sweep.
    kept: usize,
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Self { parties: BTreeMap::new(), classes: BTreeMap::new(), kept: 0 }
    }
}

impl<K: Ord + Clone> Share<K> {
    /// Takes note that `name` has something to do, on these terms from now on.
    pub(crate) fn enter(&mut self, name: &K, terms: Terms) {
        self.level(terms.priority);
        let class = self.class(terms.priority);
        class.reach();
        let served = class.least(terms);
        let new = Party { terms, served, waits: false, is_present: true };
        let party = self.parties.entry(name.clone()).or_insert(new);
        if !party.is_present {
            party.served = party.served.max(served);
        }
        party.is_present = true;
        if party.terms.priority == terms.priority {
            party.terms = terms;
            return;
        }
        // What was had in one class is not compared with what others had in another.
        let waited = party.waits;
        self.rest(name);
        self.parties.insert(name.clone(), new);
        if waited {
            self.wait(name);
        }
    }

    /// Takes note that `name`, which has entered, is kept waiting by others.
    pub(crate) fn wait(&mut self, name: &K) {
        let Some(&Party { terms, waits: false, .. }) = self.parties.get(name) else { return };
        self.level(terms.priority);
        let Some(party) = self.parties.get_mut(name) else { return };
        let class = class(&mut self.classes, terms.priority);
        party.waits = true;
        class.reach();
        party.served = party.served.max(class.least(terms));
        class.order.insert(turn(party, name));
    }

    /// Takes note that `name` has all that it wants for now, or lacks what is not the others' to
    /// give.
    pub(crate) fn rest(&mut self, name: &K) {
        let Some(party) = self.parties.get_mut(name).filter(|party| party.waits) else { return };
        let priority = party.terms.priority;
        let class = class(&mut self.classes, priority);
        class.reach();
        class.order.remove(&turn(party, name));
        party.waits = false;
        self.level(priority);
    }

    /// Makes all of a class even of which nobody waits.
    fn level(&mut self, priority: Priority) {
        let class = class(&mut self.classes, priority);
        if class.order.is_empty() {
            let of_class = self.parties.values().filter(|party| party.terms.priority == priority);
            let most = of_class.map(|party| party.served).max().unwrap_or(0);
            class.reached = class.reached.max(most);
        }
    }

    /// Takes note that `name` has nothing in hand any more.
    pub(crate) fn leave(&mut self, name: &K) {
        self.rest(name);
        if let Some(party) = self.parties.get_mut(name) {
            party.is_present = false;
        }
        if self.parties.len() > (2 * self.kept).max(SWEEP_MIN) {
            self.sweep();
        }
    }

    /// Puts `cost` on the party's counter.
    pub(crate) fn charge(&mut self, name: &K, cost: Cost) {
        self.count(name, u128::saturating_add, cost);
    }

    /// Takes back what was charged for work that is not done after all.
    pub(crate) fn refund(&mut self, name: &K, cost: Cost) {
        self.count(name, u128::saturating_sub, cost);
    }

    fn count(&mut self, name: &K, apply: impl Fn(u128, u128) -> u128, cost: Cost) {
        let Some(party) = self.parties.get_mut(name) else { return };
        let before = turn(party, name);
        party.served = apply(party.served, party.terms.divide(cost));
        if party.waits {
            let class = class(&mut self.classes, party.terms.priority);
            class.order.remove(&before);
            class.order.insert(turn(party, name));
        }
    }

    /// Who waits with the next turn after `turn`, or with the first one.
    pub(crate) fn next(&self, after: Option<&Turn<K>>) -> Option<&Turn<K>> {
        let Some(turn) = after else {
            return self.classes.values().find_map(|class| class.order.first());
        };
        let mut classes = self.classes.range(turn.0..);
        classes.find_map(|(_, class)| class.order.range((Excluded(turn), Unbounded)).next())
    }

    /// Whether `name` has had more than `lead` beyond what `other` has, each for its weight, or is in
    /// a lower class.
    pub(crate) fn is_ahead(&self, name: &K, other: &K, lead: Cost) -> bool {
        let (Some(party), Some(other)) = (self.parties.get(name), self.parties.get(other)) else {
            return false;
        };
        match party.terms.priority.cmp(&other.terms.priority) {
            Ordering::Less => true,
            Ordering::Equal => party.served.saturating_sub(other.served) > party.terms.divide(lead),
            Ordering::Greater => false,
        }
    }

    /// What a party that has something in hand has had, for its weight, and on which terms.
    pub(super) fn served(&self, name: &K) -> Option<(Terms, u128)> {
        self.parties.get(name).map(|party| (party.terms, party.served))
    }

    /// The class that a party is in, as long as it has something in hand.
    pub(crate) fn priority(&self, name: &K) -> Option<Priority> {
        self.parties.get(name).map(|party| party.terms.priority)
    }

    fn class(&mut self, priority: Priority) -> &mut Class<K> {
        class(&mut self.classes, priority)
    }

    /// Forgets parties of which nothing has to be remembered.
    fn sweep(&mut self) {
        let classes = &self.classes;
        self.parties.retain(|_, party| {
            let class = classes.get(&Reverse(party.terms.priority));
            party.is_present || class.is_some_and(|class| party.served > class.least(party.terms))
        });
        self.kept = self.parties.len();
    }
}

fn class<K>(
    classes: &mut BTreeMap<Reverse<Priority>, Class<K>>,
    priority: Priority,
) -> &mut Class<K> {
    let new = || Class { reached: 0, order: BTreeSet::new() };
    classes.entry(Reverse(priority)).or_insert_with(new)
}

fn turn<K: Clone>(party: &Party, name: &K) -> Turn<K> {
    Turn(Reverse(party.terms.priority), party.served, name.clone())
}

#[cfg(test)]
mod tests;
