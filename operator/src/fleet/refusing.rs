//! What tenants come up against, limits that refuse calls and other tenants, as far as this leader
//! has heard.

use std::collections::BTreeMap;

use realm_plan::{
    Name,
    reached::{HELD_FOR, Reached},
};
use tokio::time::Instant;

use super::standing::{Knowledge, Reach};
use crate::link::registry::NodeView;

/// What agents say of it, from when this leader began to listen.
#[derive(Debug)]
pub(super) struct Refusing {
    reached: Reached,
    started: Instant,
    /// Whether it has listened for a minute.
    has_listened: bool,
    /// Whether every agent has been there meanwhile that may be.
    has_heard_all: bool,
}

impl Refusing {
    pub(super) fn new(started: Instant) -> Self {
        Self { reached: Reached::default(), started, has_listened: false, has_heard_all: false }
    }

    /// Takes in what is new. `is_known` says which nodes are not lost, and `awaits` whether any of
    /// them has not come to this leader yet.
    pub(super) fn hear(
        &mut self,
        views: &BTreeMap<String, NodeView>,
        is_known: impl Fn(&str) -> bool,
        awaits: bool,
        now: Instant,
    ) {
        let elapsed = now.saturating_duration_since(self.started);
        self.has_listened |= HELD_FOR <= elapsed;
        self.has_heard_all |= self.has_listened && !awaits;
        for (node, view) in views {
            match &view.spends {
                // It serves on, and nobody understands what it says.
                _ if view.unspoken.is_some() => self.reached.older(node, elapsed),
                _ if !view.is_connected => self.reached.away(node, elapsed),
                Some(spends) => self.reached.says(node, spends, elapsed),
                None if view.is_sliced => self.reached.away(node, elapsed),
                None => self.reached.older(node, elapsed),
            }
        }
        self.reached.pass(is_known, elapsed);
    }

    /// When time alone changes something.
    pub(super) fn due(&self) -> Option<Instant> {
        let listened = (!self.has_listened).then_some(HELD_FOR);
        let due = self.reached.due().into_iter().chain(listened).min();
        due.map(|due| self.started + due)
    }

    /// What a tenant has come up against. That what nobody says is not so is known when all agents
    /// have had their time to come and say it, and of one that `is_young` from the first: before this
    /// leader there was nothing to come up against.
    pub(super) fn of(&self, tenant: &Name, is_young: bool) -> Reach {
        let knowledge = if !self.has_heard_all && !is_young {
            Knowledge::NotYet
        } else if self.reached.has_older() {
            Knowledge::InPart
        } else {
            Knowledge::All
        };
        Reach { bites: self.reached.of(tenant), knowledge }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use realm_plan::{
        reached::{Bites, EachReached, Limit},
        shares::Spends,
    };
    use realm_proto::link::versions::Versions;

    use super::*;

    fn acme() -> Name {
        Name::new("default", "acme").unwrap()
    }

    /// Of an agent that says this of limits, if it says anything.
    fn view(reached: Option<&[Limit]>) -> NodeView {
        let each = |limits: &[Limit]| {
            let mut each = EachReached::default();
            for (is_reached, limit) in each.iter_mut().zip(Limit::ALL) {
                *is_reached = limits.contains(&limit);
            }
            each
        };
        let reached = reached.map(|limits| [(acme(), each(limits))].into());
        let spends = Some(Arc::new(Spends { reached, ..Spends::default() }));
        NodeView { is_connected: true, is_sliced: true, spends, ..NodeView::default() }
    }

    fn hear(refusing: &mut Refusing, view: NodeView, now: Instant) -> Reach {
        refusing.hear(&[("n".to_owned(), view)].into(), |_| true, false, now);
        refusing.of(&acme(), false)
    }

    #[test]
    fn a_leader_knows_that_nothing_is_refused_when_it_has_listened_for_a_minute() {
        let now = Instant::now();
        let mut refusing = Refusing::new(now);
        assert_eq!(refusing.due(), Some(now + HELD_FOR));
        let early = hear(&mut refusing, view(Some(&[])), now + HELD_FOR / 2);
        assert_eq!(early.knowledge, Knowledge::NotYet);
        assert_eq!(refusing.of(&acme(), true).knowledge, Knowledge::All, "it is new");
        let later = hear(&mut refusing, view(Some(&[])), now + HELD_FOR);
        assert_eq!((later.knowledge, refusing.due()), (Knowledge::All, None));
    }

    #[test]
    fn a_leader_does_not_know_that_nothing_is_refused_before_all_agents_have_come_or_are_lost() {
        let now = Instant::now();
        let mut refusing = Refusing::new(now);
        refusing.hear(&BTreeMap::new(), |_| true, true, now + HELD_FOR);
        assert_eq!(refusing.of(&acme(), false).knowledge, Knowledge::NotYet);
        assert_eq!(refusing.due(), None, "that is not for time to say");
        refusing.hear(&BTreeMap::new(), |_| true, false, now + HELD_FOR);
        assert_eq!(refusing.of(&acme(), false).knowledge, Knowledge::All);
        refusing.hear(&BTreeMap::new(), |_| true, true, now + HELD_FOR);
        assert_eq!(refusing.of(&acme(), false).knowledge, Knowledge::All, "it stays so");
    }

    #[test]
    fn what_is_refused_is_known_at_once_and_for_a_minute_after_its_agent_went() {
        let now = Instant::now();
        let mut refusing = Refusing::new(now);
        let bites = Bites { limits: vec![Limit::Calls], doors: 1, ..Bites::default() };
        assert_eq!(hear(&mut refusing, view(Some(&[Limit::Calls])), now).bites, bites);
        let late = now + HELD_FOR;
        // It has come again and said nothing yet.
        let unsaid = NodeView { spends: None, ..view(None) };
        assert_eq!(hear(&mut refusing, unsaid.clone(), late).bites, bites);
        assert_eq!(refusing.due(), Some(late + HELD_FOR));
        assert_eq!(hear(&mut refusing, unsaid, late + HELD_FOR).bites, Bites::default());
    }

    #[test]
    fn an_agent_of_another_release_leaves_open_what_it_refuses() {
        let now = Instant::now();
        let unsliced = NodeView { is_sliced: false, spends: None, ..view(None) };
        let unspoken = NodeView { unspoken: Some(Versions::said(9, 9)), ..NodeView::default() };
        for older in [view(None), unsliced, unspoken] {
            let mut refusing = Refusing::new(now);
            assert_eq!(hear(&mut refusing, older, now).knowledge, Knowledge::NotYet);
            let later = hear(&mut refusing, NodeView::default(), now + HELD_FOR);
            assert_eq!(later.knowledge, Knowledge::InPart, "it may come back");
        }
    }
}
