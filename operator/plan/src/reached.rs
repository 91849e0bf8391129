//! What tenants have come up against, by what agents say of the last minutes: which of their limits
//! they have reached, and whether their calls waited behind those of others.
//!
//! Agents reckon those minutes themselves, and say the same for as long as the same things hold:
//! what is new costs a look, and what is not a comparison. What one said that cannot be heard
//! any more holds for another minute.
//!
//! Pure state; time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{name::Name, shares::Spends};

/// How long what an agent said last that has gone since holds, and how long a new leader listens
/// before it knows that what nobody says is not so.
pub const HELD_FOR: Duration = Duration::from_mins(1);

/// The limits that calls come up against, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Requests,
    InputTokens,
    OutputTokens,
    Calls,
    KvBlocks,
}

impl Limit {
    pub const ALL: [Self; 5] =
        [Self::Requests, Self::InputTokens, Self::OutputTokens, Self::Calls, Self::KvBlocks];

    /// Of these, those that doors refuse calls by.
    const OF_DOORS: usize = 4;
}

/// Limits, and what others are behind them.
const EACH: usize = Limit::ALL.len() + 1;

/// Whether each limit is reached, in the order of [`Limit::ALL`], and last whether calls waited behind
/// those of other tenants.
pub type EachReached = [bool; EACH];

/// What one tenant has come up against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bites {
    /// The limits that it has reached, in their order.
    pub limits: Vec<Limit>,
    /// Whether its calls waited behind those of other tenants.
    pub is_behind_others: bool,
    /// How many doors have refused its calls since the first of them began to. But for those that
    /// have gone it only grows until all have let in everything for a minute, so that who is refused
    /// now here and now there is not told of each time.
    pub doors: u32,
}

/// What all agents say.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    nodes: BTreeMap<String, OfNode>,
    /// Those that have come up against anything.
    tenants: BTreeMap<Name, OfTenant>,
}

#[derive(Clone, Debug, Default)]
struct OfNode {
    said: Option<Arc<Spends>>,
    /// Since when nobody hears what it says now.
    away_since: Option<Duration>,
    /// Whether its agent tells of nothing.
    is_older: bool,
}

#[derive(Clone, Debug, Default)]
struct OfTenant {
    /// How many nodes say so of each limit.
    nodes: [u32; EACH],
    doors: BTreeSet<String>,
}

impl OfNode {
    fn go(&mut self, now: Duration) {
        if self.said.is_some() {
            self.away_since.get_or_insert(now);
        }
    }
}

impl Reached {
    /// Takes what a node's agent says, as often as one likes.
    pub fn says(&mut self, node: &str, spends: &Arc<Spends>, now: Duration) {
        if spends.reached.is_none() {
            self.older(node, now);
            return;
        }
        let is_same = |it: &OfNode| it.said.as_ref().is_some_and(|said| Arc::ptr_eq(said, spends));
        if self.nodes.get(node).is_some_and(|it| is_same(it) && it.away_since.is_none()) {
            return;
        }
        let new = OfNode { said: Some(spends.clone()), ..OfNode::default() };
        let old = self.nodes.insert(node.to_owned(), new).and_then(|old| old.said);
        self.replace(node, old.as_deref(), Some(spends));
    }

    /// Notes that a node's agent is of a release that tells of no limits.
    pub fn older(&mut self, node: &str, now: Duration) {
        let of_node = self.nodes.entry(node.to_owned()).or_default();
        of_node.is_older = true;
        of_node.go(now);
    }

    /// Notes that a node's agent says nothing for now.
    pub fn away(&mut self, node: &str, now: Duration) {
        if let Some(of_node) = self.nodes.get_mut(node) {
            of_node.go(now);
        }
    }

    /// Forgets nodes that are lost, and what those said that went a minute ago.
    pub fn pass(&mut self, is_known: impl Fn(&str) -> bool, now: Duration) {
        let mut ended = Vec::new();
        for (node, of_node) in &mut self.nodes {
            if !is_known(node) {
                of_node.is_older = false;
                of_node.go(now);
            }
            let ends = of_node.away_since.map(|since| since.saturating_add(HELD_FOR));
            if ends.is_some_and(|ends| ends <= now) {
                of_node.away_since = None;
                ended.extend(of_node.said.take().map(|said| (node.clone(), said)));
            }
        }
        for (node, said) in ended {
            self.replace(&node, Some(&said), None);
        }
        let is_there = |of_node: &OfNode| of_node.said.is_some() || of_node.is_older;
        for (node, _) in self.nodes.extract_if(.., |_, of_node| !is_there(of_node)) {
            for of_tenant in self.tenants.values_mut() {
                of_tenant.doors.remove(&node);
            }
        }
    }

    /// When time alone changes something.
    pub fn due(&self) -> Option<Duration> {
        let away = self.nodes.values().filter_map(|of_node| of_node.away_since);
        away.min().map(|since| since.saturating_add(HELD_FOR))
    }

    /// Whether some agent tells of no limits, so that nobody knows what it refuses.
    pub fn has_older(&self) -> bool {
        self.nodes.values().any(|of_node| of_node.is_older)
    }

    /// What a tenant has come up against.
    pub fn of(&self, tenant: &Name) -> Bites {
        let Some(OfTenant { nodes, doors }) = self.tenants.get(tenant) else {
            return Bites::default();
        };
        let reached = Limit::ALL.into_iter().zip(nodes).filter(|(_, nodes)| **nodes > 0);
        Bites {
            limits: reached.map(|(limit, _)| limit).collect(),
            is_behind_others: nodes.last().is_some_and(|nodes| *nodes > 0),
            doors: u32::try_from(doors.len()).unwrap_or(u32::MAX),
        }
    }

    fn replace(&mut self, node: &str, old: Option<&Spends>, new: Option<&Spends>) {
        let none = BTreeMap::new();
        let [old, new] = [old, new].map(|said| said.and_then(|said| said.reached.as_ref()));
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        if old == new {
            return;
        }
        // What comes before what goes: a door that refuses for another reason is still one.
        for (tenant, limits) in new {
            let before = old.get(tenant).copied().unwrap_or_default();
            if *limits != before {
                let of_tenant = self.tenants.entry(tenant.clone()).or_default();
                of_tenant.add(node, without(*limits, before));
            }
        }
        for (tenant, limits) in old {
            let gone = without(*limits, new.get(tenant).copied().unwrap_or_default());
            if let Some(of_tenant) = self.tenants.get_mut(tenant)
                && of_tenant.remove(gone)
            {
                self.tenants.remove(tenant);
            }
        }
    }
}

/// What is in `all` and not in `part`.
fn without(all: EachReached, part: EachReached) -> EachReached {
    let mut left = all;
    for (left, part) in left.iter_mut().zip(part) {
        *left &= !part;
    }
    left
}

impl OfTenant {
    fn add(&mut self, node: &str, limits: EachReached) {
        for (nodes, is_new) in self.nodes.iter_mut().zip(limits) {
            *nodes = nodes.saturating_add(u32::from(is_new));
        }
        if limits.into_iter().take(Limit::OF_DOORS).any(|is_new| is_new) {
            self.doors.insert(node.to_owned());
        }
    }

    /// Gives whether nobody says anything of it any more.
    fn remove(&mut self, limits: EachReached) -> bool {
        for (nodes, is_gone) in self.nodes.iter_mut().zip(limits) {
            *nodes = nodes.saturating_sub(u32::from(is_gone));
        }
        if self.nodes.iter().take(Limit::OF_DOORS).all(|nodes| *nodes == 0) {
            self.doors.clear();
        }
        self.nodes.iter().all(|nodes| *nodes == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::new("default", name).unwrap()
    }

    /// What an agent says of `acme`.
    fn spends(limits: &[Limit]) -> Arc<Spends> {
        said(limits, false)
    }

    /// The same, and whether its calls waited behind others.
    fn said(limits: &[Limit], is_behind_others: bool) -> Arc<Spends> {
        let mut each = [is_behind_others; EACH];
        for (is_reached, limit) in each.iter_mut().zip(Limit::ALL) {
            *is_reached = limits.contains(&limit);
        }
        let acme = each.contains(&true).then(|| (name("acme"), each));
        Arc::new(Spends { reached: Some(acme.into_iter().collect()), ..Spends::default() })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(reached: &Reached, limits: &[Limit], doors: u32) {
        let expected = Bites { limits: limits.to_vec(), is_behind_others: false, doors };
        assert_eq!(reached.of(&name("acme")), expected);
    }

    #[test]
    fn limits_are_told_in_their_order_for_as_long_as_any_door_says_that_they_are_reached() {
        let mut reached = Reached::default();
        check(&reached, &[], 0);
        reached.says("a", &spends(&[Limit::Calls]), at(1));
        check(&reached, &[Limit::Calls], 1);
        reached.says("b", &spends(&[Limit::Requests, Limit::Calls]), at(2));
        check(&reached, &[Limit::Requests, Limit::Calls], 2);
        assert_eq!(reached.of(&name("zeta")), Bites::default());
        reached.says("a", &spends(&[]), at(3));
        check(&reached, &[Limit::Requests, Limit::Calls], 2);
        reached.says("b", &spends(&[]), at(4));
        check(&reached, &[], 0);
        assert_eq!(reached.due(), None, "the minute is the agents' to reckon");
    }

    #[test]
    fn doors_that_refuse_by_turns_are_counted_and_not_told_each_time() {
        let mut reached = Reached::default();
        reached.says("a", &spends(&[Limit::Requests]), at(1));
        reached.says("b", &spends(&[Limit::Requests]), at(2));
        reached.says("a", &spends(&[]), at(3));
        check(&reached, &[Limit::Requests], 2);
        reached.says("a", &spends(&[Limit::Requests]), at(4));
        check(&reached, &[Limit::Requests], 2);
        // It refuses for another reason, and is the same door.
        reached.says("a", &spends(&[Limit::OutputTokens]), at(5));
        reached.says("b", &spends(&[]), at(6));
        check(&reached, &[Limit::OutputTokens], 2);
        reached.says("a", &spends(&[]), at(7));
        reached.says("b", &spends(&[Limit::Requests]), at(8));
        check(&reached, &[Limit::Requests], 1);
    }

    #[test]
    fn what_is_said_again_counts_once() {
        let mut reached = Reached::default();
        let said = spends(&[Limit::Requests]);
        for _ in 0..3 {
            reached.says("a", &said, at(1));
            reached.says("a", &spends(&[Limit::Requests]), at(1));
        }
        reached.says("a", &spends(&[]), at(2));
        check(&reached, &[], 0);
    }

    #[test]
    fn a_node_that_waits_for_blocks_is_no_door_that_refuses() {
        let mut reached = Reached::default();
        reached.says("a", &spends(&[Limit::KvBlocks]), at(1));
        check(&reached, &[Limit::KvBlocks], 0);
        reached.says("b", &spends(&[Limit::Calls]), at(2));
        check(&reached, &[Limit::Calls, Limit::KvBlocks], 1);
        reached.says("b", &spends(&[]), at(3));
        check(&reached, &[Limit::KvBlocks], 0);
    }

    #[test]
    fn who_waits_behind_others_has_reached_no_limit() {
        let mut reached = Reached::default();
        reached.says("a", &said(&[], true), at(1));
        let behind = Bites { is_behind_others: true, ..Bites::default() };
        assert_eq!(reached.of(&name("acme")), behind);
        reached.says("b", &said(&[Limit::Calls], true), at(2));
        reached.says("a", &spends(&[]), at(3));
        let both = Bites { limits: vec![Limit::Calls], is_behind_others: true, doors: 1 };
        assert_eq!(reached.of(&name("acme")), both);
        reached.says("b", &spends(&[Limit::Calls]), at(4));
        check(&reached, &[Limit::Calls], 1);
    }

    #[test]
    fn what_an_agent_said_that_went_holds_for_a_minute_or_until_it_says_otherwise() {
        let mut reached = Reached::default();
        reached.says("a", &spends(&[Limit::Requests]), at(1));
        reached.away("a", at(10));
        reached.away("a", at(20));
        assert_eq!(reached.due(), Some(at(10) + HELD_FOR));
        reached.pass(|_| true, at(69));
        check(&reached, &[Limit::Requests], 1);
        reached.pass(|_| true, at(70));
        check(&reached, &[], 0);
        assert!(reached.nodes.is_empty() && reached.due().is_none());

        reached.says("a", &spends(&[Limit::Requests]), at(80));
        reached.away("a", at(90));
        reached.says("a", &spends(&[Limit::Requests]), at(100));
        reached.pass(|_| true, at(200));
        check(&reached, &[Limit::Requests], 1);
        reached.away("a", at(210));
        reached.says("a", &spends(&[]), at(211));
        check(&reached, &[], 0);
    }

    #[test]
    fn a_node_that_is_lost_is_forgotten_a_minute_later() {
        let mut reached = Reached::default();
        reached.says("a", &spends(&[Limit::Requests]), at(1));
        reached.older("b", at(1));
        reached.pass(|_| false, at(10));
        assert!(!reached.has_older());
        check(&reached, &[Limit::Requests], 1);
        reached.pass(|_| false, at(70));
        check(&reached, &[], 0);
        assert!(reached.nodes.is_empty());
    }

    #[test]
    fn doors_that_have_gone_are_counted_no_more() {
        let mut reached = Reached::default();
        let is_known = |node: &str| node == "b";
        reached.says("b", &spends(&[Limit::Requests]), at(1));
        for (n, node) in (0..).zip(["a", "c", "d"]) {
            reached.says(node, &spends(&[Limit::Requests]), at(200 * n));
            reached.says(node, &spends(&[]), at(200 * n + 1));
            check(&reached, &[Limit::Requests], 2);
            reached.pass(is_known, at(200 * n + 2));
            check(&reached, &[Limit::Requests], 2);
            reached.pass(is_known, at(200 * n + 100));
            check(&reached, &[Limit::Requests], 1);
        }
    }

    #[test]
    fn an_agent_of_an_older_release_does_not_say_that_nothing_is_refused() {
        let mut reached = Reached::default();
        reached.says("a", &Arc::new(Spends::default()), at(1));
        assert!(reached.has_older());
        reached.away("a", at(2));
        reached.pass(|_| true, at(100));
        assert!(reached.has_older(), "it comes back as it was");
        reached.says("a", &spends(&[Limit::Requests]), at(101));
        assert!(!reached.has_older());
        // An older one takes its place, and says nothing of what was refused a moment ago.
        reached.says("a", &Arc::new(Spends::default()), at(102));
        reached.pass(|_| true, at(103));
        check(&reached, &[Limit::Requests], 1);
        reached.pass(|_| true, at(162));
        check(&reached, &[], 0);
        assert!(reached.has_older());
    }
}
