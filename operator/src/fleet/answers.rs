//! Which objects have a new spec that an agent has yet to say anything of.

use std::collections::{BTreeMap, BTreeSet};

use realm_plan::{Kind, Name};

type Object = (Kind, Name);

/// Turns that told agents of new specs, until all of those agents have answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Objects whose newest spec has been told to nobody yet.
    untold: BTreeSet<Object>,
    /// As many as there are turns in the time that the slowest connected agent takes to answer or
    /// to be given up.
    rounds: Vec<Round>,
}

#[derive(Debug)]
struct Round {
    objects: BTreeSet<Object>,
    /// The generation of the state that each agent got.
    told: BTreeMap<String, u64>,
}

impl Answers {
    /// Notes that an object has a new spec.
    pub(super) fn expect(&mut self, object: Object) {
        self.untold.insert(object);
    }

    pub(super) fn forget(&mut self, object: &Object) {
        self.untold.remove(object);
        for round in &mut self.rounds {
            round.objects.remove(object);
        }
    }

    /// Notes whom a turn told of all that is new.
    pub(super) fn tell(&mut self, told: BTreeMap<String, u64>) {
        let objects = std::mem::take(&mut self.untold);
        if !objects.is_empty() && !told.is_empty() {
            self.rounds.push(Round { objects, told });
        }
    }

    /// Forgets what `is_answered`: whether a node has said what became of a generation, or is not
    /// there to be waited for.
    pub(super) fn hear(&mut self, is_answered: impl Fn(&str, u64) -> bool) {
        self.rounds.retain_mut(|Round { objects, told }| {
            told.retain(|node, generation| !is_answered(node, *generation));
            !told.is_empty() && !objects.is_empty()
        });
    }

    /// Objects of which somebody has yet to answer.
    pub(super) fn awaited(&self) -> BTreeSet<&Object> {
        self.rounds.iter().flat_map(|round| &round.objects).chain(&self.untold).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Object {
        (Kind::Tenant, Name::new("default", name).unwrap())
    }

    fn told(nodes: &[(&str, u64)]) -> BTreeMap<String, u64> {
        nodes.iter().map(|(node, generation)| ((*node).to_owned(), *generation)).collect()
    }

    fn awaited(answers: &Answers) -> Vec<String> {
        answers.awaited().into_iter().map(|(_, name)| name.to_string()).collect()
    }

    #[test]
    fn an_object_is_answered_when_everybody_who_was_told_has_said_so() {
        let mut answers = Answers::default();
        answers.expect(object("a"));
        assert_eq!(awaited(&answers), ["default/a"], "nobody has been told yet");
        answers.tell(told(&[("n1", 7), ("n2", 7)]));
        answers.expect(object("b"));
        answers.tell(told(&[("n2", 8)]));
        answers.hear(|node, generation| node == "n1" && generation <= 8);
        assert_eq!(awaited(&answers), ["default/a", "default/b"]);
        answers.hear(|_, generation| generation <= 7);
        assert_eq!(awaited(&answers), ["default/b"]);
        answers.hear(|_, generation| generation <= 8);
        assert!(awaited(&answers).is_empty() && answers.rounds.is_empty());
    }

    #[test]
    fn what_nobody_is_told_of_needs_no_answer_and_what_is_gone_neither() {
        let mut answers = Answers::default();
        answers.expect(object("a"));
        answers.tell(told(&[]));
        assert!(awaited(&answers).is_empty());
        answers.expect(object("a"));
        answers.tell(told(&[("n1", 7)]));
        answers.forget(&object("a"));
        answers.hear(|_, _| false);
        assert!(awaited(&answers).is_empty() && answers.rounds.is_empty());
    }

    #[test]
    fn a_newer_spec_waits_for_its_own_answer() {
        let mut answers = Answers::default();
        for generation in [7, 8] {
            answers.expect(object("a"));
            answers.tell(told(&[("n1", generation)]));
        }
        answers.hear(|_, generation| generation <= 7);
        assert_eq!(awaited(&answers), ["default/a"]);
    }
}
